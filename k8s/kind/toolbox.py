"""Programs of a cluster, built on demand from pinned Go modules: python -m k8s.kind.toolbox kube-apiserver etcd

Each folder of k8s/kind/tools is a Go module that requires a tool at an exact version; its go.sum holds the checksums of all
that is compiled in. A program is built once into

    ${XDG_CACHE_HOME:-~/.cache}/pretrain-run/tools/NAME-KEY/NAME

where KEY is a hash of the module's files, the linker's flags and the Go version, so a change of a version is another folder.
Building needs Go 1.26 or newer and a Go module proxy, the first time between ten seconds (etcd) and ten minutes (the first
program of Kubernetes) on one core; Go's own cache is the user's and is shared by all. Folders of old keys may be removed at
any time.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainer.errors import TrainerError

MODULES = Path(__file__).parent / "tools"
BUILD_DEADLINE_S = 3600.0
QUESTION_DEADLINE_S = 600.0  # a question to `go` may download a module first
LOG_LINES = 8
INSTALL_GO = "install Go 1.26 or newer and put it on PATH"


class ToolError(TrainerError):
    """A tool cannot be built; the message says why and the way out."""

    exit_code: ClassVar[int] = 65


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, the wrapper module that pins it, and the upstream module that it comes from."""

    name: str
    wrapper: str
    module: str
    package: str
    stamps: tuple[str, ...] = ()
    """String variables that the linker sets, NAME=VALUE; {version}, {kubernetes} and {minor} are filled in from go.mod."""


def _kubernetes(name: str) -> Tool:
    # kubeadm, kubectl and helm compare these; without them everything says v0.0.0
    stamps = [
        f"{package}.{variable}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for variable in ("gitVersion={version}", "gitMajor=1", "gitMinor={minor}", "gitTreeState=clean")
    ]
    return Tool(name, "kubernetes", "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}", tuple(stamps))


# helm takes the cluster's version, where it has no cluster, from its build; unset it is v1.20.0
_HELM_STAMPS = (
    "helm.sh/helm/v3/internal/version.version={version}",
    *(
        f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}"
        for package in ("chartutil", "lint/rules")
        for part in ("Major=1", "Minor={minor}")
    ),
)
_TRAINING = "github.com/kubeflow/training-operator"
_CONFORM = "github.com/yannh/kubeconform"
_CRI_TOOLS = "sigs.k8s.io/cri-tools"
_POLICIES = "sigs.k8s.io/kube-network-policies"
_REGISTRY = "github.com/distribution/distribution/v3"
_LOCAL_PATH = "github.com/rancher/local-path-provisioner"

