"""Raw documents from files: JSON lines, plain text, Markdown; plain, gzip or Zstandard; one file, a folder or a glob.

Reading streams: one document is in memory at a time. A line that cannot be read becomes a `BadLine`, not an exception, so that
the caller can count, show and limit them.
"""

import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import zstandard

from trainer.config import CorpusSection, SourceSection
from trainer.errors import CorpusError

BOX = "box:"
"""Begins a path into the corpus that comes with the package."""

JSON_LINES = (".jsonl", ".ndjson")
PLAIN_TEXT = (".txt", ".md", ".rst", ".text")
COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it stands."""

    source: str
    text: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class BadLine:
    """A place that could not be read, and why."""

    source: str
    file: str
    line: int
    reason: str


def files_of(source: SourceSection) -> list[Path]:
    """The files of a source, as `files_at` finds them. Raises CorpusError if there is none."""
    return files_at(source.path, f"corpus.sources: source {source.name}", JSON_LINES + PLAIN_TEXT)


def files_at(path: str, owner: str, kinds: tuple[str, ...]) -> list[Path]:
    """The files of these kinds that a path names, sorted; of several links to one file the first, so that none is read twice.

    `box:NAME` is a file of the box. Raises CorpusError, with the owner named, if there is none.
    """
    if path.startswith(BOX):
        found = [Path(str(resources.files("trainer.corpus") / "box" / path.removeprefix(BOX)))]
    elif Path(path).is_dir():
        found = sorted(Path(path).rglob("*"))
    elif Path(path).exists():
        found = [Path(path)]
    else:
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207 - absolute patterns too
    by_target: dict[Path, Path] = {}
    for entry in found:
        if entry.is_file() and _kind(entry) in kinds:
            by_target.setdefault(entry.resolve(), entry.absolute())  # its own name tells the kind: caches link to bare hashes
    files = list(by_target.values())
    if not files:
        listed = ", ".join(kinds)
        raise CorpusError(f"{owner}: no file at {path}; give a file, folder or glob of {listed} (also .gz, .zst)")
    return files


def read_source(source: SourceSection, limits: CorpusSection) -> Iterator[Document | BadLine]:
    """All documents of a source in the order of its files."""
    for file in files_of(source):
        reader = _read_json_lines if _kind(file) in JSON_LINES else _read_plain_text
        try:
            yield from reader(source.name, file, limits)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            yield BadLine(source.name, str(file), 0, f"the file breaks off or is damaged: {error}")


def _read_json_lines(source: str, file: Path, limits: CorpusSection) -> Iterator[Document | BadLine]:
    with opened(file) as stream:
        for number, line in enumerate(bounded_lines(stream, limits.max_chars * 6), start=1):
            if isinstance(line, str):
                yield BadLine(source, str(file), number, line)
            elif line.strip():
                text = _text_of(line, limits.max_chars)
                if isinstance(text, _Reason):
                    yield BadLine(source, str(file), number, text.words)
                else:
                    yield Document(source, text, str(file), number)


@dataclass(frozen=True, slots=True)
class _Reason:
    words: str


def _text_of(line: bytes, max_chars: int) -> str | _Reason:
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return _Reason("not UTF-8")
    except (ValueError, RecursionError) as error:
        return _Reason(f"not JSON: {error}")
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        return _Reason('expected {"text": "..."}')
    if len(text) > max_chars:
        return _Reason(f"longer than corpus.max_chars {max_chars}")
    return text


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


def _read_plain_text(source: str, file: Path, limits: CorpusSection) -> Iterator[Document | BadLine]:
    """A text file as one document, or as several where it is long: cut at the first blank line after `cut_text_chars`, and at
    any line end after twice as many, so that one big file has documents to train on and documents to hold out.
    """
    lines: list[str] = []
    num_chars, first_line = 0, 1
    with opened(file) as stream:
        for number, data in enumerate(bounded_lines(stream, limits.max_chars * 6), start=1):
            line = _decoded(data, limits.max_chars)
            if isinstance(line, _Reason):
                yield BadLine(source, str(file), number, line.words)
                continue
            lines.append(line)
            num_chars += len(line)
            if num_chars >= 2 * limits.cut_text_chars or (num_chars >= limits.cut_text_chars and not line.strip()):
                yield Document(source, "".join(lines), str(file), first_line)
                lines, num_chars, first_line = [], 0, number + 1
    if lines:
        yield Document(source, "".join(lines), str(file), first_line)


def _decoded(data: bytes | str, max_chars: int) -> str | _Reason:
    """A line of text without a byte order mark."""
    if isinstance(data, str):
        return _Reason(data)
    try:
        line = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return _Reason("not UTF-8")
    return line if len(line) <= max_chars else _Reason(f"longer than corpus.max_chars {max_chars}")


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed as its name says."""
    with file.open("rb") as raw:
        if file.suffix == ".gz":
            with gzip.open(raw) as stream:
                yield io.BufferedReader(stream)
        elif file.suffix == ".zst":
            yield io.BufferedReader(ZstdReader(raw))
        else:
            yield raw


_ZSTD_READ_BYTES = 1 << 10
"""Each byte may stand for 32 KiB of text (a run-length block), so this bounds the memory at 32 MiB."""


class ZstdReader(io.RawIOBase):
    """Decompressed bytes of one or more Zstandard frames. Raises EOFError where the last frame breaks off, at which
    zstandard's own stream reader just ends.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._between_frames = True
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._raw.read(_ZSTD_READ_BYTES)
            if not data:
                if not self._between_frames:
                    raise EOFError("the last Zstandard frame has no end")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
            self._between_frames = self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _kind(file: Path) -> str:
    """The suffix that tells the format, compression aside; empty if it is none that is read here."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    kind = suffixes[-1].lower() if suffixes else ""
    return kind if kind in JSON_LINES + PLAIN_TEXT else ""
