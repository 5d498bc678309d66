"""The operators' own CRDs, rights and webhook, read from the Go modules that the operators are built from.

Both modules define the CRD mpijobs.kubeflow.org, in versions that exclude each other: mpi-operator's v2beta1 is the one that we
use, so training-operator's is left out and it is started with PyTorchJob alone.
"""

import base64
from pathlib import Path

import yaml
from kubernetes.client import ApiException

from k8s.kind.toolbox import Toolbox
from tests.operators.api import Api, Object
from tests.operators.processes import wait_until

WEBHOOK_SECRET = "training-operator-webhook-cert"
_WEBHOOK_NAME = "validator.training-operator.kubeflow.org"  # the operator looks for this name to put its certificate in
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install(api: Api, toolbox: Toolbox, webhook_address: str, webhook_port: int) -> None:
    """All that the operators find in a cluster when they start. May be called again."""
    training, mpi = toolbox.source("training-operator") / "manifests", toolbox.source("mpi-operator") / "manifests"
    pytorchjobs, mpijobs = training / "base/crds/kubeflow.org_pytorchjobs.yaml", mpi / "base/kubeflow.org_mpijobs.yaml"
    api.apply_text(f"{_CRDS}/pytorchjobs.kubeflow.org", pytorchjobs.read_text())
    api.apply_text(f"{_CRDS}/mpijobs.kubeflow.org", mpijobs.read_text())
    for namespace, folder in (("kubeflow", training / "base/rbac"), ("mpi-operator", mpi / "base")):
        api.apply(_named("v1", "Namespace", namespace))
        _install_rights(api, folder, namespace)
    _install_webhook(api, training / "base/webhook/manifests.yaml", webhook_address, webhook_port)
    for crd in ("pytorchjobs", "mpijobs"):
        wait_until(lambda crd=crd: _established(api, f"{crd}.kubeflow.org"), f"{crd} are served")


def read_webhook_secret(api: Api) -> dict[str, bytes]:
    """The certificate files that training-operator has made for its webhook; empty before it has."""
    data = api.get("v1", "Secret", WEBHOOK_SECRET, "kubeflow").get("data") or {}
    return {name: base64.b64decode(value) for name, value in data.items()}


def webhook_rejects(api: Api) -> bool:
    """Whether the API server reaches the webhook: asked to check a job of a bad name, without making it."""
    job = _named("kubeflow.org/v1", "PyTorchJob", "1-bad-name") | {"spec": {"pytorchReplicaSpecs": {}}}
    try:
        api.create(job, "default", dry_run=True)
    except ApiException as error:
        return "denied the request" in str(error.body)
    return False


def _established(api: Api, name: str) -> bool:
    crd = api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    return any(
        condition["type"] == "Established" and condition["status"] == "True"
        for condition in crd["status"].get("conditions") or []
    )


def _install_rights(api: Api, folder: Path, namespace: str) -> None:
    for file in sorted(folder.glob("*role*.yaml")):
        for manifest in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            for subject in manifest.get("subjects", []):
                subject["namespace"] = namespace  # which the module's kustomization would fill in
            api.apply(manifest)


def _install_webhook(api: Api, file: Path, address: str, port: int) -> None:
    """The webhook's configuration as shipped, and a Service whose endpoint is the operator's process on this machine.

    The API server goes straight to a service's endpoints (--enable-aggregator-routing), so no route to a cluster IP is needed,
    and it expects the certificate of the service's name, which is the one that the operator makes.
    """
    api.apply(_named("v1", "Secret", WEBHOOK_SECRET), "kubeflow")
    service_port = {"name": "webhook-server", "protocol": "TCP"}
    service = _named("v1", "Service", "training-operator") | {
        "spec": {"ports": [service_port | {"port": 443, "targetPort": port}]}
    }
    api.apply(service, "kubeflow")
    endpoints = _named("discovery.k8s.io/v1", "EndpointSlice", "training-operator") | {
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [service_port | {"port": port}],
    }
    endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": "training-operator"}
    api.apply(endpoints, "kubeflow")
    configuration = yaml.load(file.read_text(), yaml.CSafeLoader)
    configuration["metadata"]["name"] = _WEBHOOK_NAME
    configuration["webhooks"] = [hook for hook in configuration["webhooks"] if hook["rules"][0]["resources"] == ["pytorchjobs"]]
    for hook in configuration["webhooks"]:
        hook["clientConfig"]["service"] |= {"name": "training-operator", "namespace": "kubeflow"}
    api.apply(configuration)


def _named(api_version: str, kind: str, name: str) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
