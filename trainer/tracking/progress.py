"""A bar for work measured in bytes, where a person looks; in a log a line every half minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trainer.tracking import units

_LOG_EVERY_S = 30.0


@contextmanager
def byte_progress(what: str, log_every_s: float = _LOG_EVERY_S) -> Iterator[Callable[[int, int], None]]:
    """A function to call with bytes done and bytes in all."""
    columns = (
        TextColumn(what),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Lines(what, log_every_s).show
        return
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    """Progress as lines of a log, none of them for work that is done soon."""

    def __init__(self, what: str, every_s: float) -> None:
        self._what, self._every_s = what, every_s
        self._started = self._told = time.monotonic()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told < self._every_s or not 0 < done < total:
            return
        self._told = now
        left = units.duration((now - self._started) * (total - done) / done)
        line = f"{self._what}: {done / total:.0%} of {total / 1e6:,.1f} MB, {left} left"
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)
