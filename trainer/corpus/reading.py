"""Raw documents from files, one at a time: what cannot be read becomes a value with its place and reason, not an exception.

JSON lines and plain text are read here, HTML and web archives in `web_pages.py`, Parquet in `tables.py`. A `Piece` is a file or
a range of its bytes, so that one big file of JSON lines is work for several processes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.finding import (
    BOX,
    HTML,
    JSON_LINES,
    PARQUET,
    PLAIN_TEXT,
    WARC,
    files_at,
    files_of,
    format_of,
)
from trainer.corpus.opening import DAMAGE, BombError, ZstdReader, opened
from trainer.corpus.readings import BadLine, Document, Item, Unwanted, bounded_lines
from trainer.corpus.recoding import utf8_of

__all__ = [
    "BOX", "HTML", "JSON_LINES", "PARQUET", "PLAIN_TEXT", "WARC", "BadLine", "Document", "Item", "Piece", "PieceReader", "Unwanted",
    "ZstdReader", "bounded_lines", "files_at", "files_of", "opened", "read_source",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """A file, or of JSON lines that are not compressed those lines that begin in [start, end)."""

    file: Path
    start: int = 0
    end: int | None = None


def read_source(source: SourceSection, limits: CorpusSection) -> Iterator[Item]:
    """All documents of a source in the order of its files."""
    for file in files_of(source):
        yield from PieceReader(source, Piece(file), limits)
