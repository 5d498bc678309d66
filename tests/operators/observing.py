"""What a test looks at: pods, their environment, conditions; each wait has a deadline and says what it saw instead."""

from kubernetes.client import ApiException

from tests.operators.api import Object
from tests.operators.control_plane import ControlPlane
from tests.operators.processes import wait_until

DEADLINE_S = 30.0


def names(objects: list[Object]) -> list[str]:
    return [found["metadata"]["name"] for found in objects]


def pods(control_plane: ControlPlane, namespace: str, selector: str | None = None) -> list[Object]:
    """Pods by name, without those that are on their way out."""
    found = control_plane.api().list("v1", "Pod", namespace, selector)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def wait_for_pods(
    control_plane: ControlPlane, namespace: str, expected: list[str], selector: str | None = None
) -> list[Object]:
    """Until there are exactly the pods of these names; returns them."""

    def seen() -> list[str]:
        return names(pods(control_plane, namespace, selector))

    wait_until(lambda: seen() == expected, f"pods {expected}", DEADLINE_S, lambda: f"there are {seen()}")
    return pods(control_plane, namespace, selector)


def wait_for_condition(control_plane: ControlPlane, manifest: Object, namespace: str, condition: str) -> None:
    """Until this condition of the manifest's object is True."""
    identity = (manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"], namespace)

    def seen() -> dict[str, str]:
        return conditions(control_plane.api().get(*identity))

    wait_until(lambda: seen().get(condition) == "True", f"{condition} of {identity}", DEADLINE_S, lambda: f"there is {seen()}")


def environment(pod: Object) -> dict[str, str]:
    """Variables of a pod's only container; empty text for one that is taken from elsewhere."""
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def conditions(found: Object) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in found.get("status", {}).get("conditions") or []}


def allowed(control_plane: ControlPlane, user: str, kind: str, namespace: str) -> bool:
    """Whether a user may list a kind of the core group now."""
    try:
        control_plane.api(user).list("v1", kind, namespace)
    except ApiException as error:
        if error.status != 403:
            raise
        return False
    return True
