"""A server process over a small model with random weights."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.support import ranks
from tests.support.data import write_config
from tests.support.models import SMALL, model_of, save_run
from trainer.config_loading import load_config

NAME = "tiny-chat"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    config: Path
    process: ranks.Ranks

    def client(self, key: str = "none") -> openai.OpenAI:
        """The official client; it does not retry, so that a test sees each refusal."""
        http = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=DEADLINE_S, http_client=http)

    def http(self, **options: Any) -> httpx.Client:
        """A plain client."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=DEADLINE_S, **options)

    def metrics(self) -> dict[str, float]:
        """Figures by name and labels."""
        with self.http() as http:
            lines = [line.rpartition(" ") for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def figure(self, name: str) -> float:
        """One figure of the model."""
        return self.metrics()[f'pretrain_run_serve_{name}{{model="{NAME}"}}']

    def wait_for_figure(self, name: str, value: float) -> None:
        """Until a figure has a value; fails after the deadline."""
        end = time.monotonic() + DEADLINE_S
        while (found := self.figure(name)) != value:
            assert time.monotonic() < end, f"{name} is {found}, not {value}"


def serve_slowly(config: str, pause_s: float) -> None:
    """In a process: a server whose model takes its time, so that there is an answer under way to look at."""
    from trainer.cli import main
    from trainer.model.gpt import GPT

    whole = GPT.forward

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(pause_s)
        return whole(*arguments, **options)

    GPT.forward = slow  # type: ignore[method-assign]
    main(["serve", "--config", config, "--port", "0"])


def make_run(folder: Path, data: Path, **changes: Any) -> Path:
    """A config whose run folder holds the model."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model": SMALL.model_dump(), "serve__model_name": NAME} | changes
    config = write_config(folder / "config.yaml", data, **values)
    save_run(load_config(config), model_of(SMALL, 16))
    return config


@contextmanager
def serving(config: Path, *options: str) -> Iterator[Server]:
    """A server while the block runs; it must be alive at the end and then drain."""
    process = ranks.trainer("serve", "--config", str(config), "--port", "0", *options, folder=config.parent / "output")
    try:
        yield Server(address_of(process), config, process)
        process.signal(signal.SIGTERM, 0)
        assert process.wait(DEADLINE_S) == [143], process.text()
        assert "Traceback" not in process.text()
    finally:
        process.kill()


def address_of(process: ranks.Ranks) -> str:
    """Where a server that was just started listens."""
    process.wait_for(lambda: " at http" in process.text(), DEADLINE_S)
    found = re.search(r" at (http://[^;\s]+)", process.text())
    assert found is not None
    return found[1].replace("0.0.0.0", "127.0.0.1")
