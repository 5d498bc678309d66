"""The image of the cluster's node: named, pulled, or built from Go modules and Debian packages where nothing can be pulled.

A built one holds what kind's own holds: kind's files (copied from its module at build time), kubeadm, kubelet and the control
plane at the pinned version, a small network with kube-network-policies in the place of kindnet, and Rancher's
local-path-provisioner. It is made again only when one of these changes: its tag carries a hash of them.
"""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from k8s.kind.commands import run, step
from k8s.kind.debian import debian_image, pulls
from k8s.kind.docker import FILES, Docker
from k8s.kind.toolbox import Toolbox, version

VARIABLE = "KIND_NODE_IMAGE"
# 1.34 is the last minor version whose kubelet starts under control groups of version 1, and serves version 2 as well
PULLED = "kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a"
_PULL_S = 600.0
_BUILD_S = 900.0
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROGRAMS = (
    *_CONTROL_PLANE,
    *("kubelet", "kubeadm", "kubectl", "kube-proxy", "etcd", "coredns", "crictl"),
    *("local-path-provisioner", "kube-network-policies"),
)
"""What a built image holds."""


def node_image(docker: Docker, toolbox: Toolbox) -> str:
    """The name of an image that is here. Raises LocalClusterError, ToolError."""
    if here := node_image_that_is_here(docker, toolbox):
        return here
    debian = debian_image(docker)
    if not debian.startswith("local/") and pulls(docker, PULLED, _PULL_S):
        return PULLED
    programs = {name: toolbox.path(name) for name in PROGRAMS}
    own = _own(toolbox)
    with step(f"building {own}"):
        _Builder(docker, toolbox, programs, debian).build(own)
    return own


