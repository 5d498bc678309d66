"""Run file to manifests. Pure: the same run gives the same bytes, whichever Helm renders and wherever it runs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from k8s.errors import RenderError
from k8s.helm import Helm
from k8s.run import Run

Manifest = dict[str, Any]

LOADER: type[yaml.SafeLoader | yaml.CSafeLoader] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""libyaml's where PyYAML has it: the same values in a twentieth of the time, 0.3 s less for each render."""

_PACKAGED = Path(__file__).parent / "chart"
CHART = _PACKAGED if _PACKAGED.exists() else Path(__file__).parent.parent / "helm" / "pretrain-run"
"""The chart: a wheel carries it inside of this package."""

RUN_KINDS = ("Job", "PyTorchJob", "MPIJob")

_ORDER = (
    "NetworkPolicy",
    "ServiceAccount",
    "ConfigMap",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Service",
    "PodMonitor",
)
"""What is there before the run's own object, which is last: its pods find all that they need."""

_HOOK = "helm.sh/hook"


def render(run: Run, namespace: str, helm: Helm, chart: Path = CHART) -> tuple[Manifest, ...]:
    """The run's objects in the order in which they are made; Helm's hooks (`helm test`) left out. Raises RenderError."""
    text = helm.render(chart, run.given, namespace)
    try:
        documents = [document for document in yaml.load_all(text, LOADER) if document]
    except yaml.YAMLError as error:
        raise RenderError(f"the chart made something of these values that is not YAML: {error}".replace("\n", " ")) from None
    objects = [document for document in documents if _HOOK not in document["metadata"].get("annotations", {})]
    return tuple(sorted(objects, key=_place))


def run_object(objects: Sequence[Manifest]) -> Manifest:
    """Of a run's objects, the one that runs. Raises RenderError."""
    found = [
        item for item in objects if item["kind"] in RUN_KINDS and "pretrain-run/hash" in item["metadata"].get("labels", {})
    ]
    if len(found) != 1:
        raise RenderError(f"a rendered run has one object of {', '.join(RUN_KINDS)}, but here are {len(found)}; render it anew")
    return found[0]


def dump(objects: Sequence[Manifest]) -> str:
    """The objects as one YAML stream, keys sorted."""
    parts = [yaml.dump(item, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=4096) for item in objects]
    return "---\n".join(parts)


def _place(item: Manifest) -> tuple[int, str, str]:
    kind = item["kind"]
    place = len(_ORDER) + (kind in RUN_KINDS) if kind not in _ORDER else _ORDER.index(kind)
    return place, kind, item["metadata"]["name"]


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 readers would take for a number: PyYAML follows 1.1 and leaves `1e3` bare."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.match(r"[-+.]?[0-9]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
