"""Phase 1, clean: read a unit, take each document through the steps, and note its text or why it is dropped.

Units are independent of each other and done in several processes. A finished unit is a folder that appeared by a rename; a
restart finds it and goes on with the others.
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path

from trainer import __version__
from trainer.config_corpus import CorpusSection
from trainer.config_section import canonical_json
from trainer.config_steps import StepsSection
from trainer.corpus.inputs import block_hashes
from trainer.corpus.normalising import normalise
from trainer.corpus.reading import BadLine, Document, PieceReader, Unwanted
from trainer.corpus.signing import Signer
from trainer.corpus.steps.build import Step, steps_of
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.extract import extract_html
from trainer.corpus.steps.known_answers import check_interpreter
from trainer.corpus.steps.near_duplicates import ALGORITHM
from trainer.corpus.units import Unit
from trainer.corpus.work import MAX_NOTED_BAD_LINES, Row, UnitFiles, UnitManifest, UnitWriter, new_unit
from trainer.errors import BudgetError

NUM_SAMPLES = 3
"""Dropped documents of each rule that a unit keeps the beginning of."""

SAMPLE_CHARS = 300

_ORPHAN_CHECK_DOCUMENTS = 64


@dataclass(frozen=True, slots=True)
class CleanJob:
    """A unit to clean, and where to."""

    config: CorpusSection
    unit: Unit
    folder: Path
    key: str


def unit_key(settings: str, unit: Unit) -> str:
    """Names the settings, the program and the input that a unit's result follows from."""
    return hashlib.sha256(canonical_json([__version__, ALGORITHM, settings, unit.identity()])).hexdigest()


def clean_unit(job: CleanJob) -> UnitManifest:
    """Clean a unit, or find it done."""
    found = UnitFiles(job.folder).manifest()
    if found is not None and found.key == job.key:
        return found
    config = job.config
    signs = config.repeated_lines.max_documents is None  # lines are removed first where that is asked for
    near = config.near_duplicates.enabled and signs
    with new_unit(job.folder) as folder:
        writer = UnitWriter(folder, near_duplicates=near, lines=not signs)
        try:
            manifest = _Cleaning(job, Signer(config, writer)).run()
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        UnitFiles(folder).write_manifest(manifest)
    return manifest


class _Cleaning:
    """One unit on its way."""

    def __init__(self, job: CleanJob, signer: Signer) -> None:
        self._job = job
        self._signer = signer
        self._read = self._bad = self._kept = 0
        self._bad_lines: list[tuple[int, int, str]] = []
        self._num_samples: Counter[str] = Counter()

    def run(self) -> UnitManifest:
        unit, config = self._job.unit, self._job.config
        source = config.sources[unit.source]
        num_lines, hashes = [], []
        for place, piece in enumerate(unit.pieces):
            reader = PieceReader(source, piece.piece, config)
            for number, item in enumerate(reader):
                if number % _ORPHAN_CHECK_DOCUMENTS == 0:
                    end_if_orphaned()
                if isinstance(item, Document):
                    self._document(place, item)
                else:
                    self._no_document(place, item)
                if self._bad > config.max_bad_lines:  # the stage will fail: no use in reading on
                    break
            num_lines.append(reader.num_lines)
            hashes.append(block_hashes(piece.file, piece.start, piece.end))
        return UnitManifest(
            key=self._job.key,
            number=unit.number,
            source=unit.source,
            pieces=tuple(each.file.name for each in unit.pieces),
            starts_file=tuple(each.start == 0 for each in unit.pieces),
            paths=tuple(str(each.file.path) for each in unit.pieces),
            num_lines=tuple(num_lines),
            read=self._read,
            bad=self._bad,
            kept=self._kept,
            bad_lines=tuple(self._bad_lines),
            blocks=tuple(hashes),
        )

    def _no_document(self, place: int, item: BadLine | Unwanted) -> None:
        if isinstance(item, BadLine):
            self._bad += 1
            if len(self._bad_lines) < MAX_NOTED_BAD_LINES:
                self._bad_lines.append((place, item.line, item.reason))
        else:
            self._read += 1
        is_bad = isinstance(item, BadLine)
        self._signer.drop(Row(place, item.line, "und", 0, rule=item.rule, reason=item.reason, is_bad=is_bad))

    def _document(self, place: int, item: Document) -> None:
        self._read += 1
        config = self._job.config
        source = config.sources[self._job.unit.source]
        outcome = clean_document(config, item, source.language)
        if isinstance(outcome, Draft):
            self._kept += 1
            self._signer.keep(place, item.line, outcome)
            return
        self._num_samples[outcome.rule] += 1
        sample = item.text[:SAMPLE_CHARS] if self._num_samples[outcome.rule] <= NUM_SAMPLES else ""
        row = Row(place, item.line, source.language, len(item.text), rule=outcome.rule, reason=outcome.reason, sample=sample)
        self._signer.drop(row)


def clean_document(config: CorpusSection, document: Document, language: str) -> Draft | Dropped:
    """Take one document through all steps. What comes out is in normal form."""
    text: str | Dropped = document.text
    if document.is_html:
        text = extract_html(document.text, config.steps.html)
    if isinstance(text, Dropped):
        return text
    draft = Draft(normalise(text), language)
    steps = steps_for(config.steps, language)
    for step in steps:
        outcome = step(draft)
        if isinstance(outcome, Dropped):
            return outcome
        draft = outcome
    if steps:
        draft = replace(draft, text=normalise(draft.text))
    if len(draft.text) < config.min_chars:
        return too_short(len(draft.text), config)
    return draft


@lru_cache(maxsize=64)
def steps_for(section: StepsSection, language: str) -> tuple[Step, ...]:
    """The configured steps for a source's language, built once a process. Raises CorpusError, MissingDependencyError."""
    check_interpreter()  # a pipeline of datatrove comes in here
    return steps_of(section, language)


def too_short(num_chars: int, config: CorpusSection) -> Dropped:
    """Why a document of so many characters is left out."""
    return Dropped("too_short", f"{num_chars} characters; corpus.min_chars is {config.min_chars}")


def end_if_orphaned() -> None:
    """End this process if the one that started it was killed: a new run may be at work already."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(BudgetError.exit_code)
