"""Which rows each micro-batch took, written so that anyone can check order, repeats and gaps from outside.

    RUN/sample_log/attempt-0001/rank-00000.jsonl      {"step": 7, "micro_batch": 3, "rows": [812, 17, ...]}

`step` counts from 0: the step under way. After a kill, the steps since the last checkpoint are taken again in the next
attempt, from the weights before them; the last attempt at a step is the one that holds.
"""

import json
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.files import LineFile
from trainer.tokens.order import Ids, Order

_MOST_WAITING = 100_000
"""Lines that a full disk may keep waiting; beyond, the oldest are lost, which `check_order` then tells as skipped rows."""


class SampleLog:
    """One process's part of the log. Training does not end for its trouble: lines wait until the disk takes them."""

    def __init__(self, run_folder: Path, attempt: int, rank: int) -> None:
        """Raises StorageError if there is no place for the file."""
        self._path = run_folder / "sample_log" / f"attempt-{attempt:04d}" / f"rank-{rank:05d}.jsonl"
        self._file = LineFile(self._path)
        self._waiting: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self._fails = False

    def write(self, step: int, micro_batch: int, rows: Ids) -> None:
        """Note a micro-batch that is about to be computed."""
        self._waiting.append(json.dumps({"step": step, "micro_batch": micro_batch, "rows": rows.tolist()}).encode())
        try:
            while self._waiting:
                self._file.append(self._waiting[0])
                self._waiting.popleft()
            self._fails = False
        except OSError as error:
            first, self._fails = not self._fails, True
            with suppress(OSError):  # standard error may be a file on the same disk
                if first:
                    print(f"{self._path}: {error.strerror}; tried again while training goes on", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def next_attempt(run_folder: Path) -> int:
    """The number of the attempt that starts now."""
    return 1 + len(list((run_folder / "sample_log").glob("attempt-*")))


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What the log says about the first `steps` steps."""

    steps: int
    samples: int
    repeated: int
    """Rows taken twice within an epoch."""
    skipped: int
    """Rows that the order asks for and that nobody took."""


def check_order(run_folder: Path, order: Order, num_steps: int) -> OrderReport:
    """Compare the log of the first `num_steps` steps with the order."""
    taken = _rows_by_step(run_folder)
    seen: Counter[tuple[int, int]] = Counter()
    samples = skipped = 0
    for step in range(num_steps):
        wanted = order.rows_of_step(step)
        got = np.array(taken.get(step, []), np.int64)
        samples += len(got)
        missing = Counter(wanted.tolist())
        missing.subtract(Counter(got.tolist()))
        skipped += sum(count for count in missing.values() if count > 0)
        epochs = _epoch_of_each(order, step, got, wanted)
        seen.update(zip(epochs, got.tolist(), strict=True))
    repeated = sum(count - 1 for count in seen.values())
    return OrderReport(num_steps, samples, repeated, skipped)


def _epoch_of_each(order: Order, step: int, got: Ids, wanted: Ids) -> list[int]:
    """The epoch that each row of a step belongs to; a row that the step should not have counts for the step's first epoch."""
    positions = np.arange(order.start_of_step(step), order.start_of_step(step) + len(wanted))
    epochs_of: dict[int, list[int]] = {}
    for row, epoch in zip(wanted.tolist(), (positions // order.num_rows).tolist(), strict=True):
        epochs_of.setdefault(row, []).append(epoch)
    first = order.start_of_step(step) // order.num_rows
    return [epochs_of[row].pop(0) if epochs_of.get(row) else first for row in got.tolist()]


def _rows_by_step(run_folder: Path) -> dict[int, list[int]]:
    taken: dict[int, list[int]] = {}
    for attempt in sorted((run_folder / "sample_log").glob("attempt-*")):
        of_attempt: dict[int, dict[int, list[int]]] = {}
        for file in sorted(attempt.glob("rank-*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # torn by a kill: its micro-batch was not finished either
                of_attempt.setdefault(record["step"], {}).setdefault(record["micro_batch"], []).extend(record["rows"])
        for step, by_micro_batch in of_attempt.items():
            taken[step] = [row for number in sorted(by_micro_batch) for row in by_micro_batch[number]]
    return taken
