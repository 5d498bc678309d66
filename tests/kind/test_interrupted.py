"""Runs that are stopped, preempted or wrong: what is saved, what is told, and what is not started again."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from k8s.render import CHART
from tests.kind.reference import Undisturbed
from tests.kind.stories import Run, Stories
from tests.support.runs import losses, newest_step, rows_by_step

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]

STEPS = 120
"""The first ones of the run that they are compared with."""


def ends(run: Run) -> list[dict[str, Any]]:
    """How containers of the run's pods have ended, those that were started again too."""
    statuses = [status for pod in run.pods() for status in pod["status"].get("containerStatuses", [])]
    states = [status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") for status in statuses]
    return [state for state in states if state]


@pytest.mark.parametrize("backend", ["pytorchjob", "job"], indirect=True)
def test_run_that_loses_its_pod_and_is_stopped_saves_every_step_and_goes_on(
    backend: str, stories: Stories, undisturbed: Undisturbed
) -> None:
    run = stories.submit("interrupted", backend=backend, nodes=1, trainer={"pretrain": {"steps": STEPS}})
    run.wait_for_steps(7, deadline_s=300)

    stories.kubectl("delete", "pod", run.pod(0))
    assert_nothing_lost(run)
    assert run.status()["phase"] not in ("Succeeded", "Failed"), "a preempted run is no finished run"
    rounds = len(run.worlds())
    run.wait_for_world(rounds, 1)
    run.wait_for_steps(7)

    stories.launcher("stop", run.name)
    assert run.status()["phase"] == "Suspended"
    assert_nothing_lost(run)
    assert "step" in stories.launcher("logs", run.name).stdout, "with its pods gone the logs come from the volume"

    stories.launcher("resume", run.name)
    run.wait_for_phase("Succeeded", deadline_s=600)
    folder = run.copy()
    first_rows = {step: rows for step, rows in undisturbed.rows.items() if step < STEPS}
    first_losses = {step: loss for step, loss in undisturbed.losses.items() if step <= STEPS}
    assert len(first_rows) == len(first_losses) == STEPS
    assert rows_by_step(folder) == first_rows
    assert losses(folder) == pytest.approx(first_losses, abs=1e-5)


def assert_nothing_lost(run: Run) -> None:
    """Stopped by a signal, it has saved its last step."""
    folder = run.copy()
    assert newest_step(folder) == max(losses(folder))
    assert not (folder / "DONE").exists()


@pytest.mark.parametrize("backend", ["pytorchjob", "job"], indirect=True)
def test_wrong_data_fails_once_with_its_reason(backend: str, stories: Stories) -> None:
    missing = {"corpus": {"sources": [{"name": "gone", "path": "/data/gone.jsonl"}]}}
    run = stories.submit(
        "wrong", backend=backend, nodes=1, storage={"data": {"kind": "none", "claimName": None}}, trainer=missing
    )
    status = run.wait_for_phase("Failed", deadline_s=240)
    (end,) = ends(run)
    assert end["exitCode"] == 65
    assert "gone.jsonl" in end["message"]
    assert any("gone.jsonl" in reason for reason in status["reasons"])
    assert status["restarts"] == 0


def test_crash_loop_ends_by_the_restart_budget(stories: Stories) -> None:
    run = stories.submit("crashes", backend="job", nodes=1, maxRestarts=1)
    for _ in range(2):
        rounds = len(run.worlds())
        run.wait_for_steps(1, deadline_s=300)
        run.kill_trainer(run.pod(0))
        if rounds == 0:
            run.wait_for_world(1, 1)
    run.wait_for_phase("Failed", deadline_s=120)
    assert [end["exitCode"] for end in ends(run)] == [75]


def test_upgrade_of_the_chart_leaves_a_running_run_alone_and_uninstall_nothing_but_the_claim(stories: Stories) -> None:
    file = stories.run_file("release", backend="job", nodes=1)
    run = stories.helm_install("release", file)
    run.wait_for_steps(1, deadline_s=300)

    (pod,) = run.pods()
    stories.helm("upgrade", "release", str(newer_chart(stories)), "--values", str(file))
    run.wait_for_steps(5)
    assert [each["metadata"]["uid"] for each in run.pods()] == [pod["metadata"]["uid"]]
    assert len(run.worlds()) == 1

    stories.helm("uninstall", "release", "--wait", "--timeout", "120s")
    kinds = "pods,jobs.batch,services,networkpolicies,poddisruptionbudgets,configmaps,serviceaccounts,pvc"
    stories.wait_until(
        lambda: (
            [
                item["kind"]
                for item in json.loads(stories.kubectl("get", kinds, "-l", "pretrain-run/run", "--output", "json"))["items"]
            ]
            == ["PersistentVolumeClaim"]
        ),
        "only the claim is left",
        120,
    )


def newer_chart(stories: Stories) -> Path:
    """The chart as its next version."""
    chart = stories.folder / "newer-chart"
    shutil.copytree(CHART, chart)
    description = chart / "Chart.yaml"
    text = description.read_text()
    description.write_text(re.sub(r"^version: .*$", "version: 9.9.9", text, flags=re.MULTILINE))
    assert description.read_text() != text
    return chart
