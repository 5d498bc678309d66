"""Elastic runs that are scaled, robbed of pods and processes, and cut off from their cluster: as if nothing had happened."""

import re
import time
from contextlib import ExitStack
from typing import Any

import pytest

from tests.kind.control_plane import start_operators_anew, without_api_server
from tests.kind.reference import Undisturbed
from tests.kind.stories import Run, Stories
from tests.kind.turns import Parts
from tests.support.runs import losses, rows_by_step

pytestmark = [pytest.mark.kind, pytest.mark.timeout(1800)]

ELASTIC: dict[str, Any] = {
    "nodes": 2,
    "elastic": {"enabled": True, "min": 1, "max": 3},
    "trainer": {"collective_timeout_s": 180},  # longer than processes are frozen
}


def test_pytorchjob_that_is_scaled_robbed_and_cut_off_ends_as_an_undisturbed_one(
    operators: None, stories: Stories, undisturbed: Undisturbed, parts: Parts
) -> None:
    run = install(stories, "pytorchjob")
    scale_and_rob(run)
    with ExitStack() as turn:
        with run.frozen():  # or it would end before other stories do
            turn.enter_context(parts.api_server.alone())
        cut_off(run)
    end_by_one(run)
    assert_same(run, undisturbed)


def test_job_does_the_same_without_any_operator(no_operators: None, stories: Stories, undisturbed: Undisturbed) -> None:
    run = install(stories, "job")
    scale_and_rob(run)
    drain_its_node(run)
    run.wait_for_phase("Succeeded", deadline_s=900)
    assert_same(run, undisturbed)


def install(stories: Stories, backend: str) -> Run:
    """By Helm alone; returns when two pods have trained a little."""
    run = stories.helm_install("story", stories.run_file("story", backend=backend, **ELASTIC))
    run.wait_for_world(0, 2, deadline_s=300)
    run.wait_for_steps(10)
    assert re.search(r"step \d+ ", stories.kubectl("logs", "--selector", f"pretrain-run/run={run.name}", "--tail=-1"))
    return run


def scale_and_rob(run: Run) -> None:
    """Up to three pods; the first one deleted, which holds the rendezvous; a process of another one killed."""
    rounds = len(run.worlds())
    run.scale(3)
    run.wait_for_world(rounds, 3)
    run.wait_for_steps(5)

    rounds = len(run.worlds())
    run.stories.kubectl("delete", "pod", run.pod(0), "--wait=false")
    run.wait_for_world(rounds, 3)
    run.wait_for_steps(5)

    rounds = len(run.worlds())
    run.kill_trainer(run.pod(1))
    run.wait_for_world(rounds, 3)
    run.wait_for_steps(5)
    assert run.status()["phase"] == "Running"


def cut_off(run: Run) -> None:
    """The operator restarted, the API server away for a minute: the same round trains on.

    In between the training processes are frozen: a fast machine would finish the run.
    """
    cluster, rounds = run.stories.cluster, run.worlds()
    cluster.kubectl("--namespace", "kubeflow", "rollout", "restart", "deployment/training-operator")
    run.wait_for_steps(3)
    with without_api_server(cluster):
        until = time.monotonic() + 60
        run.wait_for_more_steps_unseen(3)
        with run.frozen():
            time.sleep(max(0.0, until - time.monotonic()))
        run.wait_for_more_steps_unseen(3)
    with run.frozen():
        start_operators_anew(cluster)  # they end when they lose their API server
    assert run.worlds() == rounds


def drain_its_node(run: Run) -> None:
    """All but the pods that it needs are evicted; scaled down to one pod it goes on when the node takes pods again."""
    fewest = ELASTIC["elastic"]["min"]

    def stay() -> int:
        return len([pod for pod in run.pods() if pod["status"]["phase"] == "Running"])

    with run.drained() as refusal:
        assert "disruption budget" in refusal, "its last pod may not be evicted"
        run.stories.wait_until(lambda: stay() <= fewest, "the other pods have left", 75)
        assert stay() == fewest
        run.scale(1)


def end_by_one(run: Run) -> None:
    """Scaled down to one pod, which ends well."""
    rounds = len(run.worlds())
    run.scale(1)
    run.wait_for_world(rounds, 1)
    run.wait_for_phase("Succeeded", deadline_s=900)


def assert_same(run: Run, undisturbed: Undisturbed) -> None:
    """The same rows in every step, none twice and none left out, and the same losses."""
    folder = run.copy()
    rows, told = rows_by_step(folder), losses(folder)
    assert rows == undisturbed.rows
    assert told == pytest.approx(undisturbed.losses, abs=1e-5)
