"""Helm, which renders the chart: the binary on PATH, else the Python package that carries Helm's own SDK.

The package, helm-python-sdk, is a thin ctypes layer over Helm's Go code, built from Helm's released module by its public
workflow; uv.lock pins its SHA-256, it is asked for nothing but offline rendering, and `make test` compares it with the binary
where there is one (docs/cluster.md, "Why two Helms").
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from k8s.errors import RenderError

RELEASE = "pretrain-run"
"""The chart does not look at it; Helm wants one."""

KUBE_VERSION = "1.34.0"
"""What templates may rely on; a helm that was built by `go install` would claim 1.20."""

DEADLINE_S = 60.0

ENGINE_VARIABLE = "PRETRAIN_RUN_HELM"
"""`binary` or `package` decides which Helm is used."""

Kind = Literal["binary", "package"]


class Helm(Protocol):
    """Something that renders a chart offline."""

    def render(self, chart: Path, values: Mapping[str, Any], namespace: str) -> str:
        """All templates' documents as YAML text. Raises RenderError with Helm's own words."""
        ...


def find_helm(environment: Mapping[str, str] = os.environ) -> Helm:
    """The binary if there is one, else the package. Raises RenderError with what to install."""
    wanted = environment.get(ENGINE_VARIABLE, "")
    binary = shutil.which("helm", path=environment.get("PATH"))
    if wanted not in ("", "binary", "package"):
        raise RenderError(f"{ENGINE_VARIABLE}={wanted}: set it to binary or package, or unset it")
    if binary is not None and wanted != "package":
        return HelmBinary(Path(binary))
    if wanted == "binary":
        raise RenderError("no `helm` on PATH; install Helm 3.18 or newer (helm.sh), or unset " + ENGINE_VARIABLE)
    return HelmPackage()


class HelmBinary:
    """The command `helm`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def render(self, chart: Path, values: Mapping[str, Any], namespace: str) -> str:
        command = [str(self._path), "template", RELEASE, str(chart), "--namespace", namespace, "--values", "-"]
        command += ["--kube-version", KUBE_VERSION]
        try:
            ended = subprocess.run(
                command, input=json.dumps(values), capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise RenderError(
                f"`{self._path} template` was not done within {DEADLINE_S:.0f} s; is the machine overloaded? try again"
            ) from None
        if ended.returncode != 0:
            raise RenderError(_one_line(ended.stderr))
        return ended.stdout


class HelmPackage:
    """Helm's SDK in a Python package."""

    def render(self, chart: Path, values: Mapping[str, Any], namespace: str) -> str:
        try:
            from helm_python import Chart, HelmError
        except ImportError:
            raise RenderError(
                "no Helm: neither `helm` on PATH nor its Python package; install Helm (helm.sh), or "
                "pip install 'pretrain-run[helm]'"
            ) from None
        try:
            with Chart.load(chart) as loaded:
                documents = loaded.render(dict(values), name=RELEASE, namespace=namespace)
        except HelmError as error:
            raise RenderError(_one_line(str(error))) from None
        return "\n---\n".join(text for name, text in sorted(documents.items()) if not name.endswith("NOTES.txt"))


def _one_line(text: str) -> str:
    """Helm's words without its frame of where it stood."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        rule = re.search(r"execution error at \([^)]*\): (.*)", line) or re.search(r"error calling fail: (.*)", line)
        if rule is not None:
            return rule[1]
    return "Helm: " + "; ".join(line.removeprefix("Error: ") for line in lines[:6])
