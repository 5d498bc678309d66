"""The control plane that other tests stand on: what the operators and Kubernetes really do with a job that we hand over."""

import signal

import pytest
from kubernetes.client import ApiException

from tests.operators import jobs
from tests.operators.api import Object
from tests.operators.control_plane import ControlPlane
from tests.operators.observing import DEADLINE_S, allowed, environment, names, pods, wait_for_condition, wait_for_pods
from tests.operators.processes import wait_until

pytestmark = pytest.mark.operators

RUN_A, RUN_C = ["run-a-worker-0", "run-a-worker-1"], ["run-c-worker-0", "run-c-worker-1"]
RBAC = "rbac.authorization.k8s.io"


def test_both_operators_kinds_are_served(control_plane: ControlPlane, namespace: str) -> None:
    assert control_plane.api().list("kubeflow.org/v1", "PyTorchJob", namespace) == []
    assert control_plane.api().list("kubeflow.org/v2beta1", "MPIJob", namespace) == []


def test_elastic_pytorchjob_gets_pods_services_and_the_elastic_environment(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.elastic_pytorchjob("run-a"), namespace)
    first, second = wait_for_pods(control_plane, namespace, RUN_A)
    assert environment(first) == {
        "PYTHONUNBUFFERED": "1",
        "PET_NPROC_PER_NODE": "2",
        "PET_RDZV_ENDPOINT": "run-a-worker-0:23456",
        "PET_RDZV_BACKEND": "c10d",
        "PET_NNODES": "1:3",
        "PET_MAX_RESTARTS": "7",
        "PET_RDZV_ID": "run-a",
        "PET_RDZV_CONF": "last_call_timeout=3,join_timeout=900",
    }
    assert environment(second) == environment(first)
    assert "initContainers" not in first["spec"]

    def services() -> list[tuple[str, str]]:
        found = control_plane.api().list("v1", "Service", namespace)
        return [(service["metadata"]["name"], service["spec"]["clusterIP"]) for service in found]

    wait_until(lambda: len(services()) == 2, "two services", DEADLINE_S)
    assert services() == [(name, "None") for name in RUN_A]


def test_scaling_a_pytorchjob_makes_and_removes_pods(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.elastic_pytorchjob("run-a"), namespace)
    wait_for_pods(control_plane, namespace, RUN_A)
    for replicas in (3, 1):
        change = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": replicas}}}}
        control_plane.api().patch("kubeflow.org/v1", "PyTorchJob", "run-a", namespace, change)
        wait_for_pods(control_plane, namespace, [f"run-a-worker-{n}" for n in range(replicas)])


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        (jobs.elastic_pytorchjob("1-begins-with-a-digit"), "metadata.name"),
        (jobs.elastic_pytorchjob("run-a", container="trainer"), "must have at least one container with name pytorch"),
    ],
    ids=["name that begins with a digit", "container that is not called pytorch"],
)
def test_webhook_rejects_a_wrong_pytorchjob(control_plane: ControlPlane, namespace: str, job: Object, complaint: str) -> None:
    with pytest.raises(ApiException) as refusal:
        control_plane.api().create(job, namespace)
    body = str(refusal.value.body)
    assert "validator.pytorchjob.training-operator.kubeflow.org" in body
    assert "denied the request" in body
    assert complaint in body


def test_one_workers_success_ends_an_elastic_pytorchjob_and_the_other_workers(
    control_plane: ControlPlane, namespace: str
) -> None:
    job = jobs.elastic_pytorchjob("run-a")
    control_plane.api().create(job, namespace)
    for pod in wait_for_pods(control_plane, namespace, RUN_A):
        control_plane.set_pod_phase(namespace, pod["metadata"]["name"], "Running")
    wait_for_condition(control_plane, job, namespace, "Running")
    control_plane.set_pod_phase(namespace, "run-a-worker-1", "Succeeded")
    wait_for_condition(control_plane, job, namespace, "Succeeded")
    wait_for_pods(control_plane, namespace, ["run-a-worker-1"])


def test_failed_pod_of_a_pytorchjob_is_made_anew(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.elastic_pytorchjob("run-a"), namespace)
    _, lost = wait_for_pods(control_plane, namespace, RUN_A)
    control_plane.set_pod_phase(namespace, "run-a-worker-1", "Failed", exit_code=137)

    def replaced() -> bool:
        now = pods(control_plane, namespace)
        return names(now) == RUN_A and now[1]["metadata"]["uid"] != lost["metadata"]["uid"]

    wait_until(replaced, "another run-a-worker-1", DEADLINE_S)


def test_restarts_that_a_test_claims_are_seen_by_all(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.pod("one"), namespace)
    control_plane.set_pod_phase(namespace, "one", "Running", exit_code=143, restart_count=3, message="preempted at step 12")
    status = control_plane.api().get("v1", "Pod", "one", namespace)["status"]
    (container,) = status["containerStatuses"]
    assert (status["phase"], container["ready"], container["restartCount"]) == ("Running", True, 3)
    assert container["lastState"]["terminated"]["exitCode"] == 143
    assert container["lastState"]["terminated"]["message"] == "preempted at step 12"


