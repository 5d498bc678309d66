"""The box's documents, for tests on real text."""

import json
from functools import cache

import zstandard

from trainer.corpus.steps.build import BOX


@cache
def box(name: str) -> tuple[str, ...]:
    """All documents of a source in the box."""
    packed = (BOX / f"{name}.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().stream_reader(packed).read().decode().splitlines()
    return tuple(json.loads(line)["text"] for line in lines)


def poems() -> tuple[str, ...]:
    """Classical Chinese, simplified and traditional."""
    return box("chinese-poetry")


def manuals() -> tuple[str, ...]:
    """English prose with much code and markup."""
    return box("python-docs")
