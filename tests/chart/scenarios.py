"""The chart's scenarios: every ci/*-values.yaml, rendered."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from k8s.helm import HelmPackage
from k8s.render import CHART, LOADER, Manifest, render, run_object
from k8s.run import Run, load_run

FILES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
NAMESPACE = "training"


@cache
def scenario(name: str) -> Run:
    return load_run(FILES[name])


@cache
def _rendered(name: str) -> tuple[Manifest, ...]:
    return render(scenario(name), NAMESPACE, HelmPackage())


def rendered(name: str) -> list[Manifest]:
    """A copy that a test may change."""
    return copy.deepcopy(list(_rendered(name)))


def render_values(values: dict[str, Any], folder: Path) -> list[Manifest]:
    """Of values that a test made up, as a run file in a folder of its own."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    return list(render(load_run(file), NAMESPACE, HelmPackage()))


def chart_hash(values: dict[str, Any]) -> str:
    """The hash that Helm alone gives values."""
    documents = yaml.load_all(HelmPackage().render(CHART, values, NAMESPACE), LOADER)
    annotations = run_object([each for each in documents if each])["metadata"]["annotations"]
    return str(annotations["pretrain-run/hash"])
