"""A server's limits and its end: key, host, deadline, draining, a model that fails."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support import ranks
from tests.support.serving import DEADLINE_S, NAME, Server, address_of, make_run, serving

KEY = "a-key-of-more-than-sixteen-characters"


def _serve_with_key(*arguments: str) -> None:
    from trainer.cli import main

    main(arguments, {"TRAINER_API_KEY": KEY})


@contextmanager
def server_with_key(config: Path, *options: str) -> Iterator[Server]:
    """A server whose environment holds a key."""
    arguments = ("serve", "--config", str(config), "--port", "0", *options)
    process = ranks.start(_serve_with_key, arguments, config.parent / "output")
    try:
        yield Server(address_of(process), config, process)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def config(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("life"), small_data, serve__max_output_tokens=2000, serve__slots=2)


def test_all_routes_but_health_want_the_key_on_another_address(config: Path) -> None:
    with server_with_key(config, "--host", "0.0.0.0") as server, server.http() as http:
        assert http.get("/healthz", headers={"host": "model.example"}).json() == {"status": "ok"}
        for path in ("/", "/metrics", "/openapi.json", "/v1/models", "/nowhere"):
            response = http.get(path)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
            assert "Bearer" in response.headers["www-authenticate"]
        for wrong in ("Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Token {KEY}", "Basic ?", "Bearer \xff"):
            headers = httpx.Headers([(b"authorization", wrong.encode("latin-1"))])
            assert http.get("/v1/models", headers=headers).status_code == 401
        assert http.get("/v1/models", headers={"authorization": f"Bearer {KEY}", "host": "model.example"}).status_code == 200
        assert http.get("/", auth=("anybody", KEY)).status_code == 200
        with server.client(KEY) as client:
            assert client.models.list().data[0].id == NAME
        with server.client("wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        other = {"authorization": f"Bearer {KEY}", "sec-fetch-site": "cross-site"}
        assert http.get("/v1/models", headers=other).status_code == 403


@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({}, ["--host", "0.0.0.0"], "others can reach it, so it needs a key: set TRAINER_API_KEY"),
        ({"TRAINER_API_KEY": "short"}, [], "TRAINER_API_KEY: has 5 characters"),
        ({}, ["--port", "TAKEN"], "Address already in use; choose another one"),
        ({}, ["--set", "run_dir=/nonexistent/run"], "no checkpoint here"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    config: Path, environment: dict[str, str], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = [str(taken.getsockname()[1]) if option == "TAKEN" else option for option in options]
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--config", str(config), "--port", "0", *options], environment)
    assert ended.value.code in (2, 65)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_stop_signal_lets_requests_end_and_takes_no_new_ones(config: Path) -> None:
    with serving(config) as server, server.client() as client:
        settings: dict[str, Any] = {"model": NAME, "prompt": "the", "max_tokens": 400, "temperature": 0}
        whole = client.completions.create(**settings).choices[0].text
        stream = client.completions.create(**settings, stream=True)
        first = next(iter(stream)).choices[0].text
        server.process.signal(signal.SIGTERM, 0)
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert server.process.wait(DEADLINE_S) == [143]
        assert "SIGTERM: stopped" in server.process.text()
        with pytest.raises(httpx.ConnectError), server.http() as http:
            http.get("/healthz")
    assert first + "".join(chunk.choices[0].text for chunk in chunks) == whole


def test_a_request_beyond_its_deadline_is_given_up(small_data: Path, tmp_path: Path) -> None:
    config = make_run(tmp_path, small_data, serve__max_output_tokens=2000, serve__deadline_s=0.3)
    with serving(config) as server, server.client() as client:
        settings: dict[str, Any] = {"model": NAME, "prompt": "the", "max_tokens": 2000, "temperature": 0}
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(**settings)
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
        with pytest.raises(openai.APIError, match=r"not done within 0\.3 s"):
            list(client.completions.create(**settings, stream=True))
        server.wait_for_figure("texts_running", 0)


def _serve_and_fail(config: str) -> None:
    """A server whose model fails at its 20th pass."""
    from trainer.cli import main
    from trainer.model.gpt import GPT

    whole, passes = GPT.forward, iter(range(20))

    def failing(*arguments: Any, **options: Any) -> Any:
        next(passes)
        return whole(*arguments, **options)

    GPT.forward = failing  # type: ignore[method-assign]
    main(["serve", "--config", config, "--port", "0"])


def test_a_model_that_fails_ends_the_server_and_tells_who_waits(config: Path) -> None:
    process = ranks.start(_serve_and_fail, [str(config)], config.parent / "failing")
    try:
        server = Server(address_of(process), config, process)
        with server.client() as client, pytest.raises(openai.APIError, match="the model failed amid this request"):
            list(client.completions.create(model=NAME, prompt="the", max_tokens=100, temperature=0, stream=True))
        assert process.wait(DEADLINE_S) == [1]
        assert "StopIteration" in process.text()
    finally:
        process.kill()
