"""Runs' objects as the operators left them, phase by phase, and what the kit's tools are to make of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

GITOPS = Path(__file__).parents[2] / "k8s" / "gitops"
STATUSES = Path(__file__).parent / "statuses"


@dataclass(frozen=True)
class Recorded:
    """One object at one moment."""

    phase: str
    object: dict[str, Any]
    argocd: str | None = None
    flux: str | None = None

    @property
    def group_kind(self) -> str:
        """As Argo CD writes it: kubeflow.org_PyTorchJob."""
        return f"{self.object['apiVersion'].partition('/')[0]}_{self.object['kind']}"

    def __str__(self) -> str:
        return f"{self.object['kind']} {self.phase}"


def recorded(*names: str) -> list[Recorded]:
    """Those of some files of statuses/, or of all."""
    files = [STATUSES / f"{name}.yaml" for name in names] or sorted(STATUSES.glob("*.yaml"))
    return [Recorded(**entry) for file in files for entry in yaml.safe_load(file.read_text())]
