"""Lines that stand in many documents: found over all units, then removed unit by unit.

Counting goes by hashes of 64 bits, in partitions. Removing is done in parallel, as cleaning is, into a folder of its own; only
then are documents compared as wholes, for without its menu one may be equal to another.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.config_corpus import CorpusSection
from trainer.corpus.cleaning import SAMPLE_CHARS, end_if_orphaned, too_short
from trainer.corpus.deduplicating import Units, check_memory
from trainer.corpus.normalising import normalise
from trainer.corpus.partitions import Records, group_starts, num_partitions, partitioned
from trainer.corpus.signing import Signer, line_hash
from trainer.corpus.steps.draft import Draft
from trainer.corpus.work import Row, UnitFiles, UnitManifest, UnitWriter, new_unit
from trainer.files import HashingWriter, partial_path

RULE = "repeated_lines"

_LINE = np.dtype([("key", "<u8")])


def find_repeated_lines(config: CorpusSection, units: Units, folder: Path) -> NDArray[np.uint64]:
    """Hashes of the lines that stand in more documents than may be, sorted."""
    limit = config.repeated_lines.max_documents or 0
    num_lines = sum(files.num_lines() for files in units.files)
    count = num_partitions(num_lines, _LINE.itemsize, config.memory_bytes)
    found: list[NDArray[np.uint64]] = []
    for group in partitioned(_lines(units), "key", 1 << 64, count, folder / "lines"):
        keys = np.sort(group["key"])
        begins = group_starts(keys)
        sizes = np.diff(np.append(begins, len(keys)))
        found.append(keys[begins[sizes > limit]])
        check_memory(config, sum(each.nbytes for each in found), "repeated lines")
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def _lines(units: Units) -> Iterator[Records]:
    for files in units.files:
        yield files.lines().view(_LINE)


def save_hashes(path: Path, hashes: NDArray[np.uint64]) -> str:
    """Write the hashes for the processes that remove the lines. Returns the file's SHA-256."""
    writer = HashingWriter(partial_path(path))
    writer.write(hashes.tobytes())
    record = writer.close()
    partial_path(path).replace(path)
    return record.sha256


@dataclass(frozen=True, slots=True)
class StripJob:
    """A cleaned unit whose repeated lines are to be removed."""

    config: CorpusSection
    cleaned: Path
    folder: Path
    hashes: Path
    key: str


def strip_key(cleaned: UnitManifest, hashes: str) -> str:
    """Names the cleaned unit and the lines that a result follows from."""
    return hashlib.sha256(f"{cleaned.key} {hashes}".encode()).hexdigest()


def strip_unit(job: StripJob) -> UnitManifest:
    """Remove the repeated lines of a unit, or find that done."""
    found = UnitFiles(job.folder).manifest()
    if found is not None and found.key == job.key:
        return found
    cleaned = UnitFiles(job.cleaned)
    manifest = cleaned.manifest()
    assert manifest is not None, job.cleaned
    hashes = np.fromfile(job.hashes, "<u8")
    kept = 0
    with new_unit(job.folder) as folder:
        writer = UnitWriter(folder, near_duplicates=job.config.near_duplicates.enabled, lines=False)
        signer = Signer(job.config, writer)
        try:
            for row in cleaned.rows():
                end_if_orphaned()
                stripped = row if row.stored is None else _stripped(row, hashes, job.config)
                if isinstance(stripped, Row):
                    signer.drop(stripped)
                else:
                    kept += 1
                    signer.keep(row.piece, row.line, stripped)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        UnitFiles(folder).write_manifest(manifest := manifest.model_copy(update={"key": job.key, "kept": kept}))
    return manifest


def _stripped(row: Row, hashes: NDArray[np.uint64], config: CorpusSection) -> Draft | Row:
    """A document without its repeated lines; a dropped row if too little is left."""
    text = row.text
    whole = Draft(text, row.language, row.changes)
    lines = text.split("\n")
    candidates = [place for place, line in enumerate(lines) if len(line.strip()) >= config.repeated_lines.min_chars]
    if not candidates or not len(hashes):
        return whole
    wanted = np.array([line_hash(lines[place]) for place in candidates], np.uint64)
    places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    removed = {candidates[at] for at in np.flatnonzero(hashes[places] == wanted)}
    if not removed:
        return whole
    left = normalise("\n".join(line for place, line in enumerate(lines) if place not in removed))
    if len(left) < config.min_chars:
        dropped = too_short(len(left), config)
        reason = f"without its repeated lines {dropped.reason}"
        return Row(row.piece, row.line, row.language, row.chars, rule=RULE, reason=reason, sample=text[:SAMPLE_CHARS])
    changes = (*row.changes, (RULE, len(removed)))
    return Draft(left, row.language, changes)
