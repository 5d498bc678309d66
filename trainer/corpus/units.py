"""The input cut into units: what one process cleans at a time, and what is done again after a kill.

A unit is a file, several small files, or a range of a big file of JSON lines. Units are numbered in the order of the documents,
so that everything after cleaning may go by (unit, position in it) and the result depends neither on how many processes there
were nor on where the units were cut.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.finding import STANDARD_INPUT, files_of, format_of
from trainer.corpus.opening import COMPRESSED
from trainer.corpus.reading import Piece
from trainer.errors import CorpusError


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a source as it is now."""

    path: Path
    name: str
    """Its place below the folder that holds all files of the source: what documents are named by."""
    size_bytes: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class UnitPiece:
    """A file of a unit, or the range of it."""

    file: InputFile
    start: int
    end: int | None

    @property
    def piece(self) -> Piece:
        return Piece(self.file.path, self.start, self.end)

    @property
    def size_bytes(self) -> int:
        return (self.file.size_bytes if self.end is None else self.end) - self.start


@dataclass(frozen=True, slots=True)
class Unit:
    """What one process cleans at a time."""

    number: int
    source: int
    """The place of its source in the config."""
    pieces: tuple[UnitPiece, ...]

    def told(self) -> str:
        """Where it is, for people."""
        first = self.pieces[0]
        more = f" and {len(self.pieces) - 1} more files" if len(self.pieces) > 1 else ""
        return first.file.name + (f" from byte {first.start:,}" if first.end is not None else "") + more

    def identity(self) -> list[object]:
        """Plain values that change when the unit's input does."""
        pieces = [[each.file.name, each.file.size_bytes, each.file.changed_ns, each.start, each.end] for each in self.pieces]
        return [self.source, pieces]


@dataclass(frozen=True, slots=True)
class Plan:
    """All units, and the files that they are cut from."""

    units: tuple[Unit, ...]
    inputs: dict[str, int]
    """Input files with their sizes in bytes."""


def make_plan(config: CorpusSection, standard_input: Path | None = None) -> Plan:
    """Cut the input. `standard_input` is the file that holds what was piped in. Raises CorpusError where files are missing."""
    units: list[Unit] = []
    inputs: dict[str, int] = {}
    for index, source in enumerate(config.sources):
        if source.path == STANDARD_INPUT:
            if standard_input is None:
                raise CorpusError(f"corpus.sources: source {source.name}: nothing was piped in; give a path, or pipe text in")
            files = [_input_file(standard_input, standard_input.parent)]
        else:
            files = input_files_of(files_of(source))
        inputs |= {str(file.path): file.size_bytes for file in files}
        for pieces in _cut(source, files, config.unit_bytes):
            units.append(Unit(len(units), index, tuple(pieces)))
    return Plan(tuple(units), inputs)


def input_files_of(paths: Sequence[Path]) -> list[InputFile]:
    """Files of one source as they are now, named by their places below the folder that holds all of them."""
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return [_input_file(path, root) for path in paths]


def _input_file(path: Path, root: Path) -> InputFile:
    state = path.stat()
    name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
    return InputFile(path, name, state.st_size, state.st_mtime_ns)


def _cut(source: SourceSection, files: list[InputFile], unit_bytes: int) -> Iterator[list[UnitPiece]]:
    """Small files together, big ones alone, big ones of plain JSON lines in ranges."""
    group: list[UnitPiece] = []
    group_bytes = 0
    for file in files:
        if group and group_bytes + file.size_bytes > unit_bytes:
            yield group
            group, group_bytes = [], 0
        has_ranges = format_of(source, file.path) == "jsonl" and file.path.suffix not in COMPRESSED
        if file.size_bytes > unit_bytes and has_ranges:
            for start in range(0, file.size_bytes, unit_bytes):
                yield [UnitPiece(file, start, min(start + unit_bytes, file.size_bytes))]
        else:
            group.append(UnitPiece(file, 0, None))
            group_bytes += file.size_bytes
    if group:
        yield group
