"""Phase 3, write: a share of the cleaned units in order, without duplicates, mixed, split, in parts; every document's fate."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.config_corpus import CorpusSection
from trainer.corpus.account import SAMPLE_CHARS, FateWriter, Sample, SourceTally
from trainer.corpus.cleaning import end_if_orphaned
from trainer.corpus.clusters import Beginnings
from trainer.corpus.deduplicating import EXACT, Duplicates, Units, fingerprint_bytes
from trainer.corpus.mixing import copies, most_copies
from trainer.corpus.normalising import is_held_out
from trainer.corpus.shares import Share, WritePlan, units_of
from trainer.corpus.store import Part, PartNames, PartWriter
from trainer.corpus.work import Row, ZstdWriter, new_unit, unit_files
from trainer.files import write_json

DUPLICATE_RULE, NEAR_RULE, MIX_RULE = "duplicate", "near_duplicate", "mix"
HELD_OUT = "held_out.jsonl.zst"
_RESULT = "share.json"
_ORPHAN_CHECK_DOCUMENTS = 64


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Where all that is written from lies: so many units in a folder, and what repeats among their documents."""

    units: Path
    count: int
    duplicates: Path
    key: str
    """Of the plan: other units have another one."""

    def open(self) -> tuple[Units, Duplicates]:
        """Read once a process."""
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(cleaned: Cleaned) -> tuple[Units, Duplicates]:
    files = [unit_files(cleaned.units, number) for number in range(cleaned.count)]
    manifests = [manifest for each in files if (manifest := each.manifest()) is not None]
    assert len(manifests) == len(files), cleaned.key
    return Units.of(files, manifests), Duplicates.read(cleaned.duplicates)


@dataclass(frozen=True, slots=True)
class WriteJob:
    """A share to write, and where to."""

    config: CorpusSection
    cleaned: Cleaned
    plan: WritePlan
    share: Share
    folder: Path
    threads: int = 1

    @property
    def key(self) -> str:
        """Names the plan and the share that a result follows from."""
        share = self.share
        return f"{self.plan.key} {share.source} {share.first} {share.last}"


