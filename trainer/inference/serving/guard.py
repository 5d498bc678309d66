"""What every request passes first: its host, its key, whose page it comes from. What every response carries.

A browser sends requests to a server on loopback for any page that asks it to. Three things keep such pages out: a name
other than loopback's in `Host` is refused (a page whose name was turned to 127.0.0.1), a request from another site is refused,
and bodies must be JSON, which browsers do not send elsewhere without leave.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer.inference.serving.answers import as_json
from trainer.inference.serving.failures import ApiError
from trainer.inference.serving.metrics import Metrics
from trainer.inference.serving.places import Places

OPEN_PATH = "/healthz"
"""Needs no key: it tells nothing but whether the server can answer."""
NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The content security policy of what is no page."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        key: str | None,
        names: frozenset[str] | None,
        metrics: Metrics,
        route_of: Callable[[str], str],
        places: Places,
    ) -> None:
        """`names`: the hosts that may be asked for, None: any. `route_of` gives a path's name in metrics."""
        self._app, self._names, self._metrics, self._route_of, self._places = app, names, metrics, route_of, places
        self._key_digest = None if key is None else _digest(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # nothing else is served; uvicorn is told so

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", NOTHING)
                headers.update({"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"})
                headers.setdefault("cache-control", "no-store")
                self._metrics.requests.labels(self._route_of(scope["path"]), message["status"]).inc()
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"])
            if scope["path"] == OPEN_PATH:
                await self._app(scope, receive, send_guarded)
            else:
                with self._places.request(scope["client"][0] if scope["client"] else ""):
                    await self._app(scope, receive, send_guarded)
        except ApiError as error:
            await failed(error)(scope, receive, send_guarded)

    def _check(self, headers: Headers, path: str) -> None:
        if self._names is not None and host_name(headers.get("host", "")) not in self._names:
            raise ApiError(403, "this server answers to loopback names only: http://127.0.0.1", "host_not_allowed")
        if path == OPEN_PATH:
            return
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ApiError(403, "requests from other sites' pages are refused", "cross_site")
        if self._key_digest is not None and not hmac.compare_digest(_digest(_key_in(headers)), self._key_digest):
            # Basic: a browser then asks for the key, as a password to any name, so that the chat page can be opened
            raise ApiError(
                401,
                "no valid API key: send it as `Authorization: Bearer KEY`",
                "invalid_api_key",
                headers={"www-authenticate": 'Bearer realm="trainer", Basic realm="trainer"'},
            )


def failed(error: ApiError) -> Response:
    """An error as a response."""
    return Response(as_json(error.body), error.status, error.headers, "application/json")


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _key_in(headers: Headers) -> str:
    """The key that a request brings, empty without one."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def _digest(key: str) -> bytes:
    """Of equal length for all keys, so that comparing tells nothing of the length either."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
