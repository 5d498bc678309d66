"""Argo CD's health scripts, run by Lua 5.1 with the few libraries that it gives them, on what the operators really write."""

from typing import Any

import pytest
import yaml
from lupa import lua51

from tests.gitops.recorded import GITOPS, Recorded, recorded

HEALTH = sorted((GITOPS / "argocd" / "health").glob("*.lua"))
KINDS = ("pytorchjob", "mpijob", "trainjob", "jobset")
_NOT_IN_ARGO_CD = ("string", "math", "io", "debug", "coroutine", "python")


def health(item: Recorded) -> dict[str, str]:
    """What the script of its kind returns; util/lua/lua.go of Argo CD opens package, base, table and a part of os."""
    lua = lua51.LuaRuntime(register_eval=False, unpack_returned_tuples=True)
    lua.execute('getmetatable("").__index = nil')
    for name in _NOT_IN_ARGO_CD:
        lua.globals()[name] = None
    lua.globals().obj = lua.table_from(item.object, recursive=True)
    return dict(lua.execute((GITOPS / "argocd" / "health" / f"{item.group_kind}.lua").read_text()))


@pytest.mark.parametrize("item", recorded(*KINDS), ids=str)
def test_each_phase_has_its_health(item: Recorded) -> None:
    found = health(item)
    assert found["status"] == item.argocd
    assert found["message"]


def by_phase(kind: str, phase: str) -> Recorded:
    (found,) = [item for item in recorded(kind) if item.phase == phase]
    return found


@pytest.mark.parametrize(
    ("kind", "phase", "message"),
    [
        ("pytorchjob", "running", "PyTorchJob a/run is running. (2 workers active)"),
        ("pytorchjob", "restarting", "PyTorchJob run is restarting because 1 Worker replica(s) failed. (1 workers active)"),
        ("pytorchjob", "failed", "Job run has failed because it has reached the specified backoff limit"),
        ("mpijob", "not seen yet", "mpi-operator has not seen it yet"),
        ("trainjob", "running", "node: 1 ready, 1 active"),
        ("jobset", "restarting", "node: 0 ready, 1 active; restarted 2 times"),
    ],
)
def test_message_says_what_a_person_wants_to_know(kind: str, phase: str, message: str) -> None:
    assert health(by_phase(kind, phase))["message"] == message


def test_a_condition_that_is_no_longer_true_counts_for_nothing() -> None:
    succeeded = by_phase("pytorchjob", "succeeded")
    for condition in succeeded.object["status"]["conditions"]:
        if condition["type"] == "Succeeded":
            condition["status"] = "False"
    assert health(succeeded)["status"] == "Progressing"


def test_config_map_carries_the_files_and_nothing_else() -> None:
    config_map: dict[str, Any] = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text())
    assert config_map["data"] == {f"resource.customizations.health.{file.stem}": file.read_text() for file in HEALTH}


def test_each_kind_has_recorded_statuses() -> None:
    assert {item.group_kind for item in recorded(*KINDS)} == {file.stem for file in HEALTH}
