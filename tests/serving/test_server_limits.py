"""Clients that are slow, silent, many or rude, at a real server by plain sockets."""

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.support import ranks
from tests.support.serving import DEADLINE_S, NAME, Server, address_of, make_run, serve_slowly, serving
from trainer.inference.serving.exchange import MAX_BODY_BYTES
from trainer.inference.serving.places import KEPT_FREE, MAX_OF_ADDRESS, MAX_REQUESTS

SHORT: dict[str, Any] = {"model": NAME, "prompt": "the", "max_tokens": 5, "temperature": 0}
LONG = SHORT | {"max_tokens": 2000}
JSON = "content-type: application/json"


@pytest.fixture(scope="module")
def config(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("limits"), small_data, serve__max_output_tokens=2000, serve__slots=4)


@pytest.fixture(scope="module")
def server(config: Path) -> Iterator[Server]:
    with serving(config) as server:
        yield server


def connect(server: Server, source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    return socket.create_connection((address.hostname, address.port), DEADLINE_S, (source, 0))


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *lines, "", ""]).encode()


def post(body: Any, path: str = "/v1/completions", *lines: str) -> bytes:
    data = json.dumps(body).encode()
    return head("POST", path, JSON, f"content-length: {len(data)}", *lines) + data


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes; a reset counts as that."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def ask(server: Server, data: bytes, source: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of the answer to a request that asks for the connection's end."""
    with connect(server, source) as connection:
        connection.sendall(data)
        answer = read_all(connection)
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), body


def error_of(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def health(server: Server, source: str = "127.0.0.1") -> int:
    return ask(server, head("GET", "/healthz", "connection: close"), source)[0]


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT"], ids=["silent", "half a head"])
def test_idle_connections_keep_nobody_out(server: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        for number in range(MAX_REQUESTS + 100):
            connection = stack.enter_context(connect(server, f"127.0.0.{2 + number % 3}"))
            connection.sendall(sent)
        assert health(server) == 200
        assert health(server, "127.0.0.2") == 200
        with server.client() as client:
            assert client.completions.create(**SHORT).choices[0].text


def test_an_address_with_many_connections_closes_its_own_and_no_others(server: Server) -> None:
    with ExitStack() as stack, connect(server) as other:
        many = [stack.enter_context(connect(server, "127.0.0.2")) for _ in range(MAX_OF_ADDRESS + KEPT_FREE + 20)]
        for connection in many[:20]:
            assert read_all(connection) == b""
        for connection in (many[-1], other):
            connection.sendall(head("GET", "/healthz", "connection: close"))
            assert b" 200 " in read_all(connection)


def test_requests_that_never_end_leave_room_for_other_addresses_and_for_health(server: Server) -> None:
    stuck = head("POST", "/v1/completions", JSON, "content-length: 100")
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server, "127.0.0.2")) for _ in range(MAX_OF_ADDRESS)]
        for connection in connections:
            connection.sendall(stuck)
        status, body = ask(server, head("GET", "/v1/models", "connection: close"), "127.0.0.2")
        assert (status, error_of(body)) == (429, "too_many_requests")
        assert health(server, "127.0.0.2") == 200
        assert ask(server, post(SHORT, "/v1/completions", "connection: close"))[0] == 200
        for connection in [stack.enter_context(connect(server, "127.0.0.3")) for _ in range(MAX_REQUESTS - MAX_OF_ADDRESS)]:
            connection.sendall(stuck)
        status, body = ask(server, head("GET", "/v1/models", "connection: close"))
        assert (status, error_of(body)) == (503, "server_busy")
        assert health(server) == 200
    server.wait_for_figure("texts", 0)
    with server.client() as client:
        assert client.completions.create(**SHORT).choices[0].text


def _serve_impatiently(config: str) -> None:
    """A server that waits for little."""
    from trainer.cli import main
    from trainer.inference.serving import connection

    connection.HEAD_DEADLINE_S = 0.3
    main(["serve", "--config", config, "--port", "0"])


def test_a_head_that_does_not_come_ends_the_connection_however_it_trickles(config: Path) -> None:
    process = ranks.start(_serve_impatiently, [str(config)], config.parent / "impatient")
    try:
        server = Server(address_of(process), config, process)
        refused = head("POST", "/v1/completions", "content-type: text/plain", "content-length: 1000000")
        for start in (b"", b"GET / HTTP/1.1\r\nx: ", head("GET", "/healthz") + b"GET /", refused):
            with connect(server) as connection:
                connection.sendall(start)
                connection.settimeout(0.02)
                end = None
                while end != b"":
                    try:
                        if start:
                            connection.sendall(b"x")  # a client that always sends something has no silence to be ended by
                        end = connection.recv(65536)
                    except TimeoutError:
                        end = None
                    except (ConnectionResetError, BrokenPipeError):
                        end = b""
        process.signal(signal.SIGTERM, 0)
        assert process.wait(DEADLINE_S) == [143]
        assert "Traceback" not in process.text()
    finally:
        process.kill()


