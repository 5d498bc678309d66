"""Shared fixtures: a small clean corpus with tokenizer and shards, and configs that train on it within a second."""

import platform
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import data
from trainer import __version__


def pytest_report_header() -> list[str]:
    from importlib.metadata import version

    names = ("torch", "tokenizers", "tiktoken", "pydantic")
    return [f"trainer {__version__}, python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names)]


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A command called within pytest leaves the stop signals ignored, and every process started later inherits that."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: real text from the box, vocabulary 512, rows of 64 tokens."""
    return data.make_small_data(tmp_path_factory.mktemp("small-data"))
