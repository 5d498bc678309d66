"""What the local cluster is made of, as far as no cluster is needed to see it."""

from k8s.kind.debian import mirror
from k8s.kind.docker import may_have_sys_resource
from k8s.kind.local_cluster import namespace_objects, qualified
from k8s.kind.node_image import image_names, storage_manifest
from k8s.kind.operators import ask_often, with_pytorchjob_alone
from tests.kind.stories import merged

STORAGE = """
kind: Deployment
spec: {path: /opt/local-path-provisioner, image: rancher/local-path-provisioner:v0.0.30}
---
kind: StorageClass
metadata:
  name: local-path
---
  helperPod: |-
    image: busybox
"""


def test_capabilities_are_read_from_the_bounding_set() -> None:
    assert may_have_sys_resource("CapEff:\t0\nCapBnd:\t000001ffffffffff\n")
    assert not may_have_sys_resource("CapEff:\t000001ffffffffff\nCapBnd:\t000001fffeffffff\n")


def test_mirror_is_the_one_that_apt_uses() -> None:
    assert mirror("Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n") == "http://mirror.example/debian"
    assert mirror("deb [arch=amd64] http://old.example/debian bookworm main\n") == "http://old.example/debian"
    assert mirror("").endswith("/debian")


def test_image_names_are_those_that_kubeadm_lists() -> None:
    listed = "registry.example/kube-proxy:v1.34.4\nregistry.example/coredns/coredns:v1.12.1\nregistry.example/pause:3.10.1\n"
    assert image_names(listed) == {
        "kube-proxy": "registry.example/kube-proxy:v1.34.4",
        "coredns": "registry.example/coredns/coredns:v1.12.1",
        "pause": "registry.example/pause:3.10.1",
    }


def test_storage_is_the_default_class_with_a_helper_that_is_there() -> None:
    text = storage_manifest(STORAGE, "registry.example/helper:1")
    assert "name: standard\n  annotations: {storageclass.kubernetes.io/is-default-class" in text
    assert "image: registry.example/helper:1" in text
    assert "busybox" not in text
    assert "/opt/" not in text


def test_training_operator_comes_without_the_other_operators_kind() -> None:
    def crd(name: str) -> dict[str, object]:
        return {"kind": "CustomResourceDefinition", "metadata": {"name": name}}

    container = {"name": "training-operator", "command": ["/manager"]}
    deployment = {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}
    kept = with_pytorchjob_alone([crd("mpijobs.kubeflow.org"), crd("pytorchjobs.kubeflow.org"), deployment])
    assert [item["kind"] for item in kept] == ["CustomResourceDefinition", "Deployment"]
    assert container["command"] == ["/manager", "--enable-scheme=pytorchjob"]


def test_operators_count_as_ready_when_they_are() -> None:
    slow = {"httpGet": {"path": "/readyz"}, "initialDelaySeconds": 10, "periodSeconds": 15}
    containers = [{"name": "probed", "readinessProbe": slow}, {"name": "unprobed"}]
    ask_often([{"kind": "Deployment", "spec": {"template": {"spec": {"containers": containers}}}}])
    assert containers[0]["readinessProbe"] == {"httpGet": {"path": "/readyz"}, "initialDelaySeconds": 1, "periodSeconds": 1}
    assert "readinessProbe" not in containers[1]


def test_namespace_of_runs_is_as_closed_as_a_careful_site_has_it() -> None:
    namespace, policy = namespace_objects("training")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_run_files_of_stories_merge_key_by_key() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


def test_names_of_images_are_qualified_as_containerd_has_them() -> None:
    assert qualified("pretrain-run:0.1.0") == "docker.io/library/pretrain-run:0.1.0"
    assert qualified("kubeflow/operator:v1") == "docker.io/kubeflow/operator:v1"
    for full in ("registry.k8s.io/pause:3.10", "localhost/pause:1", "host:5000/pause:1"):
        assert qualified(full) == full
