"""Elastic runs that are scaled, robbed of pods and processes, and cut off from their cluster: as if nothing had happened."""

import re
import time
from contextlib import nullcontext

import pytest

from tests.kind.conftest import Undisturbed
from tests.kind.stories import Run, Stories
from tests.support.runs import losses, rows_by_step

pytestmark = [pytest.mark.kind, pytest.mark.timeout(1800)]

ELASTIC = {"nodes": 2, "elastic": {"enabled": True, "min": 1, "max": 3}}


def assert_same(run: Run, undisturbed: Undisturbed) -> None:
    """The same rows in every step, none twice and none left out, and the same loss at the end."""
    folder = run.copy()
    rows, told = rows_by_step(folder), losses(folder)
    assert rows == undisturbed.rows
    steps = sorted(undisturbed.losses)
    assert sorted(told) == steps
    assert abs(told[steps[-1]] - undisturbed.losses[steps[-1]]) < 1e-5


@pytest.mark.parametrize("backend", ["pytorchjob", "job"])
def test_scaled_and_robbed_run_ends_as_an_undisturbed_one(backend: str, stories: Stories, undisturbed: Undisturbed) -> None:
    with stories.without_operators() if backend == "job" else nullcontext():
        run = stories.helm_install("story", stories.run_file("story", backend=backend, **ELASTIC))
        tell(run)
    assert_same(run, undisturbed)


def tell(run: Run) -> None:
    """The story, from the first round of two pods to the end by one."""
    stories = run.stories
    run.wait_for_world(0, 2, deadline_s=300)
    run.wait_for_steps(10)
    assert re.search(r"step \d+ ", stories.kubectl("logs", run.pod(0)))

    rounds = len(run.worlds())
    run.scale(3)
    run.wait_for_world(rounds, 3)
    run.wait_for_steps(5)

    rounds = len(run.worlds())
    stories.kubectl("delete", "pod", run.pod(0), "--wait=false")
    run.wait_for_world(rounds, 3)
    run.wait_for_steps(5)

    rounds = len(run.worlds())
    run.kill_trainer(run.pod(1))
    run.wait_for_world(rounds, 3)
    run.wait_for_steps(5)
    assert run.status()["phase"] == "Running"

    rounds = len(run.worlds())
    run.scale(1)
    run.wait_for_world(rounds, 1)
    run.wait_for_phase("Succeeded", deadline_s=900)


def test_run_goes_on_without_its_operator_and_its_api_server(stories: Stories, undisturbed: Undisturbed) -> None:
    run = stories.submit("cut-off", backend="pytorchjob", **ELASTIC)
    run.wait_for_world(0, 2, deadline_s=300)

    stories.cluster.kubectl("--namespace", "kubeflow", "rollout", "restart", "deployment/training-operator")
    run.wait_for_steps(5)
    stories.cluster.node("mv", "/etc/kubernetes/manifests/kube-apiserver.yaml", "/kind/kube-apiserver.yaml")
    try:
        stories.wait_until(lambda: not stories.cluster.is_up(), "the API server is down", 60)
        step, until = run.last_step(), time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(5)
        assert run.last_step() > step, "training stood still without the API server"
    finally:
        stories.cluster.node("mv", "/kind/kube-apiserver.yaml", "/etc/kubernetes/manifests/kube-apiserver.yaml")
    stories.wait_until(stories.cluster.is_up, "the API server is back", 180)

    run.wait_for_phase("Succeeded", deadline_s=900)
    assert len(run.worlds()) == 1
    assert_same(run, undisturbed)
