"""One command with all its descendants: started, read line by line, ended to the last of them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MOST_LINE_BYTES = 1 << 16
_LAST_WORDS_S = 2.0
"""After the end of a command, its last lines get this long to arrive."""
_KILL_DEADLINE_S = 10.0


class Child:
    """A running command whose standard output and error come line by line to `on_line`, in a thread of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """The exit code, minus the signal for a command that a signal ended; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(_LAST_WORDS_S)
        return code

    def has_descendants(self) -> bool:
        """Whether the command has started processes that still run."""
        return any(descendants(self._process.pid))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself, which hands it on."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def stop(self, grace_s: float) -> None:
        """Ask the command to end, and see to it that after `grace_s` nothing of it runs."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """End the command and all that it started, orphans included, at once."""
        deadline = time.monotonic() + _KILL_DEADLINE_S
        with suppress(ProcessLookupError):
            self._process.kill()
        while (left := list(descendants(os.getpid()))) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                if pid != self._process.pid:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
            self._process.poll()
            time.sleep(0.02)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_DEADLINE_S)
        self._reader.join(_LAST_WORDS_S)

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        while data := output.readline(_MOST_LINE_BYTES):
            self._on_line(data.decode(errors="replace").rstrip("\r\n"))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that they can be ended. Linux has it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """In a new process: get a signal, by default one to save and end, when the parent is killed. Linux has it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process started, and those that they started. Nothing where there is no /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(after_name[1]), []).append(int(folder.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        each = waiting.pop()
        yield each
        waiting.extend(children.get(each, ()))
