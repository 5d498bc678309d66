"""What cleaning leaves on the disk for deduplication and writing: a folder for each unit, whole or absent.

    WORK/units/00000/rows.jsonl.zst     every document of the unit in order: kept with its text, or dropped with its reason
                     index.bin          of each kept document: fingerprint, sizes, place (INDEX)
                     bands.bin  signatures.bin      for near-duplicates, where they are asked for
                     lines.bin          for repeated lines, where they are asked for
                     unit.json          what the unit holds, and the key of the settings and the input that it was made from

Everything is written in pieces: memory does not grow with the unit.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.corpus.opening import ZstdReader
from trainer.corpus.steps.near_duplicates import BANDS, NUM_HASHES
from trainer.corpus.store import text_of_line
from trainer.errors import CorpusError
from trainer.files import DISK, PARTIAL_SUFFIX, HashingWriter, storage_errors, write_json

INDEX = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("line", "<u8"),
        ("piece", "<u4"),
        ("chars", "<u4"),
        ("text_bytes", "<u4"),
        ("spare", "<u4"),
    ]
)
"""A kept document: its fingerprint as two numbers (big-endian halves), its place, its size."""

MAX_NOTED_BAD_LINES = 10

_ROWS, _INDEX, _BANDS, _SIGNATURES, _LINES, _UNIT = (
    "rows.jsonl.zst", "index.bin", "bands.bin", "signatures.bin", "lines.bin", "unit.json",
)  # fmt: skip
_BUFFER_BYTES = 1 << 20


class UnitManifest(BaseModel):
    """What a cleaned unit holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    """SHA-256 of the settings and the input that it was made from."""
    number: int
    source: int
    pieces: tuple[str, ...]
    """Names of its files below the source's folder."""
    starts_file: tuple[bool, ...]
    """Of each piece: whether the file begins with it."""
    paths: tuple[str, ...]
    num_lines: tuple[int, ...]
    """Lines of each piece."""
    read: int
    bad: int
    kept: int
    bad_lines: tuple[tuple[int, int, str], ...]
    """The first ones: piece, line in it, reason."""
    blocks: tuple[str, ...] = ()
    """The hashes of each piece's blocks (inputs.py); of a unit that an older version cleaned none is known."""


@dataclass(frozen=True, slots=True)
class Row:
    """A document of a unit: kept with its text, or dropped by a rule."""

    piece: int
    line: int
    language: str
    chars: int
    stored: bytes | None = None
    """Its text as a line of a part: writing passes it on as it is."""
    changes: tuple[tuple[str, int], ...] = ()
    rule: str = ""
    reason: str = ""
    sample: str = ""
    """Of some dropped documents how they begin."""
    is_bad: bool = False
    """Whether the place could not be read."""

    @property
    def text(self) -> str:
        """The text of a kept document."""
        return text_of_line(self.stored or b"")

    def to_lines(self) -> bytes:
        """What is noted of the document, in a line, and of a kept one its text in another."""
        values: dict[str, Any] = {"p": self.piece, "l": self.line, "n": self.chars, "g": self.language}
        told = {"c": self.changes, "r": self.rule, "w": self.reason, "s": self.sample, "b": self.is_bad}
        values |= {key: value for key, value in told.items() if value}
        noted = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"
        return noted + (self.stored or b"")

    @staticmethod
    def of_lines(noted: bytes, lines: Iterator[bytes]) -> "Row":
        """The row whose first line is `noted`; a second one is taken from `lines` where the document was kept."""
        values = json.loads(noted)
        changes = tuple((str(rule), int(count)) for rule, count in values.get("c", ()))
        told = (changes, values.get("r", ""), values.get("w", ""), values.get("s", ""), values.get("b", False))
        stored = None if told[1] else next(lines)
        return Row(values["p"], values["l"], values["g"], values["n"], stored, *told)


class ZstdWriter:
    """Lines compressed as they come, into a file that is flushed to the disk at its end."""

    def __init__(self, path: Path) -> None:
        self._file = HashingWriter(path)
        self._frame = zstandard.ZstdCompressor(level=1).compressobj()
        self._lines: list[bytes] = []
        self._size_bytes = 0

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        self._size_bytes += len(line)
        if self._size_bytes > _BUFFER_BYTES:
            self._pass_on()

    def close(self) -> None:
        self._pass_on()
        self._file.write(self._frame.flush())
        self._file.close()

    def abandon(self) -> None:
        self._file.abandon()

    def _pass_on(self) -> None:
        self._file.write(self._frame.compress(b"".join(self._lines)))
        self._lines, self._size_bytes = [], 0


def zstd_lines(path: Path) -> Iterator[bytes]:
    """What a ZstdWriter wrote. Raises CorpusError where the file is damaged."""
    try:
        with path.open("rb") as raw:
            yield from io.BufferedReader(ZstdReader(raw), _BUFFER_BYTES)
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CorpusError:
    return CorpusError(f"{path}: damaged or missing ({error}); remove {path.parent} and prepare again")


