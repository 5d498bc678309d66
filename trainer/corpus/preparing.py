"""The stage `prepare`: raw text to clean documents in three phases, each of which goes on where a kill left it.

    1 clean         units of the input, in parallel processes: read, steps, text or reason      WORK/units
    2 deduplicate   equal documents, near-duplicates, repeated lines, by tables on the disk     WORK/write.json
    3 write         units in order: without duplicates, mixed, split, in parts; the account     WORK/written, DATA/corpus

    prepare ........ all three              clean_shard .... phase 1 of every n-th unit
                                            deduplicate .... phase 2, of units that others cleaned
                                            write_shard .... of phase 3 every n-th share
                                            merge .......... what is left of phases 2 and 3

WORK is DATA/corpus.work. It disappears when the corpus is whole. The bytes of the corpus depend on input and settings alone.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from trainer.config_corpus import CorpusSection
from trainer.corpus.finding import STANDARD_INPUT, files_of
from trainer.corpus.inputs import refuse_other_inputs
from trainer.corpus.phases import QUIET, Surroundings, Work, settings_key
from trainer.corpus.store import CorpusManifest, read_manifest
from trainer.corpus.writing import ShareResult
from trainer.errors import CorpusError, MissingDependencyError

Prepare = Callable[[CorpusSection, Path, Surroundings], tuple[CorpusManifest, bool]]


def piped_in() -> IO[bytes] | None:
    """Standard input, where something else than a person is at its other end."""
    return None if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty() else sys.stdin.buffer


def prepare(config: CorpusSection, folder: Path, around: Surroundings = QUIET) -> tuple[CorpusManifest, bool]:
    """Make the clean corpus in `folder`, or find it there. Returns its manifest and whether it was made now.

    Raises CorpusError: no sources, missing files, too many bad lines, nothing left, or inputs that changed since.
    """
    found = _found(config, folder)
    if found is not None:
        return found, False
    work = Work(config, folder)
    with work.locked("trainer prepare"), work.removed_after_error():
        plan = work.plan(around.standard_input)
        manifests = work.clean(plan.units, around)
        return work.finish(plan, manifests, around), True


def clean_shard(config: CorpusSection, folder: Path, index: int, count: int, around: Surroundings = QUIET) -> int:
    """Phase 1 of the units index, index + count, ... (from 0). Returns how many there are. Raises CorpusError."""
    if _found(config, folder) is not None:
        return 0
    if any(source.path == STANDARD_INPUT for source in config.sources):
        raise CorpusError("corpus.sources: standard input cannot be shared out to shards; give a path on the shared volume")
    work = Work(config, folder)
    with work.locked(f"trainer prepare --shard {index + 1}/{count}", f"shard-{index + 1}-of-{count}"):
        plan = work.plan(around.standard_input)
        return len(work.clean(plan.units[index::count], around))


def deduplicate(config: CorpusSection, folder: Path, count: int, around: Surroundings = QUIET) -> None:
    """Phase 2, so that `count` others may write a shard each. Raises CorpusError, naming units that are not cleaned yet."""
    if _found(config, folder) is None:
        work = Work(config, folder)
        with work.locked("trainer prepare"):
            plan = work.plan(around.standard_input)
            units = work.units(plan, work.cleaned(plan))
            work.write_plan(units, count * work.num_processes(plan, len(plan.units)))


def write_shard(config: CorpusSection, folder: Path, index: int, count: int, around: Surroundings = QUIET) -> int:
    """The shares index, index + count, ... (from 0) of phase 3. Returns how many there are. Raises CorpusError."""
    if _found(config, folder) is not None:
        return 0
    work = Work(config, folder)
    with work.locked(f"trainer prepare, shard {index + 1} of {count}", f"write-{index + 1}-of-{count}"):
        plan = work.plan(around.standard_input)
        jobs = work.write_jobs(plan) or []
        return len(work.write(plan, jobs[index::count], around))


def merge(config: CorpusSection, folder: Path, around: Surroundings = QUIET) -> tuple[CorpusManifest, bool]:
    """What is left of phases 2 and 3. Raises CorpusError, with their names, where units are not cleaned yet."""
    found = _found(config, folder)
    if found is not None:
        return found, False
    work = Work(config, folder)
    with work.locked("trainer prepare --merge"):
        plan = work.plan(around.standard_input)
        return work.finish(plan, work.cleaned(plan), around), True


def is_cleaned(config: CorpusSection, folder: Path) -> bool:
    """Whether phase 1 is done: by all shards, or long ago."""
    work = Work(config, folder)
    return _found(config, folder) is not None or all(work.manifest_of(unit) for unit in work.plan(None).units)


def is_deduplicated(config: CorpusSection, folder: Path) -> bool:
    """Whether phase 2 is done."""
    work = Work(config, folder)
    return _found(config, folder) is not None or work.write_jobs(work.plan(None)) is not None


def is_written(config: CorpusSection, folder: Path) -> bool:
    """Whether every share of phase 3 is done."""
    work = Work(config, folder)
    if _found(config, folder) is not None:
        return True
    jobs = work.write_jobs(work.plan(None))
    return jobs is not None and all(ShareResult.read(job) for job in jobs)


def _found(config: CorpusSection, folder: Path) -> CorpusManifest | None:
    """The corpus that is there already. Raises CorpusError if it was made from other input or by other settings."""
    if not config.sources:
        raise CorpusError("corpus.sources: empty; name at least one, such as {name: poems, path: box:chinese-poetry.jsonl.zst}")
    on_disk = [source for source in config.sources if source.path != STANDARD_INPUT]
    if not folder.exists():
        for source in on_disk:  # where files are missing no folder is made
            files_of(source)
        return None
    manifest = read_manifest(folder)
    if _any_input_left(config):  # the raw text may go once it is prepared
        refuse_other_inputs(config, settings_key(config), manifest, folder)
    return manifest


def _any_input_left(config: CorpusSection) -> bool:
    """Whether some source still has files."""
    for source in config.sources:
        with suppress(CorpusError, MissingDependencyError):
            if source.path != STANDARD_INPUT and files_of(source):
                return True
    return False
