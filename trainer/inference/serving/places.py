"""How many connections and requests a server holds, and from whom: so that no client, slow or idle, keeps the others out.

A connection either waits for the head of a request or has one under way. One that waits costs nothing, so it is the one that
goes when a place is needed, the oldest first. Requests under way are counted, in all and by address; beyond the limits they
are refused. A few places more are kept free, so that a probe of /healthz always finds one.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from trainer.inference.serving.failures import ApiError

MAX_REQUESTS = 512
"""Requests under way, in all."""
MAX_OF_ADDRESS = 256
"""Of them from one address."""
KEPT_FREE = 16
"""Connections beyond both, so that there is room for a probe of /healthz when requests fill the rest."""
_RETRY_S = 1


class Connection(Protocol):
    """What places know of a connection."""

    address: str

    def drop(self) -> None:
        """Close it at once."""


class Places:
    """The connections and requests of one server. The event loop alone touches it."""

    def __init__(self) -> None:
        self._waiting: dict[Connection, None] = {}
        """Those without a request under way, the oldest first."""
        self._busy: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()

    def enter(self, connection: Connection) -> None:
        """Take a new connection in. Where that is one too many, the oldest that waits goes; it may be the new one."""
        self._of_address[connection.address] += 1
        self._waiting[connection] = None
        if self._of_address[connection.address] > MAX_OF_ADDRESS + KEPT_FREE:
            self._drop(next(each for each in self._waiting if each.address == connection.address))
        elif len(self._waiting) + len(self._busy) > MAX_REQUESTS + KEPT_FREE:
            self._drop(next(iter(self._waiting)))

    def begin(self, connection: Connection) -> None:
        """A request's head has come."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._busy.add(connection)

    def wait(self, connection: Connection) -> None:
        """Its response is sent."""
        if connection in self._busy:
            self._busy.remove(connection)
            self._waiting[connection] = None

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        if connection in self._busy or connection in self._waiting:
            self._busy.discard(connection)
            self._waiting.pop(connection, None)
            _count_down(self._of_address, connection.address)

    def _drop(self, connection: Connection) -> None:
        self.leave(connection)
        connection.drop()

    @contextmanager
    def request(self, address: str) -> Iterator[None]:
        """Room for a request while the block runs. Raises ApiError 503 without room, 429 if its address has too many."""
        retry = {"retry-after": str(_RETRY_S)}
        if self._requests[address] >= MAX_OF_ADDRESS:
            words = f"{MAX_OF_ADDRESS} requests from your address are under way; wait until one has ended"
            raise ApiError(429, words, "too_many_requests", headers=retry)
        if self._requests.total() >= MAX_REQUESTS:
            raise ApiError(503, f"{MAX_REQUESTS} requests are under way; try again later", "server_busy", headers=retry)
        self._requests[address] += 1
        try:
            yield
        finally:
            _count_down(self._requests, address)


def _count_down(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