TOOLS = {
    tool.name: tool
    for tool in (
        *(
            _kubernetes(name)
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubeadm",
                "kubectl",
                "kubelet",
            )
        ),
        Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        Tool("training-operator", "training-operator", _TRAINING, f"{_TRAINING}/cmd/training-operator.v1"),
        Tool("mpi-operator", "mpi-operator", "github.com/kubeflow/mpi-operator", "."),
        Tool("helm", "helm", "helm.sh/helm/v3", "helm.sh/helm/v3/cmd/helm", _HELM_STAMPS),
        Tool("kind", "kind", "sigs.k8s.io/kind", "sigs.k8s.io/kind"),
        Tool("crictl", "crictl", _CRI_TOOLS, f"{_CRI_TOOLS}/cmd/crictl"),
        Tool("coredns", "coredns", "github.com/coredns/coredns", "."),
        Tool("kube-network-policies", "kube-network-policies", _POLICIES, f"{_POLICIES}/cmd"),
        Tool("local-path-provisioner", "local-path-provisioner", _LOCAL_PATH, _LOCAL_PATH),
        Tool("registry", "registry", _REGISTRY, f"{_REGISTRY}/cmd/registry"),
        Tool("kubeconform", "kubeconform", _CONFORM, f"{_CONFORM}/cmd/kubeconform", ("main.version={version}",)),
    )
}


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Toolbox:
    """Gives the path of a tool, building it first if it is not there. Many processes may use one cache at a time.

    Builds run one at a time for the whole cache, at the lowest priority. Raises ToolError.
    """

    def __init__(self, cache: Path | None = None, say: Callable[[str], None] = say_on_stderr) -> None:
        self.cache = cache or default_cache()
        self._say = say

    def path(self, name: str, deadline_s: float = BUILD_DEADLINE_S) -> Path:
        """The program, ready to run."""
        tool = _tool(name)
        folder = self.cache / f"{tool.name}-{self.key(name)}"
        if not (folder / tool.name).exists():
            end = time.monotonic() + deadline_s
            with self._building(name, end):
                if not (folder / tool.name).exists():  # else built by whom we waited for
                    self._build(tool, folder, end)
        return folder / tool.name

    def has(self, name: str) -> bool:
        """Whether the program is built. Raises ToolError if there is no Go."""
        return (self.cache / f"{name}-{self.key(name)}" / name).exists()

    def key(self, name: str) -> str:
        """What the program depends on, in 16 hex digits."""
        tool = _tool(name)
        go = self._go(tool, ["env", "GOVERSION", "GOOS", "GOARCH"])
        digest = hashlib.sha256(json.dumps([tool.package, _flags(tool), go.split()]).encode())
        for file in sorted(_wrapper(tool).iterdir()):
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
        return digest.hexdigest()[:16]

    def source(self, name: str) -> Path:
        """The folder of the tool's own module, at the pinned version, in Go's module cache: manifests and such. Read-only."""
        tool = _tool(name)
        answer = self._go(tool, ["mod", "download", "-json", tool.module])
        return Path(json.loads(answer)["Dir"])

    def _build(self, tool: Tool, folder: Path, end: float) -> None:
        start = time.monotonic()
        self._say(f"{tool.name}: building {tool.module} {version(tool.name)}")
        partial = Path(tempfile.mkdtemp(prefix=f".{tool.name}-", dir=self.cache))
        log = self.cache / f"{folder.name}.log"
        command = ["go", "build", "-ldflags", _flags(tool), "-o", str(partial / tool.name), tool.package]
        try:
            code = _run_logged(command, _wrapper(tool), log, end)
            if code is None:
                raise ToolError(f"{tool.name}: not built within the deadline; call again, it goes on where it was; log: {log}")
            if code != 0:
                last = " | ".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
                raise ToolError(f"{tool.name}: go build failed with code {code}: {last or 'it said nothing'}; log: {log}")
            partial.chmod(0o755)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        log.unlink(missing_ok=True)
        self._say(f"{tool.name}: built in {time.monotonic() - start:.0f} s")

    @contextmanager
    def _building(self, name: str, end: float) -> Iterator[None]:
        """Hold the cache's one build lock; the kernel frees it when its holder dies."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            file = (self.cache / "build.lock").open("a")
        except OSError as error:
            raise ToolError(f"{self.cache}: cannot be written ({error}); set XDG_CACHE_HOME to a folder that can") from error
        with file:
            told = False
            while not _try_lock(file.fileno()):
                if not told:
                    self._say(f"{name}: another process builds a tool; waiting for it")
                    told = True
                if time.monotonic() > end:
                    raise ToolError(f"{name}: another process still builds in {self.cache}; wait for it, or end it")
                time.sleep(0.2)
            yield

    def _go(self, tool: Tool, arguments: list[str]) -> str:
        """What a short `go` command prints, run in the tool's wrapper module."""
        if shutil.which("go") is None:
            raise ToolError(f"{tool.name}: Go is not on PATH; {INSTALL_GO}")
        command = ["go", *arguments]
        try:
            done = subprocess.run(
                command, cwd=_wrapper(tool), env=_environment(), capture_output=True, text=True, timeout=QUESTION_DEADLINE_S
            )
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{tool.name}: `{' '.join(command)}` gave no answer in {QUESTION_DEADLINE_S:.0f} s") from error
        if done.returncode == 0:
            return done.stdout
        said = " | ".join((done.stderr or done.stdout).split("\n")[-LOG_LINES:]).strip(" |")
        if "requires go >=" in said or "invalid go version" in said:
            raise ToolError(f"{tool.name}: this Go is too old ({said}); {INSTALL_GO}")
        raise ToolError(f"{tool.name}: `{' '.join(command)}` failed: {said}; is a Go module proxy in reach (go env GOPROXY)?")


def default_cache() -> Path:
    """Where tools are kept: under XDG_CACHE_HOME, by default ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pretrain-run" / "tools"


def version(name: str) -> str:
    """The pinned version of a tool, as its wrapper's go.mod has it."""
    return _required(_tool(name))


def _required(tool: Tool) -> str:
    text = (_wrapper(tool) / "go.mod").read_text()
    found = re.search(rf"^(?:require)?\s+{re.escape(tool.module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise ToolError(f"{_wrapper(tool)}/go.mod: does not require {tool.module}; restore the file")
    return found[1]


def _tool(name: str) -> Tool:
    if name not in TOOLS:
        raise ToolError(f"{name}: no such tool; there are {', '.join(sorted(TOOLS))}")
    return TOOLS[name]


def _wrapper(tool: Tool) -> Path:
    return MODULES / tool.wrapper


def _flags(tool: Tool) -> str:
    """The linker's flags: no symbol tables, and the version stamps."""
    minor = version("kube-apiserver").split(".")[1] if tool.stamps else ""
    stamps = [f"-X {stamp.format(version=_required(tool), minor=minor)}" for stamp in tool.stamps]
    return " ".join(["-s -w", *stamps])


def _environment() -> dict[str, str]:
    """The caller's environment, with all that would change the build fixed."""
    fixed = {"GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off", "CGO_ENABLED": "0"}
    return {**os.environ, **fixed}


def _run_logged(command: list[str], folder: Path, log: Path, end: float) -> int | None:
    """Exit code of a command at the lowest priority, None if it was ended at the deadline. It never outlives this call."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["nice", "-n", "19", *command],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the compilers end with it
        )
        try:
            return process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Build tools and print NAME PATH SECONDS for each."""
    parser = argparse.ArgumentParser(
        prog="python -m k8s.kind.toolbox", description="Build pinned cluster tools; print their paths."
    )
    parser.add_argument("name", nargs="+", help=", ".join(sorted(TOOLS)))
    toolbox = Toolbox()
    try:
        for name in parser.parse_args(arguments).name:
            start = time.monotonic()
            path = toolbox.path(name)
            print(f"{name} {path} {time.monotonic() - start:.1f}", flush=True)
    except ToolError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
