"""One stream of events to several sinks; a sink that fails is counted and dropped, training goes on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from trainer.events import Event, Record, SinkFailed, TrainingEvent


class Sink(Protocol):
    """A reader of events."""

    name: str

    def write(self, record: Record) -> None:
        """Take in one event."""
        ...

    def close(self) -> None:
        """No more events will come."""
        ...


class Tracker:
    """Hands each event to every sink that still works. Without sinks it is a process that keeps silent."""

    def __init__(self, run: str, sinks: Sequence[Sink] = (), stage: str = "pretrain") -> None:
        """`stage` is that of the training events."""
        self._run = run
        self._stage = stage
        self._sinks = list(sinks)

    def emit(self, event: Event, step: int | None = None) -> None:
        """Tell an event, at `step` if it does not say so itself."""
        if isinstance(event, TrainingEvent) and event.stage != self._stage:
            event = replace(event, stage=self._stage)
        record = Record(time.time(), self._run, event if step is None else replace(event, step=step))
        for sink in list(self._sinks):
            if sink in self._sinks:  # it may have failed meanwhile, at the event that told another sink's failure
                self._guard(sink, lambda sink=sink: sink.write(record))  # type: ignore[misc]

    def close(self) -> None:
        """Let every sink finish, the first one last, so that it hears of the others' failures."""
        for sink in reversed(self._sinks.copy()):
            if self._guard(sink, sink.close):
                self._sinks.remove(sink)

    def _guard(self, sink: Sink, act: Callable[[], None]) -> bool:
        """Whether it went well."""
        try:
            act()
            return True
        except Exception as error:  # noqa: BLE001 - a sink may fail in any way; it becomes an event for the others
            self._sinks.remove(sink)
            self.emit(SinkFailed(sink=sink.name, reason=f"{type(error).__name__}: {error}"))
            return False
