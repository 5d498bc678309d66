"""Every rendered object is valid by Kubernetes' own schemas and those of the operators' definitions."""

import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.chart.scenarios import FILES, rendered
from tests.support import schemas

UNKNOWN = {"PodMonitor"}
"""Prometheus Operator's definition comes in no package."""


@cache
def kept() -> dict[str, Any]:
    return dict(json.loads(schemas.read()))


def complaints(item: dict[str, Any]) -> list[str]:
    root = kept()["roots"][f"{item['apiVersion']}/{item['kind']}"]
    schema = {"$ref": f"#/components/schemas/{root}", "components": kept()["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(item)]


@pytest.mark.parametrize("name", FILES)
def test_a_scenarios_objects_are_valid(name: str) -> None:
    objects = [item for item in rendered(name) if item["kind"] not in UNKNOWN]
    assert len(objects) >= 5
    for item in objects:
        assert complaints(item) == []


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("job-elastic", "Job", ("spec", "template", "spec", "containers")),
        ("pytorchjob-elastic", "PyTorchJob", ("spec", "elasticPolicy")),
        ("mpijob", "MPIJob", ("spec", "mpiReplicaSpecs", "Worker", "template", "spec")),
        ("job-elastic", "NetworkPolicy", ("spec",)),
    ],
)
def test_an_unknown_field_is_found(name: str, kind: str, path: tuple[str, ...]) -> None:
    item = next(item for item in rendered(name) if item["kind"] == kind)
    inner: Any = item
    for key in path:
        inner = inner[key]
    (inner[0] if isinstance(inner, list) else inner)["replicsa"] = 1
    assert any("replicsa" in complaint for complaint in complaints(item))
