"""The local cluster: made, looked at, given images, taken down. Every step has a deadline and says how long it took.

up      docker, node image, kind's cluster, both operators, the namespace for runs; a second call only looks
load    a local image into the node, unless it is there
down    the cluster, and the docker daemon if it is ours
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.kind import operators, registry
from k8s.kind.commands import LocalClusterError, run, step, succeeds, wait_until
from k8s.kind.docker import FILES, Docker
from k8s.kind.node_image import PROGRAMS, node_image, node_image_that_is_here
from k8s.kind.registry import Registry
from k8s.kind.toolbox import Toolbox, default_cache

NAME = "pretrain-run"
NODE = f"{NAME}-control-plane"
NAMESPACE = "training"
_CREATE_S, _DELETE_S, _LOAD_S, _ROLLOUT_S, _KUBECTL_S = 300.0, 120.0, 900.0, 180.0, 60.0


@dataclass(frozen=True)
class LocalCluster:
    """One kind cluster on this machine, with a kubeconfig of its own."""

    docker: Docker
    toolbox: Toolbox
    folder: Path

    @staticmethod
    def find() -> "LocalCluster":
        """The cluster of this user, up or not. Raises LocalClusterError if there is no docker."""
        cache = default_cache().parent
        return LocalCluster(Docker.find(cache / "docker"), Toolbox(), cache / "kind")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    @property
    def _registry(self) -> Registry:
        return Registry(self.docker, self.toolbox)

    def up(self) -> None:
        """See to it that everything runs. Raises LocalClusterError, ToolError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.docker.answers():
            with step("starting dockerd"):
                self.docker.start()
        if not self.is_up():
            image = node_image(self.docker, self.toolbox)
            with step(f"creating the cluster from {image}"):
                self.kind("delete", "cluster", "--name", NAME, deadline_s=_DELETE_S)
                create = ["create", "cluster", "--name", NAME, "--config", str(FILES / "kind.yaml"), "--image", image]
                self.kind(*create, "--wait", "180s", deadline_s=_CREATE_S)
        for name in operators.NAMES:
            self._install(name)
        self.kubectl("uncordon", NODE)  # after stories that were killed
        self.apply(namespace_objects(NAMESPACE))

    def is_up(self) -> bool:
        """Whether the API server answers."""
        return self.kubeconfig.exists() and succeeds(self._kubectl("get", "--raw", "/readyz"), _KUBECTL_S)

    def down(self) -> None:
        """Take everything away but the caches: images and programs."""
        if self.docker.answers():
            with step("deleting the cluster"):
                self._registry.stop()
                self.kind("delete", "cluster", "--name", NAME, deadline_s=_DELETE_S)
        self.kubeconfig.unlink(missing_ok=True)
        if self.docker.stop():
            with step("ended dockerd"):
                pass

    def lacks(self, *images: str) -> list[str]:
        """What `up` and the stories of runs would have to build first: programs, the node's image, these images.

        Starts the docker daemon if need be. Raises LocalClusterError, ToolError.
        """
        self.docker.start()
        node = node_image_that_is_here(self.docker, self.toolbox)
        programs = ["kind", "kubectl", "helm", registry.PROGRAM, *operators.NAMES, *(() if node else PROGRAMS)]
        lacking = [name for name in dict.fromkeys(programs) if not self.toolbox.has(name)]
        return [*lacking, *([] if node else ["node image"]), *(image for image in images if not self.docker.has(image))]

    def load(self, image: str) -> None:
        """Put a local image into the node's store, by way of the registry, if it is not there as it is here."""
        if self.holds(image):
            return
        with step(f"loading {image}"):
            ctr = ["ctr", "--namespace=k8s.io", "images"]
            pushed = self._registry.push(image)
            self.node(*ctr, "pull", "--plain-http", "--snapshotter=overlayfs", pushed, deadline_s=_LOAD_S)
            self.node(*ctr, "tag", "--force", pushed, qualified(image))
            wait_until(lambda: self.holds(image), f"the kubelet's container runtime has {image}", _KUBECTL_S)

    def holds(self, image: str) -> bool:
        """Whether the node has this local image as it is here. Raises LocalClusterError if it is not here."""
        return self.docker.identity(image) in self.node("crictl", "images", "--no-trunc", "--output", "json")

    def status(self) -> dict[str, Any]:
        """What runs, as plain values."""
        if not self.docker.answers() or not self.is_up():
            return {"up": False, "kubeconfig": str(self.kubeconfig)}
        (node,) = self.objects("nodes")
        ready = {each["type"]: each["status"] for each in node["status"]["conditions"]}.get("Ready")
        deployments = {
            name: self.objects("deployments", "--namespace", operators.NAMESPACES[name])[0].get("status", {})
            for name in operators.NAMES
        }
        return {
            "up": True,
            "kubeconfig": str(self.kubeconfig),
            "kubernetes": node["status"]["nodeInfo"]["kubeletVersion"],
            "node_ready": ready == "True",
            "operators": {name: status.get("availableReplicas", 0) for name, status in deployments.items()},
            "namespace": NAMESPACE,
        }

    def save_artefacts(self, folder: Path) -> None:
        """What somebody needs who was not there: events, objects, logs of nodes and pods, as far as they are there."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds = "pods,services,persistentvolumeclaims,networkpolicies,jobs.batch,pytorchjobs,mpijobs,configmaps"
        for name, words in {
            "events.txt": ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
            "objects.yaml": ["get", kinds, "--all-namespaces", "--output", "yaml"],
            "nodes.txt": ["describe", "nodes"],
        }.items():
            with suppress(LocalClusterError):
                (folder / name).write_text(self.kubectl(*words))
        with suppress(LocalClusterError):
            self.kind("export", "logs", str(folder / "logs"), "--name", NAME, deadline_s=_DELETE_S)

    def apply(self, objects: Sequence[Any]) -> None:
        """Server-side apply."""
        text = yaml.safe_dump_all(objects)
        words = self._kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-")
        run(words, _KUBECTL_S, text=text)

    def objects(self, kind: str, *words: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "--output", "json", *words))["items"]
        return items

    def kubectl(self, *words: str, deadline_s: float = _KUBECTL_S) -> str:
        """One kubectl command as administrator. Raises LocalClusterError."""
        return run(self._kubectl(*words), deadline_s)

    def kind(self, *words: str, deadline_s: float) -> str:
        """One kind command. Raises LocalClusterError."""
        # kind takes the first docker of PATH
        path = f"{Path(self.docker.command).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {"KUBECONFIG": str(self.kubeconfig), "PATH": path}
        return run([self.toolbox.path("kind"), *words], deadline_s, environment=environment)

    def node(self, *words: str, deadline_s: float = _KUBECTL_S) -> str:
        """One command on the node. Raises LocalClusterError."""
        return self.docker("exec", NODE, *words, deadline_s=deadline_s)

    def _install(self, name: str) -> None:
        namespace = operators.NAMESPACES[name]
        rollout = ["rollout", "status", f"deployment/{name}", "--namespace", namespace]
        if self._runs(name):
            return
        objects = operators.manifests(self.toolbox, name)
        with step(f"installing {name}"):
            self.load(operators.import_image(self.docker, self.toolbox.path(name), objects))
            self.apply(objects)
            self.kubectl(*rollout, f"--timeout={_ROLLOUT_S:.0f}s", deadline_s=_ROLLOUT_S + 10)

    def _runs(self, name: str) -> bool:
        """Whether an operator does; a rollout of none would count as well."""
        available = ["get", "deployment", name, "--namespace", operators.NAMESPACES[name]]
        try:
            return self.kubectl(*available, "--output", "jsonpath={.status.availableReplicas}") not in ("", "0")
        except LocalClusterError:
            return False

    def _kubectl(self, *words: str) -> list[str | Path]:
        return [self.toolbox.path("kubectl"), "--kubeconfig", self.kubeconfig, *words]


def qualified(image: str) -> str:
    """An image's name as containerd has it: of Docker Hub, where it names no registry."""
    head, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in head or ":" in head or head == "localhost" else f"docker.io/{image}"


def namespace_objects(name: str) -> list[dict[str, Any]]:
    """A namespace that holds runs as a careful site would: Pod Security `restricted`, and nobody reaches anybody."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "deny-all", "namespace": name},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
    ]
