"""What the launcher says of a run, from recorded objects and the trainer's own lines."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from k8s.logs import shown, wanted
from k8s.showing import Follower, headline, run_table
from k8s.status import RunStatus, phase_of, progress_of, status_of
from tests.unit.test_prometheus import STEP
from trainer.tracking import units
from trainer.tracking.terminal import step_figures


def condition(kind: str, status: str = "True", **more: str) -> dict[str, str]:
    return {"type": kind, "status": status, **more}


def run_of(kind: str, *conditions: dict[str, str], **spec: Any) -> dict[str, Any]:
    specs = {"PyTorchJob": "pytorchReplicaSpecs", "MPIJob": "mpiReplicaSpecs"}
    body: dict[str, Any] = {"parallelism": 2} if kind == "Job" else {specs[kind]: {"Worker": {"replicas": 2}}}
    return {
        "kind": kind,
        "metadata": {"name": "demo-1", "labels": spec.pop("labels", {})},
        "spec": body | spec,
        "status": {"conditions": list(conditions)},
    }


def pod(name: str, *, ready: bool = False, restarts: int = 0, state: dict[str, Any] | None = None) -> dict[str, Any]:
    status = {"name": "pytorch", "restartCount": restarts, "state": state or {}}
    ready_condition = condition("Ready", str(ready))
    return {
        "metadata": {"name": name, "labels": {}},
        "status": {"conditions": [ready_condition], "containerStatuses": [status]},
    }


@pytest.mark.parametrize(
    ("run", "pods", "phase"),
    [
        (run_of("Job"), [], "Pending"),
        (run_of("Job"), [pod("a", ready=True)], "Running"),
        (run_of("Job"), [pod("a", restarts=1)], "Restarting"),
        (run_of("Job", condition("Complete")), [], "Succeeded"),
        (run_of("Job", condition("SuccessCriteriaMet")), [pod("a", ready=True)], "Succeeded"),
        (run_of("Job", condition("FailureTarget")), [], "Failed"),
        (run_of("Job", condition("Suspended"), suspend=True), [], "Suspended"),
        (run_of("Job", suspend=True, labels={"kueue.x-k8s.io/queue-name": "q"}), [], "Queued"),
        (run_of("PyTorchJob", condition("Created")), [], "Pending"),
        (run_of("PyTorchJob", condition("Running", "False"), condition("Succeeded")), [], "Succeeded"),
        (run_of("PyTorchJob", condition("Restarting")), [], "Restarting"),
        (run_of("PyTorchJob", condition("Failed")), [], "Failed"),
        (run_of("PyTorchJob", condition("Suspended"), runPolicy={"suspend": True}), [], "Suspended"),
        (run_of("PyTorchJob", condition("Failed", "False"), condition("Running")), [pod("a", ready=True)], "Running"),
        (run_of("MPIJob", condition("Succeeded")), [], "Succeeded"),
    ],
)
def test_the_phase_of_each_kind_at_each_time(run: dict[str, Any], pods: list[dict[str, Any]], phase: str) -> None:
    assert phase_of(run, pods) == phase


def test_the_newest_step_is_read_from_the_trainers_own_lines() -> None:
    """The line is made by the trainer's terminal: if its words change, this fails."""
    line = f"[demo-1-0 rank 0] step 40  {step_figures(STEP)}"
    older = line.replace("step 40", "step 30")
    begin = "[demo-1-0 rank 0] pretrain: step 0 of 800, from scratch; 1,000 parameters"
    progress = progress_of([[begin, line, older, "anything else"]])
    assert (progress.stage, progress.step, progress.num_steps) == ("pretrain", 40, 800)
    assert (progress.loss, progress.tokens_per_s) == (2.5, 123.0)


