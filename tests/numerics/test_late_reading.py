"""On a GPU the loop reads a step's outcome while the next one runs. Here a CPU is asked for the same; nothing may change."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config


def _train_late(config: str, nan_at: int, signal_at: int) -> None:
    """Train with late reading; one micro-batch's loss is not a number, and a signal comes amid another one, on rank 1."""
    import math

    from trainer.cli import main
    from trainer.training.loop import TrainingLoop
    from trainer.training.pretrain import NextTokenLoss

    begin, original, calls = TrainingLoop.__post_init__, NextTokenLoss.forward, 0

    def late(self: TrainingLoop) -> None:
        self.reads_late = True
        begin(self)

    def forward(self: NextTokenLoss, batch: Any) -> Any:
        nonlocal calls
        if self.training:
            calls += 1
        if calls == signal_at and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        loss = original(self, batch)
        return loss * math.nan if calls == nan_at and os.environ.get("RANK", "1") == "1" else loss

    TrainingLoop.__post_init__ = late  # type: ignore[method-assign]
    NextTokenLoss.forward = forward  # type: ignore[method-assign]
    main(["pretrain", "--config", config])


@pytest.mark.parametrize("world_size", [1, 2])
def test_late_reading_ends_in_the_same_bits_with_a_skipped_step_and_after_a_signal(
    small_data: Path, tmp_path: Path, world_size: int
) -> None:
    micro_batches = 4 // world_size
    nan_at = 2 * micro_batches + 1
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
        write_config(folder / "config.yaml", small_data, pretrain__steps=11, validation__every_steps=6)
    at_once = ranks.start(_train_late, (str(whole / "config.yaml"), nan_at, -1), whole, world_size)
    assert at_once.wait() == [0] * world_size, at_once.text()
    first = ranks.start(_train_late, (str(stopped / "config.yaml"), nan_at, 6 * micro_batches + 1), stopped, world_size)
    assert first.wait() == [143] * world_size, first.text()
    # the signal came amid the seventh step, which was left off; what was under way behind it did not count
    assert runs.newest_step(stopped / "run") == 6
    second = ranks.start(_train_late, (str(stopped / "config.yaml"), -1, -1), stopped, world_size)
    assert second.wait() == [0] * world_size, second.text()
    assert runs.state_of(stopped / "run", 11) == runs.state_of(whole / "run", 11)
    assert runs.losses(stopped / "run") == runs.losses(whole / "run")
    assert runs.state_of(whole / "run", 11)[2]["skipped_steps"] == 1
    assert runs.rows_by_step(stopped / "run") == runs.rows_by_step(whole / "run")


def test_late_reading_is_not_seen_from_outside(small_data: Path, tmp_path: Path) -> None:
    late, soon = tmp_path / "late", tmp_path / "soon"
    for folder in (late, soon):
        folder.mkdir()
        write_config(folder / "config.yaml", small_data)
    processes = ranks.start(_train_late, (str(late / "config.yaml"), -1, -1), late)
    assert processes.wait() == [0], processes.text()
    ranks.run_trainer("pretrain", "--config", str(soon / "config.yaml"), folder=soon)
    assert runs.state_of(late / "run", 12) == runs.state_of(soon / "run", 12)
    assert runs.losses(late / "run") == runs.losses(soon / "run")
