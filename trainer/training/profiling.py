"""Traces of a few steps, for chrome://tracing or ui.perfetto.dev."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED_STEPS, TRACED_STEPS = 5, 3
"""The first steps warm up (allocations, compilation); a few behind them tell the rest."""


@contextmanager
def no_profiler() -> Iterator[Callable[[], None]]:
    """In place of a profiler: costs nothing."""
    yield lambda: None


@contextmanager
def traced(path: Path) -> Iterator[Callable[[], None]]:
    """Trace steps 6 to 8 of this process into `path` (JSON); call what is yielded at the end of each step."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])

    def write(profiler: profile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))

    plan = schedule(wait=SKIPPED_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
