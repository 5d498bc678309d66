"""MPIJob: mpirun over an sshd that runs as uid 1000, in a namespace that enforces Pod Security `restricted`."""

import pytest

from tests.kind.stories import Stories

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]


def test_two_workers_train_by_deepspeed_over_sshd(stories: Stories) -> None:
    trainer = {
        "pretrain": {"steps": 30, "schedule": {"warmup_steps": 5}},
        "engine": {"kind": "deepspeed", "deepspeed": {"zero_stage": 1}},
    }
    run = stories.submit("mpi", backend="mpijob", nodes=2, trainer=trainer)
    status = run.wait_for_phase("Succeeded", deadline_s=600)
    assert status["step"] in (None, 30)
    assert run.worlds() == [2]
    assert run.events("training_started")[0]["engine"].startswith("deepspeed")
    assert run.last_step() == 30


def test_stopped_mpijob_saves_and_resumes(stories: Stories) -> None:
    run = stories.submit("mpi-stopped", backend="mpijob", nodes=2, trainer={"pretrain": {"steps": 150}})
    run.wait_for_steps(5, deadline_s=400)
    stories.launcher("stop", run.name)
    stories.launcher("resume", run.name)
    run.wait_for_phase("Succeeded", deadline_s=600)
    assert run.last_step() == 150