class ArrayWriter:
    """Records of a fixed size, written in pieces."""

    def __init__(self, path: Path) -> None:
        self._file = HashingWriter(path)
        self._records: list[bytes] = []
        self._size_bytes = 0

    def write(self, record: bytes) -> None:
        self._records.append(record)
        self._size_bytes += len(record)
        if self._size_bytes > _BUFFER_BYTES:
            self._pass_on()

    def close(self) -> None:
        self._pass_on()
        self._file.close()

    def abandon(self) -> None:
        self._file.abandon()

    def _pass_on(self) -> None:
        self._file.write(b"".join(self._records))
        self._records, self._size_bytes = [], 0


class UnitWriter:
    """The files of a unit while it is cleaned."""

    def __init__(self, folder: Path, *, near_duplicates: bool, lines: bool) -> None:
        self.rows = ZstdWriter(folder / _ROWS)
        self.index = ArrayWriter(folder / _INDEX)
        self.bands = ArrayWriter(folder / _BANDS) if near_duplicates else None
        self.signatures = ArrayWriter(folder / _SIGNATURES) if near_duplicates else None
        self.lines = ArrayWriter(folder / _LINES) if lines else None

    def close(self) -> None:
        for writer in self._writers():
            writer.close()

    def abandon(self) -> None:
        for writer in self._writers():
            writer.abandon()

    def _writers(self) -> list[ZstdWriter | ArrayWriter]:
        writers = (self.rows, self.index, self.bands, self.signatures, self.lines)
        return [writer for writer in writers if writer is not None]


@contextmanager
def new_unit(folder: Path, mark: str = "unit.json") -> Iterator[Path]:
    """A folder that appears at `folder` whole, when the block ends well; `mark` is the file that it is known by.

    Its temporary name is this process's own: a process that outlives the killed one that started it, and one that does the same
    unit again, do not write into each other's files.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    with storage_errors(folder):
        if partial.exists():
            DISK.remove(partial)
        DISK.make_folder(partial)
        yield partial
        DISK.flush_folder(partial)
        try:
            if folder.exists():
                DISK.remove(folder)
            DISK.rename(partial, folder)
        except OSError:
            if not (folder / mark).exists():  # else another process was quicker with the same unit
                raise
            DISK.remove(partial)
        DISK.flush_folder(folder.parent)


class UnitFiles:
    """The files of a finished unit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def manifest(self) -> UnitManifest | None:
        """What the unit holds; None if it is not there or of another version."""
        try:
            return UnitManifest.model_validate_json((self.folder / _UNIT).read_bytes())
        except (OSError, ValidationError):
            return None

    def write_manifest(self, manifest: UnitManifest) -> None:
        write_json(self.folder / _UNIT, manifest.model_dump(mode="json"))

    def rows(self) -> Iterator[Row]:
        """All documents of the unit in order. Raises CorpusError where the file is damaged."""
        path = self.folder / _ROWS
        lines = zstd_lines(path)
        try:
            for noted in lines:
                yield Row.of_lines(noted, lines)
        except (ValueError, KeyError, StopIteration) as error:
            raise _damaged(path, error) from None

    def index(self) -> NDArray[np.void]:
        return np.fromfile(self.folder / _INDEX, INDEX)

    def index_of(self, place: int) -> np.void:
        """The record of one kept document."""
        record: np.void = np.fromfile(self.folder / _INDEX, INDEX, count=1, offset=place * INDEX.itemsize)[0]
        return record

    def bands(self) -> NDArray[np.uint64]:
        """(kept documents, bands)."""
        return np.fromfile(self.folder / _BANDS, "<u8").reshape(-1, BANDS)

    def signatures(self, places: NDArray[np.int64]) -> NDArray[np.uint32]:
        """(places, hashes) of some kept documents."""
        whole = np.memmap(self.folder / _SIGNATURES, "<u4", mode="r").reshape(-1, NUM_HASHES)
        return np.asarray(whole[places])

    def num_lines(self) -> int:
        """How many hashes `lines` returns."""
        return (self.folder / _LINES).stat().st_size // 8

    def lines(self) -> NDArray[np.uint64]:
        """Hashes of the lines of all kept documents, each once a document."""
        return np.fromfile(self.folder / _LINES, "<u8")


def unit_files(units: Path, number: int) -> UnitFiles:
    """Of the unit with a number in a folder of units."""
    return UnitFiles(units / f"{number:06d}")


def starts(manifests: Sequence[UnitManifest]) -> NDArray[np.int64]:
    """The number of each unit's first kept document, and how many there are in all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum([each.kept for each in manifests], dtype=np.int64)])
