"""What a corpus was made from, so that text which was moved or copied is known again, and text which was edited is, too.

    DATA/corpus/inputs.json     of each file its name below the folder of its source, size, time of change, hash

A big file is read by several processes, so its hash is one over the hashes of blocks, which lie the same however it was cut.
A file of the same size and time counts as the same. One of another time is read and its hash is compared, at 1 s per GB.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.config_corpus import CorpusSection
from trainer.corpus.finding import STANDARD_INPUT, files_of
from trainer.corpus.opening import unreadable
from trainer.corpus.store import CorpusManifest
from trainer.corpus.units import InputFile, Plan, input_files_of
from trainer.corpus.work import UnitManifest
from trainer.errors import CorpusError, StorageError
from trainer.files import write_json

INPUTS = "inputs.json"
BLOCK_BYTES = 4 << 20


class InputRecord(BaseModel):
    """A file that a corpus was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    name: str
    """Its place below the folder that holds all files of the source."""
    path: str
    size_bytes: int
    changed_ns: int
    blocks_sha256: str = ""
    """SHA-256 over the SHA-256 of each block. Empty where a work folder of an older version was gone on with."""

    def holds(self, file: InputFile) -> bool:
        """Whether a file has the same content."""
        if file.size_bytes != self.size_bytes:
            return False
        if file.changed_ns == self.changed_ns:
            return True
        return not self.blocks_sha256 or _over(file, [block_hashes(file, 0, None)]) == self.blocks_sha256


class Inputs(BaseModel):
    """All files that a corpus was made from, but for standard input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[InputRecord, ...]

    @staticmethod
    def of(config: CorpusSection, plan: Plan, manifests: Sequence[UnitManifest]) -> "Inputs":
        """From the units as they were cleaned."""
        hashes: dict[tuple[int, str], list[str]] = {}
        files: dict[tuple[int, str], InputFile] = {}
        for unit, manifest in zip(plan.units, manifests, strict=True):
            for number, piece in enumerate(unit.pieces):
                key = unit.source, piece.file.name
                files[key] = piece.file
                hashes.setdefault(key, []).append(manifest.blocks[number] if manifest.blocks else "")
        return Inputs(
            files=tuple(
                _record(config.sources[source].name, file, _over(file, hashes[source, name]))
                for (source, name), file in files.items()
                if config.sources[source].path != STANDARD_INPUT
            )
        )

    @staticmethod
    def read(corpus: Path) -> "Inputs | None":
        """Of a corpus folder; None for one that an older version made."""
        try:
            return Inputs.model_validate_json((corpus / INPUTS).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, corpus: Path) -> None:
        write_json(corpus / INPUTS, self.model_dump(mode="json"))


def _record(source: str, file: InputFile, blocks_sha256: str) -> InputRecord:
    return InputRecord(
        source=source,
        name=file.name,
        path=str(file.path),
        size_bytes=file.size_bytes,
        changed_ns=file.changed_ns,
        blocks_sha256=blocks_sha256,
    )


def block_hashes(file: InputFile, start: int, end: int | None) -> str:
    """The SHA-256 of each block of a file that begins in [start, end), one after another. Raises UnreadableError."""
    first = -(-start // BLOCK_BYTES) * BLOCK_BYTES
    hashes = []
    try:
        with file.path.open("rb") as stream:
            stream.seek(first)
            for _ in range(first, file.size_bytes if end is None else end, BLOCK_BYTES):
                hashes.append(hashlib.sha256(stream.read(BLOCK_BYTES)).hexdigest())
    except OSError as error:
        raise unreadable(file.path, error) from None
    return "".join(hashes)


def _over(file: InputFile, hashes: Iterable[str]) -> str:
    """The hash over the hashes of all blocks; empty where some are not known."""
    joined = "".join(hashes)
    is_whole = len(joined) == 64 * -(-file.size_bytes // BLOCK_BYTES)
    return hashlib.sha256(joined.encode()).hexdigest() if is_whole else ""


def refuse_other_inputs(config: CorpusSection, settings: str, manifest: CorpusManifest, corpus: Path) -> None:
    """Raises CorpusError if a corpus was made by other settings, or from files with other content than the config names now.

    Where files have moved and kept their content, that is told and noted.
    """
    if manifest.settings != settings:
        raise _refusal(corpus, "the corpus section of the config changed since")
    now = {
        (source.name, file.name): file
        for source in config.sources
        if source.path != STANDARD_INPUT
        for file in input_files_of(files_of(source))
    }
    known = Inputs.read(corpus)
    if known is None:
        _refuse_by_size(manifest, list(now.values()), corpus)
        return
    recorded = {(record.source, record.name): record for record in known.files}
    _refuse_differences(
        (str(file.path) for key, file in now.items() if key in recorded and not recorded[key].holds(file)),
        (str(now[key].path) for key in now if key not in recorded),
        (record.path for key, record in recorded.items() if key not in now),
        corpus,
    )
    renewed = Inputs(files=tuple(_record(key[0], now[key], record.blocks_sha256) for key, record in recorded.items()))
    if renewed != known:
        moves = zip((record.path for record in known.files), (record.path for record in renewed.files), strict=True)
        _tell_where(moves, corpus, "content")
        with suppress(StorageError, OSError):  # who may only read looks again the next time
            renewed.write(corpus)


def _refuse_by_size(manifest: CorpusManifest, now: Sequence[InputFile], corpus: Path) -> None:
    """For a corpus of an older version, which knows paths and sizes alone: what has moved must agree below its own folder."""
    known = {name: size for name, size in manifest.inputs.items() if name != STANDARD_INPUT}
    here = {str(file.path): file.size_bytes for file in now}
    stayed = {name for name, size in here.items() if known.get(name) == size}
    before = _below({name: size for name, size in known.items() if name not in stayed})
    after = _below({name: size for name, size in here.items() if name not in stayed})
    _refuse_differences(
        (path for name, (path, size) in after.items() if name in before and before[name][1] != size),
        (path for name, (path, _) in after.items() if name not in before),
        (path for name, (path, _) in before.items() if name not in after),
        corpus,
    )
    _tell_where(((path, after[name][0]) for name, (path, _) in before.items()), corpus, "names and sizes")


def _below(files: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Path and size by the place below the folder that holds all files."""
    if not files:
        return {}
    root = os.path.commonpath([str(Path(path).parent) for path in files])
    return {os.path.relpath(path, root): (path, size) for path, size in files.items()}


def _refuse_differences(changed: Iterable[str], new: Iterable[str], gone: Iterable[str], corpus: Path) -> None:
    words = [f"{path} changed since" for path in changed]
    words += [f"{path} is new" for path in new]
    words += [f"{path} is gone" for path in gone]
    if words:
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        raise _refusal(corpus, ", ".join(words[:3]) + more)


def _refusal(corpus: Path, what: str) -> CorpusError:
    return CorpusError(f"{corpus}: made from other input ({what}); choose another run_dir or data_dir, or remove this folder")


def _tell_where(moves: Iterable[tuple[str, str]], corpus: Path, equal: str) -> None:
    """One line on files that are somewhere else now."""
    for before, after in _folders(moves):
        print(f"{corpus}: prepared from {before}, now found at {after} with equal {equal}", file=sys.stderr)
        return


def _folders(moves: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Of each file that moved, the folders in which its two paths differ."""
    for before, after in moves:
        if before != after:
            old, new = Path(before), Path(after)
            while old.name == new.name and old != old.parent and new != new.parent:
                old, new = old.parent, new.parent
            yield str(old), str(new)
