"""`trainer serve`: the model in its thread, uvicorn in front of it, and an end that lets requests under way finish."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from trainer.config import Config
from trainer.errors import UsageError
from trainer.inference.opening import open_model
from trainer.inference.serving.app import make_app
from trainer.inference.serving.connection import connections_with
from trainer.inference.serving.desk import Desk, ServedModel
from trainer.inference.serving.exchange import BODY_DEADLINE_S, STALL_S
from trainer.inference.serving.guard import LOOPBACK_NAMES
from trainer.inference.serving.metrics import Metrics
from trainer.inference.serving.model_thread import ModelThread
from trainer.inference.serving.places import Places
from trainer.signals import StopRequest

KEY_VARIABLE = "TRAINER_API_KEY"
MIN_KEY_CHARS = 16
GIVE_UP_S = 3.0
"""Clients get so long to read that the server is ending."""


def serve(
    config: Config, checkpoint: Path | None, host: str, port: int, environment: Mapping[str, str], stop: StopRequest
) -> None:
    """Serve the run's best checkpoint, or the one given, until a stop signal; then let requests end.

    Raises Preempted after a stop signal; UsageError, and what `open_model` raises, before it begins.
    """
    key = api_key(host, environment)
    with listen(host, port) as listener:
        opened = open_model(config, config.serve.slots, checkpoint)
        model = ServedModel(
            name=config.serve.model_name or config.name,
            fingerprint=f"{config.hash()[:12]}-{opened.stage}-{opened.step}",
            created=int(time.time()),
            context_tokens=opened.context_tokens,
            vocab_size=opened.encoder.vocab_size,
            num_parameters=config.model.num_parameters,
        )
        thread = ModelThread(opened.writer, on_failure=lambda: server.end())
        desk = Desk(model, config.serve, opened.encoder, thread, Metrics(model.name))
        places = Places()
        app = make_app(desk, key, LOOPBACK_NAMES if host in LOOPBACK_NAMES else None, places)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        greeting = f"{model.name} of {opened.stage}, step {opened.step}, at {address}; Ctrl-C or SIGTERM ends it"
        server = _Server(_uvicorn_config(app, desk, places), greeting, stop, desk)
        _run(server, thread, listener, stop)


def _uvicorn_config(app: Starlette, desk: Desk, places: Places) -> uvicorn.Config:
    # warnings are a line for each bad request, or for each client that goes: anybody could fill the log
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=connections_with(places, BODY_DEADLINE_S + desk.limits.deadline_s + 2 * STALL_S),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
    )


def _run(server: "_Server", thread: ModelThread, listener: socket.socket, stop: StopRequest) -> None:
    # a lost terminal drains as SIGTERM does
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with stop.deferred():
        thread.start()
        try:
            server.run(sockets=[listener])
        finally:
            thread.close()
        stop.raise_if_requested()


class _Server(uvicorn.Server):
    """Takes SIGTERM and SIGINT over, and hands them back at its end."""

    def __init__(self, config: uvicorn.Config, greeting: str, stop: StopRequest, desk: Desk) -> None:
        super().__init__(config)
        self._greeting, self._stop, self._desk = greeting, stop, desk

    def end(self) -> None:
        """Drain and stop, as after a signal; from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, unless a signal came before it was taken over."""
        await super().startup(sockets)
        self.should_exit = self.should_exit or self._stop.requested
        print(f"trainer: {self._greeting}", file=sys.stderr, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests under way end; tell those that are not done in time, and then close what is left."""
        loop, drain_s = asyncio.get_running_loop(), self._desk.limits.drain_s
        loop.call_later(drain_s, self._desk.give_up)
        loop.call_later(drain_s + GIVE_UP_S, self._drop)
        forced = asyncio.create_task(self._when_forced())
        await super().shutdown(sockets)
        forced.cancel()
        for let_go in (self._desk.give_up, self._drop):
            if self.server_state.tasks:  # a second Ctrl-C: nothing is waited for
                let_go()
                await asyncio.wait(self.server_state.tasks, timeout=0.2)

    async def _when_forced(self) -> None:
        """A second Ctrl-C lets go at once: from Python 3.12 on uvicorn waits for open connections even then."""
        while not self.force_exit:
            await asyncio.sleep(0.05)
        self._desk.give_up()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=0.2)
        self._drop()

    def _drop(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def api_key(host: str, environment: Mapping[str, str]) -> str | None:
    """The key that requests must bring. Raises UsageError without one on any address but loopback, or for a short one."""
    key = environment.get(KEY_VARIABLE) or None
    if key is None and host not in LOOPBACK_NAMES:
        raise UsageError(f"--host {host}: others can reach it, so it needs a key: set {KEY_VARIABLE}, or use --host 127.0.0.1")
    if key is not None and len(key) < MIN_KEY_CHARS:
        raise UsageError(
            f"{KEY_VARIABLE}: has {len(key)} characters; take {MIN_KEY_CHARS} or more, e.g. of `openssl rand -hex 32`"
        )
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises UsageError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        # names that are not found have numbers below 0
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise UsageError(f"--host {host} --port {port}: {reason}; choose another one") from None