def test_indexed_job_gets_a_pod_for_each_index_and_ends_with_them(control_plane: ControlPlane, namespace: str) -> None:
    job = jobs.indexed_job("run-b")
    control_plane.api().create(job, namespace)
    wait_until(lambda: len(pods(control_plane, namespace, "job-name=run-b")) == 2, "two pods", DEADLINE_S)
    found = pods(control_plane, namespace)
    assert ["JOB_COMPLETION_INDEX" in environment(pod) for pod in found] == [True, True]
    indices = {pod["spec"]["hostname"]: pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in found}
    assert indices == {"run-b-0": "0", "run-b-1": "1"}
    for name in names(found):
        control_plane.set_pod_phase(namespace, name, "Succeeded")
    wait_for_condition(control_plane, job, namespace, "Complete")


def test_mpijob_gets_service_hostfile_key_workers_and_launcher(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api()
    api.create(jobs.mpijob("run-c"), namespace)
    wait_for_pods(control_plane, namespace, RUN_C, "training.kubeflow.org/job-role=worker")
    wait_until(lambda: bool(pods(control_plane, namespace, "job-name=run-c-launcher")), "the launcher's pod", DEADLINE_S)
    assert names(api.list("batch/v1", "Job", namespace)) == ["run-c-launcher"]
    hostfile = api.get("v1", "ConfigMap", "run-c-config", namespace)["data"]["hostfile"]
    assert hostfile == "".join(f"{worker}.run-c.{namespace}.svc slots=2\n" for worker in RUN_C)
    assert set(api.get("v1", "Secret", "run-c-ssh", namespace)["data"]) == {"ssh-privatekey", "ssh-publickey"}
    assert api.get("v1", "Service", "run-c", namespace)["spec"]["clusterIP"] == "None"


def test_deleted_job_takes_its_pods_and_services_with_it(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.elastic_pytorchjob("run-a"), namespace)
    wait_for_pods(control_plane, namespace, RUN_A)
    control_plane.api().delete("kubeflow.org/v1", "PyTorchJob", "run-a", namespace)
    wait_for_pods(control_plane, namespace, [])
    wait_until(lambda: control_plane.api().list("v1", "Service", namespace) == [], "no services", DEADLINE_S)


def test_pod_that_breaks_restricted_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.pod("good"), namespace)
    with pytest.raises(ApiException) as refusal:
        control_plane.api().create(jobs.pod("bad", securityContext={"allowPrivilegeEscalation": True}), namespace)
    assert refusal.value.status == 403
    assert 'violates PodSecurity \\"restricted:latest\\": allowPrivilegeEscalation' in str(refusal.value.body)


def test_viewer_may_do_only_what_a_role_of_the_namespace_allows(control_plane: ControlPlane, namespace: str) -> None:
    assert not allowed(control_plane, "viewer", "Pod", namespace)
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    role = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": "look"}, "rules": rules}
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "look"},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "look"},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "viewer"}],
    }
    control_plane.api().create(role, namespace)
    control_plane.api().create(binding, namespace)
    wait_until(lambda: allowed(control_plane, "viewer", "Pod", namespace), "the right to list", DEADLINE_S)
    assert not allowed(control_plane, "viewer", "Secret", namespace)


def test_admission_policy_refuses_what_its_expression_says(control_plane: ControlPlane, namespace: str) -> None:
    group = "admissionregistration.k8s.io"
    metadata = {"name": namespace}  # policies belong to the whole cluster, so another test's must have another name
    policy = {
        "apiVersion": f"{group}/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata,
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["kubeflow.org"],
                        "apiVersions": ["v1"],
                        "operations": ["DELETE"],
                        "resources": ["pytorchjobs"],
                    }
                ]
            },
            "validations": [{"expression": "false", "message": "still running"}],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata,
        "spec": {"policyName": namespace, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}},
    }
    api = control_plane.api()
    api.create(policy)
    api.create(binding)

    def refused() -> bool:
        job = jobs.elastic_pytorchjob("run-a")
        if not api.list("kubeflow.org/v1", "PyTorchJob", namespace):
            api.create(job, namespace)
        try:
            api.delete("kubeflow.org/v1", "PyTorchJob", "run-a", namespace)
        except ApiException as error:
            return error.status == 422 and "still running" in str(error.body)
        return False

    wait_until(refused, "the policy is enforced", DEADLINE_S)
    api.delete(f"{group}/v1", "ValidatingAdmissionPolicyBinding", namespace)
    api.delete(f"{group}/v1", "ValidatingAdmissionPolicy", namespace)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "crashed"])
@pytest.mark.parametrize(
    ("operator", "job", "workers"),
    [
        ("training-operator", jobs.elastic_pytorchjob("run-a"), RUN_A),
        ("mpi-operator", jobs.mpijob("run-c"), RUN_C),
    ],
    ids=["training-operator", "mpi-operator"],
)
def test_operator_that_comes_back_makes_what_is_missing(
    control_plane: ControlPlane, namespace: str, operator: str, job: Object, workers: list[str], number: signal.Signals
) -> None:
    selector = f"training.kubeflow.org/job-name={job['metadata']['name']},training.kubeflow.org/job-role!=launcher"
    control_plane.api().create(job, namespace)
    wait_for_pods(control_plane, namespace, workers, selector)
    control_plane.stop(operator, number)
    assert not control_plane.running(operator)
    control_plane.api().delete("v1", "Pod", workers[1], namespace)
    wait_for_pods(control_plane, namespace, workers[:1], selector)
    control_plane.start(operator)
    wait_for_pods(control_plane, namespace, workers, selector)


def test_objects_outlive_a_crash_of_the_api_server(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api().create(jobs.pod("kept"), namespace)
    control_plane.restart("kube-apiserver", signal.SIGKILL)
    assert names(pods(control_plane, namespace)) == ["kept"]
