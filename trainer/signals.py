"""SIGTERM, SIGHUP and SIGINT: outside of the step loop they end the command at once, inside it they become a flag."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.errors import Preempted

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class StopRequest:
    """Whether a signal asked this process to stop."""

    def __init__(self) -> None:
        self._signal: str | None = None
        self._deferred = False

    def install(self) -> None:
        """Take over the stop signals; call it early, from the main thread."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._handle)

    def ignore_from_now_on(self) -> None:
        """The command is over but for Python's own exit, which a signal must not turn into a traceback."""
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @property
    def requested(self) -> bool:
        """Whether a stop signal came."""
        return self._signal is not None

    @property
    def signal_name(self) -> str:
        """The signal that came first, or the words for one that another process got."""
        return self._signal or "a signal to another process"

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While the block runs, signals only set `requested`: the block looks at it and saves before it ends."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def raise_if_requested(self) -> None:
        """End now if a signal came while signals were deferred. Raises Preempted."""
        if self.requested:
            raise Preempted(f"{self._signal}: stopped; start the same command again to go on")

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = self._signal is not None
        self._signal = self._signal or signal.Signals(number).name
        if not self._deferred or (again and number == signal.SIGINT):
            self.raise_if_requested()
