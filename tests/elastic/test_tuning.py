"""sft, reward, dpo and grpo are resumed and resized as pretraining is: the same rows, the same bits, the same losses."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks, runs
from tests.support.tuning import pretrained, tuned_from

pytestmark = pytest.mark.tuning

STEPS = 30
LORA = {"sft__lora": {"rank": 4, "alpha": 8.0}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "lora": ("sft", LORA),
    "reward": ("reward", {}),
    "dpo": ("dpo", {}),
    # saves at step 4, 8, ... lie amid the steps whose answers the same weights write
    "grpo": ("grpo", {"grpo__updates_per_rollout": 3}),
}


@pytest.fixture(scope="module")
def base(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(small_data, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def undisturbed(base: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of all steps at once, of each kind; saved at step 6 as well, to be continued from there."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = train(kind, base, small_data, folder)
    return found


def config_of(kind: str, base: Path, data: Path, folder: Path) -> tuple[str, str]:
    stage, changes = KINDS[kind]
    # one path for all, as it is part of what determines the result
    config = tuned_from(base, data, folder, stage, **{f"{stage}__steps": STEPS, "checkpoint__keep": 9, **changes})
    return stage, str(config)


def train(kind: str, base: Path, data: Path, folder: Path, *settings: str, world_size: int = 1) -> Path:
    stage, config = config_of(kind, base, data, folder)
    options = [option for setting in settings for option in ("--set", setting)]
    ranks.run_trainer(stage, "--config", config, *options, folder=folder, world_size=world_size)
    return folder / "run"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kill_after", [1, 13])
def test_sigkill_and_resume_give_bit_identical_weights_optimizer_and_samples(
    kind: str, kill_after: int, base: Path, undisturbed: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    stage, config = config_of(kind, base, small_data, tmp_path)
    run = tmp_path / "run"
    process = ranks.trainer(stage, "--config", config, folder=tmp_path)
    process.wait_for(lambda: runs.last_step(run, stage) >= kill_after)
    process.signal(signal.SIGKILL, rank=0)
    assert process.wait() == [-signal.SIGKILL]
    assert runs.last_step(run, stage) < STEPS
    ranks.run_trainer(stage, "--config", config, folder=tmp_path)
    assert runs.state_of(run, STEPS, stage) == runs.state_of(undisturbed[kind], STEPS, stage)
    assert runs.rows_by_step(run, stage) == runs.rows_by_step(undisturbed[kind], stage)
    assert runs.losses(run, stage) == runs.losses(undisturbed[kind], stage)


@pytest.mark.parametrize("kind", KINDS)
def test_worlds_of_1_to_3_take_the_same_rows_and_lose_alike_from_one_checkpoint(
    kind: str, base: Path, undisturbed: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    stage = KINDS[kind][0]
    for size in (1, 2, 3):
        folder = tmp_path / str(size)
        folder.mkdir()
        shutil.copytree(undisturbed[kind], folder / "run")
        for name in ("DONE", "sample_log"):
            shutil.move(folder / "run" / stage / name, folder / f"unused-{name}")
        for step in (8, 12, 16, 20, 24, 28, STEPS):
            shutil.rmtree(folder / "run" / stage / "checkpoints" / f"step-{step:08d}")
        run = train(kind, base, small_data, folder, f"{stage}.stop_after=14", world_size=size)
        wanted = runs.rows_by_step(undisturbed[kind], stage)
        assert runs.rows_by_step(run, stage) == {step: wanted[step] for step in range(4, 14)}
        for step in range(5, 15):
            there = runs.losses(undisturbed[kind], stage)[step]
            assert runs.losses(run, stage)[step] == pytest.approx(there, abs=1e-5), (size, step)
        for name in ("validated", "answers_validated", "preferences_validated", "answers_judged"):
            steps = [event["step"] for event in runs.events(run, name, stage)]
            assert steps == ([0, STEPS, 14] if runs.events(undisturbed[kind], name, stage) else [])


def _train_late(stage: str, config: str, signal_at: int) -> None:
    """Train as on a GPU, where a step's outcome is read while the next one runs; a signal comes as step `signal_at` begins."""
    import os

    from trainer.cli import main
    from trainer.training.loop import TrainingLoop

    begin = TrainingLoop.__post_init__

    def late(self: TrainingLoop) -> None:
        self.reads_late = True
        start_step = self.module.start_step

        def start(step: int) -> None:
            start_step(step)
            if step == signal_at:
                os.kill(os.getpid(), signal.SIGTERM)

        self.module.start_step = start  # type: ignore[method-assign]
        begin(self)

    TrainingLoop.__post_init__ = late  # type: ignore[method-assign]
    main([stage, "--config", config])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signal_at", [5, 6])