def node_image_that_is_here(docker: Docker, toolbox: Toolbox) -> str | None:
    """The name of the image that `node_image` takes without a pull or a build. Raises ToolError."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    return next((image for image in (_own(toolbox), PULLED) if docker.has(image)), None)


def _own(toolbox: Toolbox) -> str:
    return f"local/kind-node:{version('kubelet')}-{key(toolbox)}"


def key(toolbox: Toolbox) -> str:
    """What a built image depends on, in 12 hex digits."""
    digest = hashlib.sha256()
    for name in (*PROGRAMS, "kind"):
        digest.update(f"{name} {toolbox.key(name)}\n".encode())
    for file in sorted(FILES.iterdir()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class _Builder:
    """One build, in a folder of its own."""

    def __init__(self, docker: Docker, toolbox: Toolbox, programs: dict[str, Path], debian: str) -> None:
        self._docker = docker
        self._toolbox = toolbox
        self._programs = programs
        self._debian = debian
        self._version = version("kubelet")

    def build(self, tag: str) -> None:
        names = image_names(
            run([self._programs["kubeadm"], "config", "images", "list", "--kubernetes-version", self._version], 30)
        )
        with tempfile.TemporaryDirectory(prefix="node-image-") as scratch:
            folder = Path(scratch)
            base = self._base(folder / "base")
            images = self._images(folder, names)
            context = folder / "node"
            (context / "manifests").mkdir(parents=True)
            for name in ("kubeadm", "kubelet", "kubectl", "crictl"):
                shutil.copy(self._programs[name], context / name)
            network = (FILES / "default-cni.yaml").read_text().replace("KUBE_PROXY_IMAGE", names["kube-proxy"])
            policies = (self._toolbox.source("kube-network-policies") / "install.yaml").read_text()
            policies = re.sub(r"image: \S+", f"image: {_policies_image()}", policies)
            (context / "manifests" / "default-cni.yaml").write_text(network + "---\n" + policies)
            storage = self._toolbox.source("local-path-provisioner") / "deploy" / "local-path-storage.yaml"
            (context / "manifests" / "default-storage.yaml").write_text(
                storage_manifest(storage.read_text(), names["kube-proxy"])
            )
            self._docker("save", "--output", context / "images.tar", *images, deadline_s=300.0)
            shutil.copy(FILES / "Dockerfile.node", context / "Dockerfile")
            self._docker.build(context, tag, _BUILD_S, {"BASE": base, "VERSION": self._version})

    def _base(self, folder: Path) -> str:
        files = folder / "files"
        shutil.copytree(self._toolbox.source("kind") / "images" / "base" / "files", files)
        for path in (files, *files.rglob("*")):  # Go's module cache is read-only
            runs = path.is_dir() or path.parent.name == "bin"
            path.chmod(0o755 if runs else 0o644)
        shutil.rmtree(files / "LICENSES", ignore_errors=True)
        shutil.copy(FILES / "Dockerfile.base", folder / "Dockerfile")
        self._docker.build(folder, "local/kind-base:latest", _BUILD_S, {"DEBIAN": self._debian})
        return "local/kind-base:latest"

    def _images(self, folder: Path, names: dict[str, str]) -> list[str]:
        """The images that a node brings along, made and named as kubeadm and kind ask for them."""
        for name in _CONTROL_PLANE:
            self._docker.import_files(names[name], {f"/usr/local/bin/{name}": self._programs[name]})
        self._docker.import_files(names["etcd"], {"/usr/local/bin/etcd": self._programs["etcd"]})
        self._docker.import_files(names["coredns"], {"/coredns": self._programs["coredns"]}, ["/coredns"])
        provisioner = f"rancher/local-path-provisioner:{version('local-path-provisioner')}"
        program = {"/usr/bin/local-path-provisioner": self._programs["local-path-provisioner"]}
        self._docker.import_files(provisioner, program)
        program = {"/bin/netpol": self._programs["kube-network-policies"]}
        self._docker.import_files(_policies_image(), program)
        pause = folder / "pause"
        run(["gcc", "-Os", "-static", "-s", "-o", pause, FILES / "pause.c"], 60.0)
        pauses = sorted({names["pause"], self._sandbox()})
        for name in pauses:
            self._docker.import_files(name, {"/pause": pause}, ["/pause"])
        self._network(folder / "network", names["kube-proxy"])
        return [
            *(names[name] for name in (*_CONTROL_PLANE, "etcd", "coredns", "kube-proxy")),
            *pauses,
            provisioner,
            _policies_image(),
        ]

    def _network(self, folder: Path, tag: str) -> None:
        folder.mkdir()
        for source in (self._programs["kube-proxy"], self._programs["kubectl"], FILES / "node-network"):
            shutil.copy(source, folder / source.name)
        shutil.copy(FILES / "Dockerfile.network", folder / "Dockerfile")
        self._docker.build(folder, tag, _BUILD_S, {"DEBIAN": self._debian})

    def _sandbox(self) -> str:
        """The image that kind's containerd takes for a pod's namespaces."""
        config = (self._toolbox.source("kind") / "images/base/files/etc/containerd/config.toml").read_text()
        found = re.search(r'sandbox_image = "([^"]+)"', config)
        assert found is not None, "kind's containerd config names a sandbox image"
        return found[1]


def _policies_image() -> str:
    return f"registry.k8s.io/networking/kube-network-policies:{version('kube-network-policies')}"


def image_names(listed: str) -> dict[str, str]:
    """By component, from the lines of `kubeadm config images list`."""
    return {line.rpartition("/")[2].partition(":")[0]: line for line in listed.split()}


def storage_manifest(text: str, helper_image: str) -> str:
    """local-path-provisioner's manifest as kind's default storage: its class `standard`, its helper an image that is there."""
    text = text.replace("/opt/local-path-provisioner", "/var/local-path-provisioner")
    text = re.sub(r"image: busybox\S*", f"image: {helper_image}", text)
    default = 'standard\n  annotations: {storageclass.kubernetes.io/is-default-class: "true"}'
    return re.sub(r"^  name: local-path$", f"  name: {default}", text, flags=re.MULTILINE)
