"""What reading yields: documents, and places that hold none with the reason why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it stands."""

    source: str
    text: str
    file: str
    line: int
    """Its first line; of web archives and Parquet the number of its record or row, from 1."""
    is_html: bool = False


@dataclass(frozen=True, slots=True)
class BadLine:
    """A place that could not be read, and why."""

    source: str
    file: str
    line: int
    reason: str
    rule: str = "read.bad"


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A place that could be read and is no text: a picture in a web archive, a row without a value."""

    source: str
    file: str
    line: int
    reason: str
    rule: str


Item = Document | BadLine | Unwanted


def bounded_lines(stream: IO[bytes], max_bytes: int) -> Iterator[bytes | str]:
    """Lines of at most `max_bytes`; of a longer one, only the words that it was too long."""
    while line := stream.readline(max_bytes):
        if line.endswith(b"\n") or len(line) < max_bytes:
            yield line
            continue
        while rest := stream.readline(max_bytes):
            if rest.endswith(b"\n"):
                break
        yield f"line longer than {max_bytes} bytes"


def bounded_rest(stream: IO[bytes], max_bytes: int) -> bytes | None:
    """All that is left of a stream; None if that is more than `max_bytes`."""
    data = stream.read(max_bytes + 1)
    return data if len(data) <= max_bytes else None
