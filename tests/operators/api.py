"""Objects of a test's API server as plain dictionaries, of every kind that it serves, through the official client."""

import json
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.dynamic import DynamicClient

Object = dict[str, Any]
APPLY = "application/apply-patch+yaml"


class Api:
    """One user's view. All methods raise kubernetes.client.ApiException, with `status` and `body`, where the server refuses."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        settings.proxy = None  # no proxy of the environment stands between a test and its own machine
        self.client = client.ApiClient(settings)
        """For the typed interfaces: client.CoreV1Api(api.client)."""
        self._dynamic = DynamicClient(self.client, cache_file=str(kubeconfig.with_suffix(".discovered.json")))

    def create(self, manifest: Object, namespace: str | None = None, *, dry_run: bool = False) -> Object:
        """Make an object; returns it as the server has it."""
        kind = self._kind(manifest["apiVersion"], manifest["kind"])
        return kind.create(manifest, namespace=namespace, dry_run="All" if dry_run else None, serializer=_plain)

    def apply(self, manifest: Object, namespace: str | None = None) -> Object:
        """Make an object, or change it to what the manifest says, by server-side apply."""
        kind = self._kind(manifest["apiVersion"], manifest["kind"])
        return self.apply_text(kind.path(name=manifest["metadata"]["name"], namespace=namespace), json.dumps(manifest))

    def apply_text(self, path: str, manifest: str) -> Object:
        """The same with a manifest as text, sent as it is."""
        return self._dynamic.request(
            "PATCH", path, body=manifest, content_type=APPLY, field_manager="tests", force_conflicts=True, serializer=_plain
        )

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object:
        return self._kind(api_version, kind).get(name=name, namespace=namespace, serializer=_plain)

    def list(self, api_version: str, kind: str, namespace: str | None = None, selector: str | None = None) -> list[Object]:
        """Objects that a label selector finds, in the order of their names."""
        found = self._kind(api_version, kind).get(namespace=namespace, label_selector=selector, serializer=_plain)
        return sorted(found["items"], key=lambda item: item["metadata"]["name"])

    def patch(self, api_version: str, kind: str, name: str, namespace: str | None, change: Object) -> Object:
        """Change an object by a merge patch (RFC 7386)."""
        body = {"metadata": {"name": name}} | change
        return self._kind(api_version, kind).patch(
            body, namespace=namespace, content_type="application/merge-patch+json", serializer=_plain
        )

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> None:
        """Ask for an object's end; what it owns goes with it, in the background."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        self._kind(api_version, kind).delete(name=name, namespace=namespace, body=body, serializer=_plain)

    def close(self) -> None:
        self.client.close()

    def _kind(self, api_version: str, kind: str) -> Any:
        return self._dynamic.resources.get(api_version=api_version, kind=kind)


def _plain(_: DynamicClient, value: Any) -> Any:
    """Instead of the client's objects, whose fields are None where there are none."""
    return value
