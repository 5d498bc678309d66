"""A stop signal at any moment ends in a checkpoint and exit code 143, and loses no finished step.

The signal is sent by the process to itself from inside the phase that is meant, so that it cannot miss it.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config

STEPS = 20


def _send_at_call(owner: Any, name: str, call: int, number: signal.Signals, rank: str) -> None:
    """Make the `call`-th call of a method send a signal to its own process first, on one rank."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and os.environ.get("RANK", "0") == rank:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _train_with_signal(phase: str, number: int, rank: str, config: str) -> None:
    from trainer.checkpoint.writing import CheckpointWriter
    from trainer.cli import main
    from trainer.files import Disk
    from trainer.training.engines.ddp import DataParallel
    from trainer.training.loop import TrainingLoop
    from trainer.training.pretrain import NextTokenLoss
    from trainer.training.validation import Validator

    owner, name, call = {
        "start": (TrainingLoop, "run", 1),
        "warm-up": (DataParallel, "start_step", 1),
        "accumulation": (NextTokenLoss, "forward", 4 * 9 + 2 if rank == "0" and "RANK" not in os.environ else 2 * 9 + 2),
        "update": (DataParallel, "finish_step", 9),
        "evaluation": (Validator, "measure", 2),  # the first one is before the first step
        "saving": (CheckpointWriter, "save", 2),
        "writing": (Disk, "flush", 4),
    }[phase]
    _send_at_call(owner, name, call, signal.Signals(number), rank)
    main(["pretrain", "--config", config])


@pytest.fixture(scope="module")
def undisturbed(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    result = {}
    for size in (1, 2):
        folder = tmp_path_factory.mktemp(f"undisturbed-{size}")
        config = write_config(folder / "config.yaml", small_data, pretrain__steps=STEPS, validation__every_steps=6)
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder, world_size=size)
        result[size] = folder / "run"
    return result


@pytest.mark.parametrize("phase", ["start", "warm-up", "accumulation", "update", "evaluation", "saving", "writing"])
@pytest.mark.parametrize(
    ("number", "world_size", "rank"), [(signal.SIGTERM, 1, "0"), (signal.SIGTERM, 2, "1"), (signal.SIGHUP, 2, "0")]
)
def test_a_signal_loses_no_finished_step(
    phase: str,
    number: signal.Signals,
    world_size: int,
    rank: str,
    undisturbed: dict[int, Path],
    small_data: Path,
    tmp_path: Path,
) -> None:
    if phase in ("saving", "writing") and rank == "1":
        rank = "0"  # the first process is the one that saves
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=STEPS, validation__every_steps=6)
    run = tmp_path / "run"
    arguments = (phase, int(number), rank, str(config))
    stopped = ranks.start(_train_with_signal, arguments, tmp_path, world_size)
    assert stopped.wait() == [143] * world_size, stopped.text()
    finished = runs.last_step(run)
    assert runs.newest_step(run) == finished < STEPS, stopped.text()
    assert number.name in stopped.text()
    ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path, world_size=world_size)
    assert runs.state_of(run, STEPS) == runs.state_of(undisturbed[world_size], STEPS)
    assert runs.rows_by_step(run) == runs.rows_by_step(undisturbed[world_size])


def test_a_signal_while_preparing_leaves_no_half_written_corpus_exits_143_and_the_next_call_goes_on(
    small_data: Path, tmp_path: Path
) -> None:
    raw = small_data / "raw"
    config = write_config(tmp_path / "config.yaml", tmp_path / "data", corpus__sources=[{"name": "all", "path": str(raw)}])
    stopped = ranks.start(_prepare_with_signal, (str(config),), tmp_path)
    assert stopped.wait() == [143]
    assert [path.name for path in tmp_path.glob("data/*")] == ["corpus.work"]
    ranks.run_trainer("prepare", "--config", str(config), folder=tmp_path)
    assert [path.name for path in tmp_path.glob("data/*")] == ["corpus"]


def _prepare_with_signal(config: str) -> None:
    from trainer.cli import main
    from trainer.corpus.store import PartWriter

    _send_at_call(PartWriter, "add", 100, signal.SIGTERM, "0")
    main(["prepare", "--config", config])
