"""N steps at once equal k steps, an end of any kind, and the rest."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config

STEPS = 60
HARD = {
    "model__dropout": 0.1,
    "pretrain__optimizer": {"kind": "muon", "lr": 0.01},  # AdamW moves embedding and norms
    "pretrain__batch_warmup_steps": 10,
}


@pytest.fixture(scope="module")
def undisturbed(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all steps at once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_config(folder / "config.yaml", small_data, pretrain__steps=STEPS, **HARD)
    ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
    return folder / "run"


def same_end(run: Path, undisturbed: Path) -> None:
    assert runs.state_of(run, STEPS) == runs.state_of(undisturbed, STEPS)
    assert runs.rows_by_step(run) == runs.rows_by_step(undisturbed)
    assert runs.losses(run) == runs.losses(undisturbed)


@pytest.mark.parametrize("kill_after", [1, 9, 30])
def test_sigkill_and_resume_give_bit_identical_weights_optimizer_and_samples(
    kill_after: int, undisturbed: Path, small_data: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=STEPS, **HARD)
    run = tmp_path / "run"
    process = ranks.trainer("pretrain", "--config", str(config), folder=tmp_path)
    process.wait_for(lambda: runs.last_step(run) >= kill_after)
    process.signal(signal.SIGKILL, rank=0)
    assert process.wait() == [-signal.SIGKILL]
    assert runs.last_step(run) < STEPS
    ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path)
    same_end(run, undisturbed)


def test_stop_after_splits_a_run_without_a_trace(undisturbed: Path, small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=STEPS, **HARD)
    for stop_after in (7, 8, 33, STEPS):
        ranks.run_trainer("pretrain", "--config", str(config), "--set", f"pretrain.stop_after={stop_after}", folder=tmp_path)
        assert runs.newest_step(tmp_path / "run") == stop_after
    same_end(tmp_path / "run", undisturbed)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_gives_the_same_end(
    undisturbed: Path, small_data: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=STEPS, **HARD)
    run = tmp_path / "run"
    ranks.run_trainer("pretrain", "--config", str(config), "--set", "pretrain.stop_after=30", folder=tmp_path)
    file = run / "checkpoints" / "step-00000030" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    output = ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path)
    assert f"checkpoint passed over: {file}: its SHA-256 is not the manifest's" in output
    assert runs.events(run, "training_started")[-1]["resumed_from"].endswith("step-00000028")
    same_end(run, undisturbed)


def test_done_is_not_done_again(undisturbed: Path, small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=STEPS, **HARD)
    output = ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path)
    assert "pretrain: done before" in output
    assert runs.events(tmp_path / "run", "steps_done") == runs.events(undisturbed, "steps_done")
