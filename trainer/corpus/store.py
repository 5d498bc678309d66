"""Clean documents on the disk: DATA/corpus/SPLIT/SOURCE-00000.jsonl.zst in parts, and a manifest that is written last."""

import io
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.corpus.reading import ZstdReader
from trainer.errors import CorpusError
from trainer.files import HashingWriter, record_of, write_json

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
MANIFEST = "manifest.json"
_PARTS_ON_THEIR_WAY = 4
"""Of a split: what is compressed takes memory twice."""


class Part(BaseModel):
    """One file of clean documents of one source and split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    split: Split
    source: str
    documents: int
    text_bytes: int
    size_bytes: int
    sha256: str


class CorpusManifest(BaseModel):
    """What a clean corpus holds, and what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    settings: str
    """SHA-256 of the corpus section that made it."""
    inputs: dict[str, int]
    """Input files with their sizes in bytes."""
    parts: tuple[Part, ...]
    counts: dict[str, dict[str, int]]
    """By source: documents read, kept, held out, too short, duplicate, near-duplicate, filtered, bad."""
    rules: dict[str, dict[str, int]] = {}
    """By source and rule: documents that were left out."""

    def parts_of(self, split: Split) -> list[Part]:
        """The parts of a split in their order."""
        return [part for part in self.parts if part.split == split]


def line_of_text(text: str) -> bytes:
    """A document as it stands in a part."""
    return json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"


def text_of_line(line: bytes) -> str:
    """The document that stands in a line of a part."""
    text: str = json.loads(line)["text"]
    return text


class Gathered(BaseModel):
    """How far a sequence of parts is: parts that are full, and bytes of text in the one after them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_parts: int = 0
    text_bytes: int = 0


class PartNames:
    """Which part each document of a source and split is in: a part is full when it has `part_bytes` of text."""

    def __init__(self, split: Split, source: str, part_bytes: int, begun: Gathered) -> None:
        self._split = split
        self._source = source
        self._part_bytes = part_bytes
        self._num_parts = begun.num_parts
        self._text_bytes = begun.text_bytes

    @property
    def begins(self) -> bool:
        """Whether the next document is the first one of its part."""
        return self._text_bytes == 0

    def take(self, text_bytes: int) -> str:
        """The file that the next document is in."""
        name = f"{self._split}/{self._source}-{self._num_parts:05d}.jsonl.zst"
        self._text_bytes += text_bytes
        if self._text_bytes >= self._part_bytes:
            self._num_parts, self._text_bytes = self._num_parts + 1, 0
        return name


class PartWriter:
    """Writes the documents of one source and split into parts: of one share, those parts that begin in it.

    Threads compress and write: both leave the interpreter free, and take longer than all that the caller does to a document.
    """

    def __init__(self, folder: Path, split: Split, source: str, part_bytes: int, begun: Gathered, threads: Executor) -> None:
        self._folder = folder
        self._split = split
        self._source = source
        self._names = PartNames(split, source, part_bytes, begun)
        self._threads = threads
        self._lines: list[bytes] = []
        self._text_bytes = 0
        self._file = ""
        self._is_mine = False
        self._begins_parts = True
        self._on_their_way: deque[Future[Part]] = deque()
        self._parts: list[Part] = []

    @property
    def is_open(self) -> bool:
        """Whether a part is begun and not full."""
        return bool(self._lines)

    def begin_no_more(self) -> None:
        """Fill the part that is begun, and leave what comes after it out."""
        self._begins_parts = False

    def add(self, line: bytes, text_bytes: int) -> str:
        """Append a document as it stands in a part. Returns the file that it is in, whoever writes that."""
        if self._names.begins:
            self._is_mine = self._begins_parts
        file = self._names.take(text_bytes)
        if self._is_mine:
            self._file = file
            self._lines.append(line)
            self._text_bytes += text_bytes
            if self._names.begins:
                self._hand_over()
        return file

    def finish(self) -> list[Part]:
        """Write what is left. Returns all parts in order."""
        if self._lines:
            self._hand_over()
        self._parts.extend(part.result() for part in self._on_their_way)
        self._on_their_way.clear()
        return self._parts

    def _hand_over(self) -> None:
        """Let a thread write what is gathered."""
        if len(self._on_their_way) >= _PARTS_ON_THEIR_WAY:
            self._parts.append(self._on_their_way.popleft().result())
        (self._folder / self._split).mkdir(exist_ok=True)
        self._on_their_way.append(self._threads.submit(self._write, self._file, self._lines, self._text_bytes))
        self._lines, self._text_bytes = [], 0

    def _write(self, name: str, lines: list[bytes], text_bytes: int) -> Part:
        writer = HashingWriter(self._folder / name)
        writer.write(zstandard.ZstdCompressor(level=3).compress(b"".join(lines)))
        told = asdict(writer.close())
        return Part(file=name, split=self._split, source=self._source, documents=len(lines), text_bytes=text_bytes, **told)


def write_manifest(folder: Path, manifest: CorpusManifest) -> None:
    """Write the manifest of a finished corpus folder."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> CorpusManifest:
    """Read a corpus folder's manifest. Raises CorpusError."""
    path = folder / MANIFEST
    try:
        return CorpusManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CorpusError(f"{folder}: no clean corpus here; run `trainer prepare` first") from None
    except ValidationError as error:
        raise CorpusError(f"{path}: not a corpus manifest of this version: {error.errors()[0]['msg']}") from None


@dataclass(frozen=True, slots=True)
class CleanDocument:
    """One clean text of a source."""

    source: str
    text: str


def read_part(folder: Path, part: Part) -> Iterator[str]:
    """The texts of one part, streamed. Raises CorpusError if the file is not the one in the manifest."""
    path = folder / part.file
    try:
        if record_of(path).sha256 != part.sha256:
            raise ValueError("its SHA-256 is not the manifest's")
        with path.open("rb") as raw:
            stream = io.BufferedReader(ZstdReader(raw))
            for line in stream:
                yield text_of_line(line)
    except (OSError, EOFError, zstandard.ZstdError, ValueError, KeyError) as error:
        raise CorpusError(f"{path}: damaged or missing ({error}); remove {folder} and run `trainer prepare` again") from None


def read_documents(folder: Path, split: Split) -> Iterator[CleanDocument]:
    """All documents of a split, part by part."""
    for part in read_manifest(folder).parts_of(split):
        for text in read_part(folder, part):
            yield CleanDocument(part.source, text)
