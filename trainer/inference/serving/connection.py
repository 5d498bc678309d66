"""A connection: uvicorn's, with a deadline for each of its states, a place of its own, and half-closed clients answered.

uvicorn has a deadline for a client that sends nothing after a response, and for no other silence.
"""

import asyncio
import functools
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from trainer.inference.serving.answers import as_json
from trainer.inference.serving.failures import ApiError
from trainer.inference.serving.places import Places

HEAD_DEADLINE_S = 10.0
"""A client gets so long to send the head of a request, from when it connects and from each response."""
_PROBES_S = (0.02, 0.1, 0.3)
"""When a half-closed client is looked at; then every second."""


class PlacedConnection(H11Protocol):
    """A connection that holds a place."""

    def __init__(self, *, places: Places, request_deadline_s: float, **settings: Any) -> None:
        """`request_deadline_s`: a request that has neither ended nor been given up by then is stuck; its connection goes."""
        super().__init__(**settings)
        self.address = ""
        self._places, self._request_deadline_s = places, request_deadline_s
        self._timer: asyncio.TimerHandle | None = None
        self._half_closed = False

    def drop(self) -> None:
        """Close it at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._end_in(HEAD_DEADLINE_S)
        self._places.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self._places.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what has come; note when a request begins."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and self._request():
            self._places.begin(self)
            self._end_in(self._request_deadline_s)

    def on_response_complete(self) -> None:
        """A response is sent: wait for the next head, or begin what came behind the last request."""
        self._places.wait(self)
        self._end_in(HEAD_DEADLINE_S)
        super().on_response_complete()
        if self._half_closed and self._request() is None:
            self.transport.close()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more. It may still read: one with a whole request under way gets its answer."""
        request = self._request()
        if request is None or request.more_body:
            return None  # asyncio closes it
        self._half_closed = True
        self._probe()
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of every other refusal; where a response has begun, only close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = as_json(ApiError(400, "this is not HTTP/1.1", "invalid_http").body)
            headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if request := self._request():
            request.disconnected = True  # what it would send has no place any more
            request.message_event.set()
        self.transport.close()

    def _request(self) -> RequestResponseCycle | None:
        """The request under way."""
        return self.cycle if self.cycle and not self.cycle.response_complete else None

    def _probe(self) -> None:
        """Find out whether a client that sends no more has closed its side only or is gone: both look alike.

        An interim response, which every client passes over, makes the system of one that is gone refuse the connection.
        """
        if not self.cycle.response_started and self.scope["http_version"] == "1.1":
            interim = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(self.conn.send(interim) or b"")
        self._look(0)

    def _look(self, times: int) -> None:
        if self.transport.is_closing() or self._request() is None:
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.drop()
        else:
            self.loop.call_later(_PROBES_S[times] if times < len(_PROBES_S) else 1.0, self._look, times + 1)

    def _end_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.drop)


def connections_with(places: Places, request_deadline_s: float) -> Any:
    """What uvicorn makes its connections with."""
    return functools.partial(PlacedConnection, places=places, request_deadline_s=request_deadline_s)
