"""One stream of events to several sinks. A sink that fails is told to the others and tried again; training goes on.

What a sink missed waits for it, so an event log on a full disk is whole again once there is space.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from trainer.events import Event, Record, SinkFailed, SinkRecovered, TrainingEvent

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0
"""Before a sink that failed is tried again: doubled from the first to the most."""
MOST_WAITING = 10_000
"""Events kept for a sink that fails; beyond, the oldest are lost and counted."""


class Sink(Protocol):
    """A reader of events."""

    name: str

    def write(self, record: Record) -> None:
        """Take in one event, whole or not at all: after an error the same event comes again."""
        ...

    def close(self) -> None:
        """No more events will come."""
        ...


class Tracker:
    """Hands each event to every sink. Without sinks it is a process that keeps silent."""

    def __init__(
        self,
        run: str,
        sinks: Sequence[Sink] = (),
        stage: str = "pretrain",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stage` is that of the training events."""
        self._run = run
        self._stage = stage
        self._outlets = [_Outlet(sink, clock) for sink in sinks]

    def emit(self, event: Event, step: int | None = None) -> None:
        """Tell an event, at `step` if it does not say so itself."""
        waiting = deque([event if step is None else replace(event, step=step)])
        while waiting:  # a sink's failure is an event, too; each sink tells one at most before it has recovered
            next_event = waiting.popleft()
            if isinstance(next_event, TrainingEvent) and next_event.stage != self._stage:
                next_event = replace(next_event, stage=self._stage)
            record = Record(time.time(), self._run, next_event)
            waiting += [news for outlet in self._outlets if (news := outlet.take(record)) is not None]

    def close(self) -> None:
        """Let every sink finish, the first one last, so that it hears of the others' failures. Raises nothing."""
        while self._outlets:
            news = self._outlets.pop().close()
            if news is not None:
                self.emit(news)


class _Outlet:
    """One sink, and what waits for it while it fails."""

    def __init__(self, sink: Sink, clock: Callable[[], float]) -> None:
        self._sink, self._clock = sink, clock
        self._waiting: deque[Record] = deque()
        self._lost = 0
        self._failed_at: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._next_try = 0.0

    def take(self, record: Record) -> Event | None:
        """Write a record, or keep it until the sink works again. Returns what the others should know."""
        self._waiting.append(record)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
        if self._failed_at is not None and self._clock() < self._next_try:
            return None
        return self._attempt(self._write_waiting)

    def close(self) -> Event | None:
        """Write what waits, and close the sink. Returns what the others should know."""
        news = self._attempt(self._write_waiting)
        return self._attempt(self._sink.close) or news

    def _write_waiting(self) -> None:
        while self._waiting:
            self._sink.write(self._waiting[0])
            self._waiting.popleft()

    def _attempt(self, act: Callable[[], None]) -> Event | None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a sink may fail in any way; it becomes an event for the others
            return self._failed(f"{type(error).__name__}: {error}")
        return self._recovered()

    def _failed(self, reason: str) -> SinkFailed | None:
        self._next_try = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)
        if self._failed_at is not None:
            return None
        self._failed_at = self._clock()
        return SinkFailed(sink=self._sink.name, reason=reason)

    def _recovered(self) -> SinkRecovered | None:
        if self._failed_at is None:
            return None
        event = SinkRecovered(sink=self._sink.name, duration_s=self._clock() - self._failed_at, lost_events=self._lost)
        self._failed_at, self._pause_s, self._lost = None, FIRST_PAUSE_S, 0
        return event
