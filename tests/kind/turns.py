"""Stories beside each other in several processes: most of them share the cluster, some need a part of it to themselves."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.2


class Turns:
    """Who may use one part of the cluster: many at once, or one alone. By locks of files, which end with their process.

    Nobody new may join while somebody waits to be alone, who would otherwise wait for ever.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self._part = part
        self._shares = False
        self._users = os.open(folder / f"{part}.lock", os.O_RDWR | os.O_CREAT)
        self._door = os.open(folder / f"{part}.door", os.O_RDWR | os.O_CREAT)

    @contextmanager
    def shared(self, deadline_s: float = 600.0) -> Iterator[None]:
        """Use it beside others. Raises TimeoutError."""
        deadline = time.monotonic() + deadline_s
        self._wait(self._door, fcntl.LOCK_EX, deadline)
        try:
            self._wait(self._users, fcntl.LOCK_SH, deadline)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        self._shares = True
        try:
            yield
        finally:
            self._shares = False
            fcntl.flock(self._users, fcntl.LOCK_UN)

    @contextmanager
    def alone(self, deadline_s: float = 600.0) -> Iterator[None]:
        """Use it when nobody else does, from within `shared()` or without. Raises TimeoutError."""
        deadline = time.monotonic() + deadline_s
        self._wait(self._door, fcntl.LOCK_EX, deadline)
        try:
            self._wait(self._users, fcntl.LOCK_EX, deadline)
            yield
        finally:
            # a lock that could not be changed is lost; behind the closed door it is to be had again at once
            fcntl.flock(self._users, fcntl.LOCK_SH if self._shares else fcntl.LOCK_UN)
            fcntl.flock(self._door, fcntl.LOCK_UN)

    def _wait(self, file: int, operation: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(file, operation | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self._part}: other stories use it and do not end") from None
                time.sleep(_POLL_S)


@dataclass(frozen=True)
class Parts:
    """What the stories of one session have in common."""

    api_server: Turns
    operators: Turns
    reference: Turns

    @staticmethod
    def of(folder: Path) -> "Parts":
        """Those of all processes that name the same folder."""
        return Parts(Turns(folder, "api-server"), Turns(folder, "operators"), Turns(folder, "reference"))
