"""MPIJob: mpirun over an sshd that runs as uid 1000, in a namespace that enforces Pod Security `restricted`."""

import pytest

from tests.kind.stories import Stories

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]

STEPS = 60


def test_two_workers_train_by_deepspeed_over_sshd_and_go_on_after_a_stop(operators: None, stories: Stories) -> None:
    trainer = {
        "pretrain": {"steps": STEPS},
        "engine": {"kind": "deepspeed", "deepspeed": {"zero_stage": 1}},
    }
    run = stories.submit("mpi", backend="mpijob", nodes=2, trainer=trainer)
    run.wait_for_steps(5, deadline_s=400)
    stories.launcher("stop", run.name)
    stopped_at = run.last_step()
    assert stopped_at < STEPS

    stories.launcher("resume", run.name)
    run.wait_for_phase("Succeeded", deadline_s=600)
    first, second = run.events("training_started")
    assert (first["world_size"], second["world_size"]) == (2, 2)
    assert first["engine"].startswith("deepspeed")
    assert second["step"] == stopped_at
    assert run.last_step() == STEPS
