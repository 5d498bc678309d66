"""Raw documents from files, one at a time: what cannot be read becomes a value with its place and reason, not an exception.

JSON lines and plain text are read here, HTML and web archives in `web_pages.py`, Parquet in `tables.py`. A `Piece` is a file or
a range of its lines, so that one big file of JSON lines is work for several processes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.finding import BOX, JSON_LINES, PLAIN_TEXT, files_at, files_of, format_of
from trainer.corpus.opening import DAMAGE, BombError, ZstdReader, opened, unreadable
from trainer.corpus.readings import BadLine, Document, Item, Unwanted, bounded_lines
from trainer.corpus.recoding import as_utf8
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.tables import read_parquet
from trainer.corpus.web_pages import read_html, read_warc

__all__ = [
    "BOX", "JSON_LINES", "PLAIN_TEXT", "BadLine", "Document", "Item", "Piece", "PieceReader", "Unwanted", "ZstdReader",
    "bounded_lines", "files_at", "files_of", "opened", "read_source",
]  # fmt: skip

MAX_LINE_BYTES_PER_CHAR = 6
"""JSON spells a character by at most as many bytes (\\u0000), but for pairs of surrogates."""


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


class PieceReader:
    """The items of one piece, in order. Line numbers count from the piece's beginning, of which the file may have others."""

    def __init__(self, source: SourceSection, piece: Piece, limits: CorpusSection) -> None:
        self._source = source
        self._piece = piece
        self._limits = limits
        self.num_lines = 0
        """Lines of JSON that have been read: where the next piece's lines begin."""

    def __iter__(self) -> Iterator[Item]:
        source, piece, limits = self._source, self._piece, self._limits
        readers: dict[str, Callable[[], Iterator[Item]]] = {
            "jsonl": self._json_lines,
            "text": lambda: _plain_text(source, piece.file, limits),
            "html": lambda: read_html(source, piece.file, limits),
            "warc": lambda: read_warc(source, piece.file, limits),
            "parquet": lambda: read_parquet(source, piece.file, limits),
        }
        try:
            yield from readers[format_of(source, piece.file)]()
        except BombError as error:
            yield BadLine(source.name, str(piece.file), 0, f"the file is not unpacked: {error}", "read.bomb")
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise unreadable(piece.file, error, f"corpus.sources: source {source.name}") from None
            reason = f"the file breaks off or is damaged: {error}"
            yield BadLine(source.name, str(piece.file), 0, reason, "read.damaged")

    def _json_lines(self) -> Iterator[Item]:
        name, file = self._source.name, str(self._piece.file)
        max_chars = self._limits.max_chars
        with opened(self._piece.file) as stream:
            for line in self._lines(stream, max_chars * MAX_LINE_BYTES_PER_CHAR):
                self.num_lines += 1
                if isinstance(line, str):
                    yield BadLine(name, file, self.num_lines, line, "read.too_long")
                elif line.strip():
                    text = _text_of(line, self._source.text_field, max_chars)
                    if isinstance(text, _Reason):
                        yield BadLine(name, file, self.num_lines, text.words, text.rule)
                    else:
                        yield Document(name, text, file, self.num_lines)

    def _lines(self, stream: IO[bytes], max_bytes: int) -> Iterator[bytes | str]:
        start, end = self._piece.start, self._piece.end
        if end is None:
            yield from bounded_lines(stream, max_bytes)
            return
        if start and not _skip_to_line(stream, start, end):
            return
        lines = bounded_lines(stream, max_bytes)
        while stream.tell() < end and (line := next(lines, None)) is not None:
            yield line


def _skip_to_line(stream: IO[bytes], start: int, end: int) -> bool:
    """Move to the first line that begins in [start, end). Returns whether there is one; reads no further than `end`."""
    stream.seek(start - 1)
    while (position := stream.tell()) < end:
        piece = stream.readline(min(1 << 20, end - position))
        if not piece:
            return False
        if piece.endswith(b"\n"):
            return stream.tell() < end
    return False


@dataclass(frozen=True, slots=True)
class _Reason:
    words: str
    rule: str


def _text_of(line: bytes, field: str, max_chars: int) -> str | _Reason:
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return _Reason("not UTF-8", "read.not_utf8")
    except (ValueError, RecursionError) as error:
        return _Reason(f"not JSON: {error}", "read.not_json")
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        return _Reason(f'expected {{"{field}": "..."}}', "read.no_text")
    if len(text) > max_chars:
        return _Reason(f"longer than corpus.max_chars {max_chars}", "read.too_long")
    return text


def _plain_text(source: SourceSection, file: Path, limits: CorpusSection) -> Iterator[Item]:
    """A text file as one document, or as several where it is long: cut at the first blank line after `cut_text_chars`, and at
    any line end after twice as many, so that one big file has documents to train on and documents to hold out.
    """
    lines: list[str] = []
    num_chars, first_line = 0, 1
    with opened(file) as raw:
        stream = as_utf8(raw, source.encoding)
        if isinstance(stream, Dropped):
            yield BadLine(source.name, str(file), 0, f"the file {stream.reason}", stream.rule)
            return
        for number, data in enumerate(bounded_lines(stream, limits.max_chars * MAX_LINE_BYTES_PER_CHAR), start=1):
            line = _decoded(data, limits.max_chars)
            if isinstance(line, _Reason):
                yield BadLine(source.name, str(file), number, line.words, line.rule)
                continue
            lines.append(line)
            num_chars += len(line)
            if num_chars >= 2 * limits.cut_text_chars or (num_chars >= limits.cut_text_chars and not line.strip()):
                yield Document(source.name, "".join(lines), str(file), first_line)
                lines, num_chars, first_line = [], 0, number + 1
    if lines:
        yield Document(source.name, "".join(lines), str(file), first_line)


def _decoded(data: bytes | str, max_chars: int) -> str | _Reason:
    """A line of text without a byte order mark."""
    if isinstance(data, str):
        return _Reason(data, "read.too_long")
    try:
        line = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return _Reason("not UTF-8", "read.not_utf8")
    return line if len(line) <= max_chars else _Reason(f"longer than corpus.max_chars {max_chars}", "read.too_long")
