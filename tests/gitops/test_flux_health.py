"""Flux's health expressions, evaluated by a CEL implementation as Flux does, on what the operators really write."""

from typing import Any

import celpy
import pytest
import yaml

from tests.gitops.recorded import GITOPS, Recorded, recorded

_, KUSTOMIZATION = yaml.safe_load_all((GITOPS / "flux" / "runs.yaml").read_text())
EXPRESSIONS = {(check["apiVersion"], check["kind"]): check for check in KUSTOMIZATION["spec"]["healthCheckExprs"]}


def holds(expression: str, item: dict[str, Any]) -> bool:
    """Evaluated on the top-level fields of an object. Raises celpy.CELEvalError where one is missing, as in Flux."""
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return bool(program.evaluate({key: celpy.json_to_cel(value) for key, value in item.items()}))


def status(item: dict[str, Any]) -> str:
    """By the order of fluxcd/pkg, runtime/cel/status_evaluator.go; what cannot be evaluated is looked at again later."""
    check = EXPRESSIONS[item["apiVersion"], item["kind"]]
    for name, key in (("InProgress", "inProgress"), ("Failed", "failed"), ("Current", "current")):
        if key in check and holds(check[key], item):
            return name
    return "InProgress"


@pytest.mark.parametrize(
    "item", [item for item in recorded("pytorchjob", "mpijob", "trainjob", "jobset") if "status" in item.object], ids=str
)
def test_each_phase_has_its_status(item: Recorded) -> None:
    assert status(item.object) == item.flux


def test_a_run_that_goes_on_is_as_it_should_be_so_that_waiting_cannot_run_out() -> None:
    assert {item.flux for item in recorded() if item.phase in ("running", "suspended") and item.flux} == {"Current"}


def test_kustomization_keeps_runs_from_being_recreated_and_their_volumes_from_being_pruned() -> None:
    spec = KUSTOMIZATION["spec"]
    assert (spec["prune"], spec["force"], spec["wait"], spec["deletionPolicy"]) == (True, False, False, "Orphan")
    (patch,) = spec["patches"]
    assert patch["target"] == {"kind": "PersistentVolumeClaim"}
    annotations = yaml.safe_load(patch["patch"])["metadata"]["annotations"]
    assert annotations == {"kustomize.toolkit.fluxcd.io/prune": "disabled"}