class ShareResult(BaseModel):
    """What a written share holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    parts: tuple[Part, ...]
    tally: SourceTally
    """Of the documents of its own steps."""
    beginnings: Beginnings

    @staticmethod
    def read(job: WriteJob) -> "ShareResult | None":
        """None where the share is not written yet, or some of its files were moved away."""
        try:
            found = ShareResult.model_validate_json((job.folder / _RESULT).read_bytes())
        except (OSError, ValidationError):
            return None
        whole = found.key == job.key and all((job.folder / part.file).exists() for part in found.parts)
        return found if whole else None


def write_share(job: WriteJob) -> ShareResult:
    """Write a share, or find it done."""
    found = ShareResult.read(job)
    if found is not None:
        return found
    with new_unit(job.folder, _RESULT) as folder, ThreadPoolExecutor(job.threads) as threads:
        writing = _Writing(job, folder, threads)
        try:
            result = writing.run()
        except BaseException:
            writing.abandon()
            raise
        write_json(folder / _RESULT, result.model_dump(mode="json"))
    return result


class Names:
    """The ids of documents: SOURCE:FILE:LINE."""

    def __init__(self, config: CorpusSection, units: Units) -> None:
        self._sources = [source.name for source in config.sources]
        self._units = units
        self._first_lines: list[list[int]] = []
        line = 0
        for manifest in units.manifests:
            first_lines = []
            for starts_file, num_lines in zip(manifest.starts_file, manifest.num_lines, strict=True):
                line = 0 if starts_file else line
                first_lines.append(line)
                line += num_lines
            self._first_lines.append(first_lines)

    def at(self, unit: int, piece: int, line: int) -> str:
        """The id of what stands in a line of a unit's piece."""
        manifest = self._units.manifests[unit]
        return f"{self._sources[manifest.source]}:{manifest.pieces[piece]}:{self._first_lines[unit][piece] + line}"

    def of(self, number: int) -> str:
        """The id of a kept document."""
        unit, place = self._units.place(number)
        record = self._units.files[unit].index_of(place)
        return self.at(unit, int(record["piece"]), int(record["line"]))


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept row, its fingerprint, and the document that it repeats if it does."""

    row: Row
    number: int
    name: bytes
    text_bytes: int
    repeats: np.void | None


class _Writing:
    """A share while it is written."""

    def __init__(self, job: WriteJob, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._config = job.config
        self._share = job.share
        self._clusters = job.plan.clusters
        self._key = job.key
        self._units, self._duplicates = job.cleaned.open()
        self._names = Names(job.config, self._units)
        source = job.config.sources[job.share.source]
        self._repeats = job.plan.repeats.get(source.name, 0.0)
        part_bytes = job.config.part_bytes
        self._parts = PartWriter(folder, "train", source.name, part_bytes, job.share.train, threads)
        self._held_out = ZstdWriter(folder / HELD_OUT)
        self._held_out_names = PartNames("held_out", source.name, part_bytes, job.share.held_out)
        self._fates = FateWriter(folder, source.name, job.share.fates)
        self._tally = SourceTally()
        self._beginnings: Beginnings = {}

    def run(self) -> ShareResult:
        """The share's own steps, and of the next ones what its last files lack."""
        units = units_of(self._share.source, self._units)
        own = range(self._share.first, self._share.last)
        for step in range(self._share.first, len(units) * max(1, most_copies(self._repeats))):
            if step == own.stop:
                self._begin_no_more()
            if step not in own and not self._is_open():
                break
            turn, place = divmod(step, len(units))
            if turn:
                self._fates.close()
                self._once_more(units[place], turn)
            else:
                self._take(units[place], is_own=step in own)
        self._fates.close()
        self._held_out.close()
        parts = tuple(self._parts.finish())
        return ShareResult(key=self._key, parts=parts, tally=self._tally, beginnings=self._beginnings)

    def _begin_no_more(self) -> None:
        self._fates.begin_no_more()
        self._parts.begin_no_more()

    def _is_open(self) -> bool:
        return self._fates.is_open or self._parts.is_open

    def abandon(self) -> None:
        """Close what an error left open."""
        self._fates.abandon()
        self._held_out.abandon()

    def _take(self, unit: int, *, is_own: bool) -> None:
        """Write the documents of a unit. Another share's are not counted, and of use only while a file of this one is open."""
        tally = self._tally if is_own else SourceTally()
        for number, item in enumerate(self._rows(unit)):
            if number % _ORPHAN_CHECK_DOCUMENTS == 0:
                end_if_orphaned()
            if isinstance(item, Row):
                fate = self._dropped(tally, self._names.at(unit, item.piece, item.line), item)
            else:
                name = self._names.at(unit, item.row.piece, item.row.line)
                if is_own:
                    self._beginnings |= self._clusters.beginning(item.number, name, item.row)
                fate = self._kept(tally, name, item, is_own=is_own)
            self._fates.add(fate)
            if not is_own and not self._is_open():
                return

    def _dropped(self, tally: SourceTally, name: str, row: Row) -> dict[str, object]:
        tally.counts["bad" if row.is_bad else "read"] += 1
        tally.read_chars += row.chars
        if not row.is_bad:
            tally.counts["too_short" if row.rule == "too_short" else "filtered"] += 1
        tally.left_out(row.rule, Sample(id=name, reason=row.reason, text=row.sample))
        fate = {"id": name, "fate": "dropped", "rule": row.rule, "reason": row.reason, "chars": row.chars}
        return fate | ({"begins": row.sample} if row.sample else {})

    def _kept(self, tally: SourceTally, name: str, item: Kept, *, is_own: bool) -> dict[str, object]:
        """Write a document, or find that it repeats one. Returns its fate."""
        row = item.row
        tally.counts["read"] += 1
        tally.read_chars += row.chars
        fate: dict[str, object] = {"id": name, "chars": row.chars, "language": row.language}
        if row.changes:
            fate["changes"] = dict(row.changes)
        if item.repeats is not None:
            return fate | self._repeated(tally, name, item.repeats, row)
        held_out = is_held_out(item.name, self._config.held_out)
        taken = 1 if held_out else copies(item.name, self._repeats)
        if not taken:
            tally.counts["unmixed"] += 1
            reason = f"the mix takes {self._repeats:.3f} of the source"
            tally.left_out(MIX_RULE, None)
            return fate | {"fate": "dropped", "rule": MIX_RULE, "reason": reason}
        tally.counts["held_out" if held_out else "kept"] += 1
        tally.languages[row.language] += 1
        tally.lengths[row.chars.bit_length()] += 1
        tally.changes.update(dict(row.changes))
        tally.clean_chars += row.chars
        line = row.stored or b""
        if held_out:
            if is_own:
                self._held_out.write(line)
            return fate | {"fate": "held_out", "part": self._held_out_names.take(item.text_bytes)}
        fate |= {"fate": "train", "part": self._parts.add(line, item.text_bytes)}
        return fate | ({"copies": taken} if taken > 1 else {})

    def _repeated(self, tally: SourceTally, name: str, record: np.void, row: Row) -> dict[str, object]:
        other = self._names.of(int(record["of"]))
        if record["kind"] == EXACT:
            rule, reason = DUPLICATE_RULE, f"equal to {other}"
        else:
            similarity = round(float(record["similarity"]), 3)
            rule, reason = NEAR_RULE, f"in the cluster of {other}; similarity to it {similarity}"
        tally.counts[rule] += 1
        sample = Sample(id=name, reason=reason, text=row.text[:SAMPLE_CHARS]) if tally.wants_sample(rule) else None
        tally.left_out(rule, sample)
        return {"fate": "dropped", "rule": rule, "reason": reason, "of": other}

    def _once_more(self, unit: int, turn: int) -> None:
        """Write the documents that the mix takes more than `turn` times, far from their other copies."""
        for item in self._rows(unit):
            if not isinstance(item, Kept) or item.repeats is not None or is_held_out(item.name, self._config.held_out):
                continue
            if copies(item.name, self._repeats) > turn:
                self._parts.add(item.row.stored or b"", item.text_bytes)

    def _rows(self, unit: int) -> Iterator[Row | Kept]:
        """The rows of a unit, with what is known of those that were kept."""
        files, start = self._units.files[unit], int(self._units.starts[unit])
        index = files.index()
        repeated = self._duplicates.between(start, start + len(index))
        place = 0
        for row in files.rows():
            if row.stored is None:
                yield row
                continue
            number = start + place
            record = index[place]
            yield Kept(row, number, fingerprint_bytes(record), int(record["text_bytes"]), repeated.get(number))
            place += 1
