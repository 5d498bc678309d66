"""`launcher doctor` on a real cluster that lacks, one after the other, what a run needs."""

import json
from collections.abc import Iterator

import pytest

from k8s.cluster import Cluster
from k8s.doctor import examine
from k8s.helm import HelmPackage
from k8s.render import render
from k8s.rules import Finding
from k8s.run import load_run
from tests.chart.scenarios import FILES
from tests.operators.api import Object
from tests.operators.control_plane import ControlPlane
from tests.operators.processes import wait_until
from tests.operators.test_launcher import NO_PROXY, launcher

pytestmark = [pytest.mark.operators, pytest.mark.timeout(120)]

QUEUE_DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "localqueues.kueue.x-k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "LocalQueue", "plural": "localqueues", "singular": "localqueue", "listKind": "LocalQueueList"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, value in NO_PROXY.items():
        monkeypatch.setenv(name, value)
    return Cluster.connect(namespace, kubeconfig=control_plane.kubeconfig())


def found(cluster: Cluster, scenario: str | None = None, *overrides: str) -> dict[str, Finding]:
    """Findings by their code."""
    objects = render(load_run(FILES[scenario], overrides), cluster.namespace, HelmPackage()) if scenario else ()
    return {finding.code: finding for finding in examine(cluster, objects)}


@pytest.fixture
def node(control_plane: ControlPlane) -> Iterator[str]:
    """A node with four GPUs; there is no kubelet behind it."""
    api = control_plane.api()
    amount = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "4", "pods": "100"}
    api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-node"}})
    status = {"status": {"allocatable": amount, "capacity": amount}}
    Cluster.connect("default", kubeconfig=control_plane.kubeconfig()).patch("Node", "gpu-node", "v1", status, "status")
    yield "gpu-node"
    api.delete("v1", "Node", "gpu-node")


def test_a_bare_cluster_is_told_what_it_lacks(cluster: Cluster) -> None:
    """No node, no storage class, no DNS: each is a finding of its own with its way out."""
    findings = found(cluster, "job-elastic")
    assert findings["D050"].message.startswith("no node has so much cpu, memory; 0 nodes")
    assert "the cluster has no default" in findings["D040"].message
    assert findings["D070"].level == "risk"
    assert "D031" not in findings  # the namespace enforces `restricted`
    assert all(finding.fix for finding in findings.values())


def test_a_node_that_fits_is_found(cluster: Cluster, node: str) -> None:
    assert "D050" not in found(cluster, "job-elastic")
    gpus = found(cluster, "pytorchjob-gpu")["D050"]
    assert gpus.message.startswith("no node has so much cpu, memory, nvidia.com/gpu")
    small = ["gpusPerNode=4", "processesPerNode=4", "resources.requests.cpu=8", "resources.requests.memory=32Gi"]
    assert "D050" not in found(cluster, "pytorchjob-gpu", *small, "resources.limits.memory=32Gi", "shm.size=8Gi")


def test_storage_that_one_node_can_mount_is_named(control_plane: ControlPlane, cluster: Cluster) -> None:
    local: Object = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "rancher.io/local-path",
    }
    control_plane.api().create(local)
    try:
        assert "has no ReadWriteMany" in found(cluster, "job-elastic")["D042"].message
        assert "D042" not in found(cluster, "laptop")
        assert "there is no storage class shared; there: standard" in found(cluster, "everything")["D041"].message
    finally:
        control_plane.api().delete("storage.k8s.io/v1", "StorageClass", "standard")
    assert "there is no such claim" in found(cluster, "gitops")["D043"].message


