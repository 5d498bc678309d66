"""What a rule is, what it finds, and how rules look into objects."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Manifest = dict[str, Any]
Level = Literal["error", "risk"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of a rule."""

    code: str
    level: Level
    where: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code} {self.where}: {self.message}; {self.fix} (docs/rules.md#{self.code.lower()})"


Find = Callable[[Manifest, Sequence[Manifest]], Iterator[str]]
"""From one object, and all objects of the run, to messages."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A code, the kinds that it looks at (none: all), its finder, the way out, and why the rule exists."""

    code: str
    level: Level
    kinds: tuple[str, ...]
    find: Find
    fix: str
    why: str


def at(value: Any, *path: str, default: Any = None) -> Any:
    """A value deep in mappings, or the default where a key is missing."""
    for key in path:
        if not isinstance(value, dict) or value.get(key) is None:
            return default
        value = value[key]
    return value


def replica_specs(item: Manifest) -> dict[str, Manifest]:
    """Role to replica spec of an operator's job."""
    specs: dict[str, Manifest] = at(item, "spec", "pytorchReplicaSpecs") or at(item, "spec", "mpiReplicaSpecs") or {}
    return specs


def pod_templates(item: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Role and pod template of each kind of pod of a run's object."""
    for role, spec in replica_specs(item).items():
        yield role.lower(), spec.get("template", {})
    if item["kind"] == "Job":
        yield "worker", at(item, "spec", "template", default={})


def trainer_container(template: Manifest) -> Manifest:
    """The container that trains: the one of that name, or the first."""
    containers: list[Manifest] = at(template, "spec", "containers", default=[])
    named = [container for container in containers if container.get("name") == "pytorch"]
    return (named or containers or [{}])[0]


def most_nodes(item: Manifest) -> int:
    """Pods that may train at the same time: what the run was rendered for, or what it asks for now."""
    counts: list[int] = [
        at(item, "spec", "completions", default=1),
        at(item, "spec", "elasticPolicy", "maxReplicas", default=1),
    ]
    counts += [spec.get("replicas", 1) for spec in replica_specs(item).values()]
    for _, template in pod_templates(item):
        for variable in trainer_container(template).get("env", []):
            if variable.get("name") == "PRETRAIN_RUN_NODES":
                counts.append(int(variable["value"].rpartition(":")[2]))
    return max(counts)


def size_bytes(quantity: str | int | float) -> float:
    """A Kubernetes quantity of memory in bytes."""
    text = str(quantity)
    units: dict[str, float] = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
    units |= {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "m": 1e-3}
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)
