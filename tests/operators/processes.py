"""A server program under test: started with a log file, waited for by what it serves, ended for sure.

Each process is killed by the kernel when the process that started it dies, also by SIGKILL, so a broken test run leaves nothing
behind (Linux; elsewhere only an orderly end does). Start processes from the main thread: the kernel counts the death of the
thread that started them.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 15.0
POLL_S = 0.05
LOG_LINES, LOG_LINE_CHARACTERS = 40, 300

# Runs before the program, in an interpreter of its own: code between fork and exec is not safe in a process with threads.
_TIED_TO_PARENT = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, kept across exec
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class NotReadyError(AssertionError):
    """Something did not come within its deadline."""


class Server:
    """One program; it may be stopped and started again, and its log goes on."""

    def __init__(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def start(self) -> None:
        """Start the program; does not wait for it to be ready."""
        assert not self.running, f"{self.name} is running already"
        tied = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *self._command]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                tied, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def wait_until(self, ready: Callable[[], bool], what: str, deadline_s: float = START_DEADLINE_S) -> None:
        """Until `ready` holds. Fails at the deadline, and at once when the program ends."""
        wait_until(lambda: self._alive() and ready(), f"{self.name}: {what}", deadline_s, on_failure=self.tail)

    def stop(self, number: signal.Signals = signal.SIGTERM, deadline_s: float = STOP_DEADLINE_S) -> None:
        """End the program by a signal, and by SIGKILL if it does not follow by the deadline."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f"--- {self.name}, last lines of {self.log}\n" + "\n".join(
            line[:LOG_LINE_CHARACTERS] for line in lines[-LOG_LINES:]
        )

    def _alive(self) -> bool:
        if self._process is not None and (code := self._process.poll()) is not None:
            raise NotReadyError(f"{self.name} ended with code {code}\n{self.tail()}")
        return True


def wait_until(
    condition: Callable[[], bool], what: str, deadline_s: float = START_DEADLINE_S, on_failure: Callable[[], str] = str
) -> None:
    """Until the condition holds; after the deadline NotReadyError says what was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise NotReadyError(f"{what}: not within {deadline_s:.0f} s\n{on_failure()}")
        time.sleep(POLL_S)


def free_port() -> int:
    """A port that is free now, and below those that the kernel gives to connections, so that it stays free for a restart."""
    for _ in range(200):
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise NotReadyError("no free port between 12000 and 32000")


def machine_address() -> str:
    """An address of this machine that is not loopback: the API server refuses loopback addresses as endpoints of a service."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; a datagram socket sends nothing on connect
            address: str = probe.getsockname()[0]
        except OSError as error:
            raise NotReadyError(
                "this machine has no network address but loopback, which a service's endpoint must not be"
            ) from error
    return address
