"""Other programs, each called with a deadline; steps of long work, each with a line of its seconds on stderr."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from k8s.errors import LauncherError

_LAST_LINES = 12
_POLL_S = 0.5


class LocalClusterError(LauncherError):
    """The local cluster cannot be made or used; the message says why and the way out."""

    exit_code: ClassVar[int] = 1


def run(
    command: Sequence[str | Path],
    deadline_s: float,
    *,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a command prints on stdout. It ends with all that it started. Raises LocalClusterError with its last lines."""
    words = [str(part) for part in command]
    process = subprocess.Popen(
        words,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(text, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise LocalClusterError(f"`{_short(words)}` was not done within {deadline_s:.0f} s") from None
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()  # until it has ended, and its pipes are closed
    if process.returncode != 0:
        last = " | ".join((stderr.strip() or stdout.strip()).splitlines()[-_LAST_LINES:])
        raise LocalClusterError(f"`{_short(words)}` ended with code {process.returncode}: {last or 'it said nothing'}")
    return stdout


def succeeds(command: Sequence[str | Path], deadline_s: float, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a command ends with 0 in time."""
    try:
        run(command, deadline_s, environment=environment)
    except LocalClusterError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float, seen: Callable[[], str] = lambda: "") -> None:
    """Until a condition holds. Raises LocalClusterError with what is `seen` instead."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise LocalClusterError(f"{what}: not within {deadline_s:.0f} s" + (f"; {said}" if (said := seen()) else ""))
        time.sleep(_POLL_S)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and afterwards how long it took."""
    print(f"kind: {what} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    yield
    print(f"kind: {what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _short(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= 160 else text[:157] + "..."
