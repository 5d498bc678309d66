"""Runs as a person sees them: lines, a table, and a line that stays in place while a run is followed."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from k8s.control import without_progress
from k8s.status import RunStatus


def status_lines(status: RunStatus) -> Iterator[str]:
    """A run in a few lines."""
    yield headline(status)
    yield from (f"  {reason}" for reason in status.reasons)


def headline(status: RunStatus) -> str:
    """A run in one line."""
    parts = [f"{status.name}  {status.backend}  {status.phase}  {status.ready}/{status.nodes} nodes ({status.node_range})"]
    progress = status.progress
    if progress.step is not None:
        of = f" of {progress.num_steps:,}" if progress.num_steps else ""
        stage = f"{progress.stage} " if progress.stage else ""
        parts.append(f"{stage}step {progress.step:,}{of}  loss {progress.loss:.4f}  {progress.tokens_per_s:,.0f} tok/s")
    if status.restarts:
        parts.append(f"{status.restarts} restarts")
    return "  ".join(parts)


def run_table(statuses: Sequence[RunStatus]) -> Iterator[str]:
    """Runs one below the other."""
    rows = [("NAME", "BACKEND", "PHASE", "NODES", "STEP", "LOSS", "TOK/S", "RESTARTS")]
    for each in statuses:
        progress = each.progress
        figures = ("", "", "")
        if progress.step is not None:
            figures = (str(progress.step), f"{progress.loss:.4f}", f"{progress.tokens_per_s:,.0f}")
        rows.append((each.name, each.backend, each.phase, f"{each.ready}/{each.nodes}", *figures, str(each.restarts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


class Follower:
    """Shows a run while it is waited for: on a terminal one line that moves, elsewhere a line at each change."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, transient=True) if self._console.is_terminal else None
        self._last: RunStatus | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        if self._last is not None:
            self._print(self._last)

    def show(self, status: RunStatus) -> None:
        """Tell what is new."""
        changed = self._last is None or without_progress(status) != without_progress(self._last)
        self._last = status
        if self._live is not None:
            self._live.update(Text("\n".join(status_lines(status))))
        elif changed:
            self._print(status)

    def _print(self, status: RunStatus) -> None:
        for line in status_lines(status):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
