"""A sign of progress from each training process to whoever watches this machine's processes.

A counter for each process in one small file that both sides map into memory: raising it is a write to memory, so it works while
every disk is full and costs nothing beside a micro-batch.
"""

import mmap
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

VARIABLE = "PRETRAIN_RUN_HEARTBEAT"
"""Names the file, in the environment of the training processes."""
_COUNTER_BYTES = 8


class Heartbeat:
    """This process's counter; one that nobody watches where there is no file."""

    def __init__(self, memory: mmap.mmap | None = None, place: int = 0) -> None:
        self._memory, self._at, self._count = memory, place * _COUNTER_BYTES, 0

    @staticmethod
    def of(environment: Mapping[str, str], place: int) -> "Heartbeat":
        """The counter of this machine's process number `place`."""
        path = environment.get(VARIABLE)
        if not path:
            return UNWATCHED
        with suppress(OSError, ValueError), Path(path).open("r+b") as file:
            if os.fstat(file.fileno()).st_size >= (place + 1) * _COUNTER_BYTES:
                return Heartbeat(mmap.mmap(file.fileno(), 0), place)
        return UNWATCHED

    def beat(self) -> None:
        """Something was done: a micro-batch, or a batch of validation."""
        if self._memory is not None:
            self._count = (self._count + 1) % (1 << 63)
            self._memory[self._at : self._at + _COUNTER_BYTES] = self._count.to_bytes(_COUNTER_BYTES, "little")


UNWATCHED = Heartbeat()
"""Nobody looks."""


class Pulse:
    """The watching side: the counters of this machine's processes."""

    def __init__(self, path: Path, processes: int) -> None:
        """Makes the file. Raises OSError."""
        self.path = path
        path.write_bytes(bytes(_COUNTER_BYTES * processes))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._seen = bytes(self._memory)

    def moved(self) -> bool:
        """Whether any process did something since the last look."""
        before, self._seen = self._seen, bytes(self._memory)
        return before != self._seen
