"""Lines of a pod: to its standard output, and to STATE/logs/POD.log, which outlives the pod.

Every line is `[POD rank N] text` if a training process wrote it, and `[POD] text` if the agent or the entrypoint did. In the
log a line stands as it was written; of a pod that writes much, the newest 50 to 100 MB are kept, the older part in POD.log.1.
"""

import re
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

from trainer.files import storage_errors

MOST_BYTES = 50_000_000
_LAST_LINES = 60
_RETRY_S = 10.0
"""Before a log that could not be written is opened again."""
_MPI_TAG = re.compile(r"^\[[^\]\s]*,(\d+)\]<std(?:out|err)>: ?")
"""`mpirun --tag-output`: `[JOB,RANK]<stdout>:`."""


class Output:
    """Takes in lines from any thread. A log that cannot be written is tried again; the lines still go to standard output."""

    def __init__(self, pod: str, log: Path | None, console: IO[bytes] | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._pod = pod
        self._path = log
        self._console = console or sys.stdout.buffer
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._size_bytes = 0
        self._next_try: float | None = None
        self._missing = 0
        self.last: deque[str] = deque(maxlen=_LAST_LINES)
        """The newest lines."""

    def open(self) -> None:
        """Begin the log. Raises StorageError."""
        if self._path is not None:
            with storage_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._start_file(self._path)

    def close(self) -> None:
        """No more lines go to the log."""
        with self._lock:
            self._end_file()
            self._next_try = None

    def is_of_process(self, line: str) -> bool:
        """Whether a training process wrote it, and not the agent."""
        return tagged(line, self._pod).startswith(f"[{self._pod} rank ")

    def write(self, line: str) -> None:
        """One line of the command, without its end."""
        line = tagged(line, self._pod)
        data = line.encode(errors="replace") + b"\n"
        with self._lock:
            self.last.append(line)
            self._write_console(data)
            self._write_log(data)

    def say(self, text: str) -> None:
        """One line of the entrypoint's own."""
        self.write(f"trainer: {text}")

    def _write_console(self, data: bytes) -> None:
        try:
            self._console.write(data)
            self._console.flush()
        except OSError:  # nobody reads it; the log still does
            return

    def _write_log(self, data: bytes) -> None:
        file = self._opened()
        if file is None or self._path is None:
            return
        try:
            if self._size_bytes + len(data) > self._most_bytes:
                file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                file = self._start_file(self._path)
            file.write(data)
            self._size_bytes += len(data)
        except OSError as error:
            self._end_file()
            self._next_try, self._missing = time.monotonic() + _RETRY_S, 1
            self._write_console(
                f"[{self._pod}] trainer: {self._path}: {error}; until it works again, lines go here alone\n".encode()
            )

    def _opened(self) -> IO[bytes] | None:
        """The log, if there is one. A log that failed is opened anew when its time has come, and says what it lacks."""
        if self._file is not None or self._path is None or self._next_try is None:
            return self._file
        if time.monotonic() >= self._next_try:
            try:
                file = self._start_file(self._path)
                file.write(f"\n[{self._pod}] trainer: {self._missing} lines are missing here\n".encode())
                self._next_try = None
                return file
            except OSError:
                self._end_file()
                self._next_try = time.monotonic() + _RETRY_S
        self._missing += 1
        return None

    def _end_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _start_file(self, path: Path) -> IO[bytes]:
        self._file = file = path.open("ab", buffering=0)
        self._size_bytes = path.stat().st_size
        return file


def tagged(line: str, pod: str) -> str:
    """A line with the pod, and the rank where a training process wrote it."""
    if line.startswith(f"[{pod} rank "):
        return line
    by_rank = _MPI_TAG.match(line)
    return f"[{pod} rank {by_rank[1]}] {line[by_rank.end() :]}" if by_rank else f"[{pod}] {line}"
