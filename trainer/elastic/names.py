"""Waiting for host names: a pod's name is known seconds after the pod starts, and torch gives up at once (pytorch#73682)."""

import socket
import time
from collections.abc import Callable, Sequence

from trainer.errors import NotReadyError

POLL_S = 1.0


def wait_for_names(
    names: Sequence[str],
    timeout_s: float,
    keep_waiting: Callable[[], None] = lambda: None,
    resolve: Callable[[str], object] = lambda name: socket.getaddrinfo(name, None),
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Until all names resolve. `keep_waiting` is called between tries and may raise. Raises NotReadyError at the deadline."""
    deadline = clock() + timeout_s
    for name in names:
        while (trouble := _trouble(name, resolve)) is not None:
            keep_waiting()
            if clock() >= deadline:
                raise NotReadyError(
                    f"{name}: no such host after {timeout_s:.0f} s ({trouble}); is its pod running, and its Service there?"
                )
            sleep(min(POLL_S, max(0.0, deadline - clock())))


def _trouble(name: str, resolve: Callable[[str], object]) -> str | None:
    try:
        resolve(name)
    except OSError as error:  # socket.gaierror is one
        return error.strerror or str(error)
    return None