def test_a_body_that_says_it_is_too_long_is_refused_unread(server: Server) -> None:
    lines = (JSON, f"content-length: {MAX_BODY_BYTES + 1}", "expect: 100-continue", "connection: close")
    status, body = ask(server, head("POST", "/v1/completions", *lines))
    assert (status, error_of(body)) == (413, "body_too_large")


def test_a_client_that_sends_no_more_gets_its_answer(server: Server) -> None:
    for changes in ({}, {"stream": True}):
        with connect(server) as connection:
            connection.sendall(post(SHORT | {"max_tokens": 300} | changes))
            connection.shutdown(socket.SHUT_WR)
            answer = read_all(connection)
        assert b" 200 " in answer
        assert b'"finish_reason":"length"' in answer
    with connect(server) as connection:
        connection.sendall(post(SHORT) + post(SHORT))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).count(b'"finish_reason":"length"') == 2


def test_a_client_that_goes_amid_a_whole_answer_frees_its_slot(server: Server) -> None:
    before = server.figure("disconnects_total")
    with connect(server) as connection:
        connection.sendall(post(LONG))
        server.wait_for_figure("texts_running", 1)
    server.wait_for_figure("disconnects_total", before + 1)
    server.wait_for_figure("texts_running", 0)


def test_what_is_no_http_is_refused_in_the_form_of_every_error_and_without_a_word_in_the_log(server: Server) -> None:
    chunked = (JSON, "transfer-encoding: chunked")
    status, body = ask(server, b"\x16\x03\x01 what\r\n\r\n")
    assert (status, error_of(body)) == (400, "invalid_http")
    for rude in (
        head("POST", "/v1/completions", *chunked) + b"zz\r\n",
        head("POST", "/v1/completions", "content-type: text/plain", chunked[1]) + b"zz\r\n",
        head("POST", "/v1/completions", JSON, "content-length: -5"),
        head("POST", "/v1/completions", JSON, "content-length: " + "9" * 5000),
        head("GET", "/", "connection: upgrade", "upgrade: websocket", "connection: close"),
        head("GET", "/", "x: " + "y" * 100_000),
        head("GET", "/%ff%00"),
    ):
        with connect(server) as connection:
            connection.sendall(rude)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection).startswith(b"HTTP/1.1 ")
    with connect(server) as connection:
        connection.sendall(head("POST", "/v1/completions", "content-type: text/plain", chunked[1]))
        assert connection.recv(12).endswith(b" 415")
        connection.sendall(b"zz\r\n")  # garbage behind an answer
        assert b"HTTP/1.1" not in read_all(connection)
    with connect(server) as connection:
        connection.sendall(post(LONG | {"stream": True}) + b"garbage\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
    server.wait_for_figure("texts_running", 0)
    _, _, log = server.process.text().partition("Ctrl-C or SIGTERM ends it\n")
    assert [line for line in log.splitlines() if "the longest that this model was trained on" not in line] == []


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]], ids=["drain", "Ctrl-C twice"])
def test_an_end_before_requests_are_done_is_told_to_each(
    small_data: Path, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    drain_s = 0.5 if len(signals) == 1 else 60
    config = make_run(tmp_path, small_data, serve__max_output_tokens=2000, serve__slots=1, serve__drain_s=drain_s)
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        process = ranks.start(serve_slowly, (str(config), 0.05), tmp_path / "output")
        stack.callback(process.kill)
        server = Server(address_of(process), config, process)
        client = stack.enter_context(server.client())
        half = stack.enter_context(connect(server))
        half.sendall(head("POST", "/v1/completions", JSON, "content-length: 100"))
        deaf = stack.enter_context(connect(server))
        stream = client.completions.create(**LONG, stream=True)
        next(iter(stream))
        deaf.sendall(post(LONG | {"stream": True}))
        whole = pool.submit(client.completions.create, **LONG)
        server.wait_for_figure("texts", 3)
        for number in signals:
            process.signal(number, 0)
            process.wait_for(lambda: health_is_gone(server), DEADLINE_S)
        with pytest.raises(openai.APIError, match="the server is ending before this request is done"):
            list(stream)
        with pytest.raises(openai.InternalServerError) as caught:
            whole.result(DEADLINE_S)
        assert (caught.value.status_code, caught.value.code) == (503, "server_ending")
        assert b" 503 " in read_all(half)
        assert process.wait(DEADLINE_S) == [143], process.text()
        assert "Traceback" not in process.text()
        assert "Cancel" not in process.text()


def health_is_gone(server: Server) -> bool:
    try:
        return health(server) != 200
    except (OSError, IndexError):  # refused, or taken and closed without an answer
        return True