def test_a_signal_while_outcomes_are_read_late_loses_nothing_in_any_stage(
    kind: str, signal_at: int, base: Path, undisturbed: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    # grpo: steps 3 to 5 learn from answers of one model, which step 6 replaces
    stage, config = config_of(kind, base, small_data, tmp_path)
    run = tmp_path / "run"
    first = ranks.start(_train_late, (stage, config, signal_at), tmp_path)
    assert first.wait() == [143], first.text()
    assert runs.newest_step(run, stage) == signal_at
    second = ranks.start(_train_late, (stage, config, -1), tmp_path)
    assert second.wait() == [0], second.text()
    assert runs.state_of(run, STEPS, stage) == runs.state_of(undisturbed[kind], STEPS, stage)
    assert runs.losses(run, stage) == runs.losses(undisturbed[kind], stage)
    assert runs.rows_by_step(run, stage) == runs.rows_by_step(undisturbed[kind], stage)


@pytest.mark.parametrize("kind", ["lora", "reward", "dpo"])
def test_fsdp_on_two_processes_loses_as_ddp_on_one(
    kind: str, base: Path, undisturbed: dict[str, Path], small_data: Path, tmp_path: Path
) -> None:
    stage = KINDS[kind][0]
    run = train(kind, base, small_data, tmp_path, f"{stage}.stop_after=8", "engine.kind=fsdp", world_size=2)
    for step in range(1, 9):
        assert runs.losses(run, stage)[step] == pytest.approx(runs.losses(undisturbed[kind], stage)[step], abs=1e-5), step


def test_in_bf16_dpo_by_fsdp_begins_undecided(base: Path, small_data: Path, tmp_path: Path) -> None:
    options = ("dpo.stop_after=2", "engine.kind=fsdp", "precision=bf16")
    run = train("dpo", base, small_data, tmp_path, *options, world_size=2)
    first = runs.events(run, "steps_done", "dpo")[0]
    assert (first["figures"]["margin"], first["figures"]["kl"]) == (0.0, 0.0)


def test_a_run_of_all_stages_on_two_processes_keeps_them_apart(small_data: Path, tmp_path: Path) -> None:
    from tests.support.data import write_config

    stages = ["pretrain", "sft", "reward", "dpo", "grpo", "evaluate", "generate", "report"]
    config = write_config(tmp_path / "config.yaml", small_data, stages=stages)
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path, world_size=2)
    run = tmp_path / "run"
    for stage in stages[:5]:
        assert sorted(runs.losses(run, stage)) == list(range(1, 13))
        assert runs.events(run, "order_checked", stage)[0]["skipped"] == 0
        assert (runs.of_stage(run, stage) / "DONE").exists()
    starts = {event["stage"]: event["started_from"] for event in runs.events(run, "training_started")}
    assert starts["pretrain"] is None
    assert starts["sft"] == "../../checkpoints/step-00000012"
    assert starts["reward"] == starts["dpo"] == "../../sft/checkpoints/step-00000012"
    assert starts["grpo"] == "../../dpo/checkpoints/step-00000012"
    page = (run / "report.html").read_text()
    tuned = ("Instruction tuning", "Reward model", "Preference optimisation", "Reinforcement by rewards")
    for heading in ("Learning", *tuned, "Evaluation"):
        assert heading in page
    evaluated = [each["stage"] for each in json.loads((run / "evaluation.json").read_text())["checkpoints"]]
    assert evaluated == ["pretrain", "sft", "dpo", "grpo"]  # a reward model writes no text