def test_a_quota_that_is_too_small_is_named(control_plane: ControlPlane, cluster: Cluster) -> None:
    hard = {"requests.memory": "8Gi", "pods": "10"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
    control_plane.api().create(quota, cluster.namespace)

    def counted() -> bool:
        return "hard" in control_plane.api().get("v1", "ResourceQuota", "small", cluster.namespace).get("status", {})

    wait_until(counted, "the quota", 30)
    assert "requests.memory: 0 of 8Gi in use" in found(cluster, "job-elastic")["D032"].message
    assert "D032" not in found(cluster, "job-elastic", "nodes=1")


def test_queues_and_priority_classes_must_be_there(control_plane: ControlPlane, cluster: Cluster) -> None:
    assert "Kueue is not installed" in found(cluster, "job-kueue")["D060"].message
    assert "there is no such class" in found(cluster, "pytorchjob-gpu")["D062"].message
    control_plane.api().apply(QUEUE_DEFINITION)
    try:
        fresh = lambda: Cluster.connect(cluster.namespace, kubeconfig=control_plane.kubeconfig())  # noqa: E731
        wait_until(lambda: "D061" in found(fresh(), "job-kueue"), "the queue's absence to be told", 30)
        queue = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue", "metadata": {"name": "research"}}
        wait_until(lambda: _created(fresh(), queue), "the queue", 30)
        assert not {"D060", "D061"} & set(found(fresh(), "job-kueue"))
    finally:
        control_plane.api().delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "localqueues.kueue.x-k8s.io")


def _created(cluster: Cluster, queue: Object) -> bool:
    cluster.apply(queue)
    return True


def test_operators_are_judged_by_their_deployments(control_plane: ControlPlane, cluster: Cluster) -> None:
    """Here they run as processes; a Deployment stands for what a cluster would have."""
    assert "no Deployment of training-operator" in found(cluster, "pytorchjob-elastic")["D012"].message
    container = {"name": "operator", "image": "ghcr.io/kubeflow/training-operator:v1.9.0", "command": ["/manager"]}
    labels = {"app": "training-operator"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "training-operator"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    control_plane.api().create(deployment, cluster.namespace)
    findings = found(cluster, "pytorchjob-elastic")
    assert "is not ready" in findings["D013"].message
    assert "training-operator 1.9.0 is older than 1.9.4" in findings["D014"].message
    assert "--enable-scheme=pytorchjob" in findings["D015"].fix


def test_mpi_operators_own_role_cannot_resume(control_plane: ControlPlane, cluster: Cluster) -> None:
    """As the operator's release ships it; a cluster whose role was mended is told nothing."""
    assert "a stopped MPIJob cannot be resumed" in found(cluster, "mpijob")["D016"].message
    role = control_plane.api().get("rbac.authorization.k8s.io/v1", "ClusterRole", "mpi-operator")
    more = {"apiGroups": ["batch"], "resources": ["jobs/status"], "verbs": ["update", "patch"]}
    change = {"rules": [*role["rules"], more]}
    control_plane.api().patch("rbac.authorization.k8s.io/v1", "ClusterRole", "mpi-operator", None, change)
    try:
        assert "D016" not in found(cluster, "mpijob")
    finally:
        control_plane.api().patch("rbac.authorization.k8s.io/v1", "ClusterRole", "mpi-operator", None, {"rules": role["rules"]})


def test_a_missing_namespace_and_missing_rights_are_told(control_plane: ControlPlane, cluster: Cluster) -> None:
    nowhere = Cluster.connect("nowhere", kubeconfig=control_plane.kubeconfig())
    assert found(nowhere)["D030"].fix == "kubectl create namespace nowhere"
    viewer = Cluster.connect(cluster.namespace, kubeconfig=control_plane.kubeconfig("viewer"))
    findings = found(viewer)
    assert "you may not" in findings["D020"].message
    assert 'User "viewer" cannot list' in findings["D000"].message


def test_doctor_as_a_command(control_plane: ControlPlane, namespace: str) -> None:
    ended = launcher(control_plane, "doctor", "-n", namespace, "-f", str(FILES["job-elastic"]), "--json")
    assert ended.returncode == 1, ended.stderr
    findings = json.loads(ended.stdout)
    assert {"code", "level", "where", "message", "fix"} <= set(findings[0])
    assert [finding["level"] for finding in findings] == sorted(finding["level"] for finding in findings)
