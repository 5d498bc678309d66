"""Kubeflow's operators in the local cluster: from their own modules' manifests, with images of the programs that we build.

Both modules define the CRD mpijobs.kubeflow.org, in versions that exclude each other. mpi-operator's v2beta1 is the one that we
use: training-operator's is left out, and that operator is started for PyTorchJob alone. mpi-operator 0.8.2 may not update the
status of a Job by its own role, without which a stopped MPIJob never goes on (docs/gitops.md): it is given that right.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from k8s.kind.commands import run
from k8s.kind.docker import Docker
from k8s.kind.toolbox import Toolbox

Manifest = dict[str, Any]

NAMES = ("training-operator", "mpi-operator")
NAMESPACES = {"training-operator": "kubeflow", "mpi-operator": "mpi-operator"}


def manifests(toolbox: Toolbox, name: str) -> list[Manifest]:
    """All objects of an operator, ready to be applied."""
    overlay = toolbox.source(name) / "manifests" / "overlays" / "standalone"
    text = run([toolbox.path("kubectl"), "kustomize", overlay], 60.0)
    objects = [item for item in yaml.load_all(text, yaml.CSafeLoader) if item]
    ask_often(objects)
    return with_pytorchjob_alone(objects) if name == "training-operator" else [*objects, *_may_resume(NAMESPACES[name])]


def with_pytorchjob_alone(objects: Sequence[Manifest]) -> list[Manifest]:
    """training-operator's objects without the MPIJob that mpi-operator serves."""
    kept = [
        item
        for item in objects
        if not (item["kind"] == "CustomResourceDefinition" and item["metadata"]["name"] == "mpijobs.kubeflow.org")
    ]
    for container in _containers(kept):
        container["command"] = [*container["command"], "--enable-scheme=pytorchjob"]
    return kept


def ask_often(objects: Sequence[Manifest]) -> None:
    """Let a pod count as ready when it is: training-operator's probe asks every 15 s, first after 10."""
    for container in _containers(objects):
        if "readinessProbe" in container:
            container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1}


def import_image(docker: Docker, program: Path, objects: Sequence[Manifest]) -> str:
    """Make the image that an operator's Deployment names; returns its name."""
    (container,) = _containers(objects)
    entry: list[str] = container.get("command") or [f"/opt/{program.name}"]
    docker.import_files(container["image"], {entry[0]: program}, entry[:1])
    return str(container["image"])


def _containers(objects: Sequence[Manifest]) -> list[Manifest]:
    return [
        container
        for item in objects
        if item["kind"] == "Deployment"
        for container in item["spec"]["template"]["spec"]["containers"]
    ]


def _may_resume(namespace: str) -> list[Manifest]:
    name = "mpi-operator-resume"
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{"apiGroups": ["batch"], "resources": ["jobs/status"], "verbs": ["update"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "mpi-operator", "namespace": namespace}],
        },
    ]