def test_the_last_stage_counts_wherever_its_lines_are() -> None:
    def lines(stage: str, num_steps: int, *steps: int) -> list[str]:
        begin = [f"[demo-1-0 rank 0] {stage}: step 0 of {num_steps}, from the start"] if stage else []
        return begin + [f"[demo-1-0 rank 0] step {step}  {step_figures(STEP)}" for step in steps]

    def told(*logs: list[str]) -> tuple[str | None, int | None, int | None]:
        progress = progress_of(logs)
        return progress.stage, progress.step, progress.num_steps

    assert told(lines("pretrain", 800, 790, 800) + lines("sft", 200, 10)) == ("sft", 10, 200)
    assert told(lines("pretrain", 800, 800) + lines("sft", 200)) == ("sft", None, 200), "its first step is not told yet"
    # the first process has moved from one pod to another
    assert told(lines("pretrain", 800, 790), lines("sft", 200, 10)) == ("sft", 10, 200)
    assert told(lines("sft", 200, 10), lines("pretrain", 800, 790)) == ("sft", 10, 200)
    assert told(lines("pretrain", 800, 100), lines("pretrain", 800, 120)) == ("pretrain", 120, 800)
    assert told(lines("", 0, 150), lines("pretrain", 800, 790)) == (None, 150, None)
    assert told(["nothing yet"], []) == (None, None, None)


@pytest.mark.parametrize(("tokens_per_s", "told"), [(9_800.0, 9_800), (12_140.0, 12_100), (2_340_000.0, 2_340_000)])
@pytest.mark.parametrize("figures", [{}, {"accuracy": 0.8125, "margin": -0.25}])
def test_steps_are_read_at_any_speed_and_in_any_stage(tokens_per_s: float, told: float, figures: dict[str, float]) -> None:
    event = replace(STEP, tokens_per_s=tokens_per_s, figures=figures)
    for line in (f"step 40  {step_figures(event)}", f"step 40  {step_figures(event)}".replace(units.GAP, " ")):
        progress = progress_of([[line]])
        assert (progress.step, progress.loss, progress.tokens_per_s) == (40, 2.5, pytest.approx(told))


def test_the_reasons_of_a_failure_hold_the_pods_last_words() -> None:
    ended = {"terminated": {"exitCode": 65, "message": "some log\ntrainer: run.json:3: model.num_heads: 7 does not divide 128"}}
    run = run_of("Job", condition("Failed", reason="PodFailurePolicy", message="Container pytorch failed with exit code 65"))
    status = status_of(run, [pod("demo-1-0-abc", state=ended)], [])
    assert status.reasons == (
        "PodFailurePolicy: Container pytorch failed with exit code 65",
        "demo-1-0-abc ended with code 65: trainer: run.json:3: model.num_heads: 7 does not divide 128",
    )


def test_warnings_are_told_only_while_pods_are_missing() -> None:
    events = [{"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota"}]
    assert status_of(run_of("Job"), [], events).reasons == ("FailedCreate: exceeded quota",)
    assert status_of(run_of("Job"), [pod("a", ready=True), pod("b", ready=True)], events).reasons == ()


def test_lines_are_told_by_rank_and_carry_their_pod_once() -> None:
    line = "[demo-1-worker-0 rank 3] step 1"
    assert wanted(line, 3)
    assert not wanted(line, 0)
    assert not wanted("[demo-1-worker-0] trainer: waits", 0)
    assert wanted("anything", None)
    assert shown(line, "demo-1-worker-0") == line
    assert shown("Server listening", "demo-1-worker-0") == "[demo-1-worker-0] Server listening"


def test_a_follower_without_a_terminal_prints_changes_only() -> None:
    console = Console(record=True, width=200, force_terminal=False, file=io.StringIO())
    waiting = RunStatus("demo-1", "job", "Pending", 2, 0, "1:4", 0, ("no node",))
    going = RunStatus("demo-1", "job", "Running", 2, 2, "1:4", 0, (), progress_of([[f"step 40  {step_figures(STEP)}"]]))
    with Follower(console) as follower:
        for status in (waiting, waiting, going, going):
            follower.show(status)
    lines = console.export_text().splitlines()
    assert lines == [headline(waiting), "  no node", headline(going), headline(going)]
    assert "step 40  loss 2.5000  123 tok/s" in lines[-1]


def test_the_table_has_a_row_for_each_run() -> None:
    rows = list(run_table([RunStatus("demo-1", "job", "Pending", 2, 0, "1:4", 0, ())]))
    assert rows[0].split() == ["NAME", "BACKEND", "PHASE", "NODES", "STEP", "LOSS", "TOK/S", "RESTARTS"]
    assert rows[1].split() == ["demo-1", "job", "Pending", "0/2", "0"]
