"""The work folder of a corpus, and what each phase of `prepare` does there; see preparing.py for the order."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from trainer.config_corpus import CorpusSection
from trainer.config_section import canonical_json
from trainer.cores import cores
from trainer.corpus.assembling import assemble
from trainer.corpus.cleaning import CleanJob, clean_unit, unit_key
from trainer.corpus.deduplicating import Units, find_duplicates
from trainer.corpus.finding import STANDARD_INPUT
from trainer.corpus.inputs import Inputs
from trainer.corpus.opening import UnreadableError
from trainer.corpus.repeated_lines import StripJob, find_repeated_lines, save_hashes, strip_key, strip_unit
from trainer.corpus.shares import WritePlan, plan_key, plan_writing
from trainer.corpus.steps.build import input_files
from trainer.corpus.steps.known_answers import check_interpreter
from trainer.corpus.store import CorpusManifest
from trainer.corpus.units import Plan, Unit, make_plan
from trainer.corpus.work import UnitFiles, UnitManifest, unit_files
from trainer.corpus.workers import Each, workers
from trainer.corpus.writing import Cleaned, ShareResult, WriteJob, write_share
from trainer.errors import CorpusError
from trainer.files import DISK, HashingWriter, locked, new_folder, partial_path, record_of, storage_errors

MAX_SHOWN_BAD_LINES = 10
_MAX_NAMED_UNITS = 5
_COPY_BYTES = 1 << 20
_REMOVALS = 20
"""Tries to remove the work folder, a fifth of a second apart. What stays is harmless and found by the next preparation."""

Progress = Callable[[int, int], None]
"""Called with input bytes done and input bytes in all."""


def _ignore(*_: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a preparation meets outside of files: who watches it, and what is piped in."""

    progress: Progress = _ignore
    standard_input: IO[bytes] | None = None


QUIET = Surroundings()


def settings_key(config: CorpusSection) -> str:
    """Names the settings, with the content of the word lists and evaluation sets that they name. Raises CorpusError."""
    lists = []
    for file in input_files(config.steps):
        try:
            lists.append(record_of(file).sha256)
        except OSError as error:
            raise CorpusError(f"corpus.steps: {file} cannot be read ({error.strerror})") from None
    return hashlib.sha256(canonical_json([config.identity(), lists] if lists else config.identity())).hexdigest()


@dataclass
class Work:
    """The work folder of a corpus."""

    config: CorpusSection
    corpus: Path
    folder: Path = field(init=False)
    settings: str = field(init=False)

    def __post_init__(self) -> None:
        check_interpreter()
        self.folder = self.corpus.with_name(f"{self.corpus.name}.work")
        self.settings = settings_key(self.config)

    @contextmanager
    def locked(self, owner: str, name: str = "all") -> Iterator[None]:
        with locked(self.folder / f"{name}.lock", owner):
            yield

    @contextmanager
    def removed_after_error(self) -> Iterator[None]:
        """What bad input leaves behind is of no use: the next try has other input or other settings."""
        try:
            yield
        except UnreadableError:
            raise  # the next try may read it
        except CorpusError:
            self._remove()
            raise

    def plan(self, standard_input: IO[bytes] | None) -> Plan:
        return make_plan(self.config, self._spooled(standard_input))

    def files_of(self, unit: Unit) -> UnitFiles:
        return unit_files(self.folder / "units", unit.number)

    def clean(self, units: Sequence[Unit], around: Surroundings) -> list[UnitManifest]:
        """Phase 1 for some units. Raises CorpusError where more lines are bad than may be."""
        jobs = [CleanJob(self.config, unit, self.files_of(unit).folder, unit_key(self.settings, unit)) for unit in units]
        bad_lines = _BadLines(self.config)
        manifests: list[UnitManifest] = []
        total_bytes = sum(piece.size_bytes for unit in units for piece in unit.pieces)
        done_bytes = 0
        with _pool(_num_workers(self.config, len(units), total_bytes)) as each:
            for unit, manifest in zip(units, each(clean_unit, jobs), strict=True):
                manifests.append(manifest)
                bad_lines.note(manifest)
                done_bytes += sum(piece.size_bytes for piece in unit.pieces)
                around.progress(done_bytes, total_bytes)
        return manifests

    def cleaned(self, plan: Plan) -> list[UnitManifest]:
        """The units as others have cleaned them. Raises CorpusError naming those that are missing."""
        bad_lines = _BadLines(self.config)
        found = [self.manifest_of(unit) for unit in plan.units]
        manifests = [manifest for manifest in found if manifest is not None]
        missing = [unit for unit, manifest in zip(plan.units, found, strict=True) if manifest is None]
        if missing:
            named = "; ".join(f"unit {unit.number} ({unit.told()})" for unit in missing[:_MAX_NAMED_UNITS])
            more = f" and {len(missing) - _MAX_NAMED_UNITS} more" if len(missing) > _MAX_NAMED_UNITS else ""
            raise CorpusError(
                f"{self.folder}: {len(missing)} of {len(plan.units)} units are not cleaned: {named}{more}; run "
                "`trainer prepare --shard I/N` for the missing shards (of unit U: I = U % N + 1), or `trainer prepare` for all "
                "that is left"
            )
        for manifest in manifests:
            bad_lines.note(manifest)
        return manifests

    def manifest_of(self, unit: Unit) -> UnitManifest | None:
        """What a unit became by these very settings."""
        manifest = self.files_of(unit).manifest()
        return manifest if manifest is not None and manifest.key == unit_key(self.settings, unit) else None

    def finish(self, plan: Plan, manifests: list[UnitManifest], around: Surroundings) -> CorpusManifest:
        """Phases 2 and 3; then the work folder goes."""
        units = self.units(plan, manifests)
        shares = self.write_plan(units, self.num_processes(plan, len(plan.units)))
        jobs = self._jobs_of(shares, units)
        results = self.write(plan, jobs, around)
        inputs = {
            (STANDARD_INPUT if Path(name).parent == self._spool.parent else name): size for name, size in plan.inputs.items()
        }
        with new_folder(self.corpus) as partial:
            Inputs.of(self.config, plan, manifests).write(partial)
            bad = _first_bad_lines(self.config, manifests)
            written = list(zip(jobs, results, strict=True))
            manifest = assemble(self.config, self.settings, inputs, shares, written, bad, partial)
        self._remove()
        return manifest

    def units(self, plan: Plan, manifests: Sequence[UnitManifest]) -> Units:
        """What phases 2 and 3 work on: cleaned units, without repeated lines where that is asked for."""
        units = Units.of([self.files_of(unit) for unit in plan.units], manifests)
        return self._stripped(plan, units) if self._strips else units

    def write_plan(self, units: Units, processes: int) -> WritePlan:
        """Phase 2, or the finding that it is done."""
        key = plan_key(self.settings, units)
        found = WritePlan.read(self._plan_file)
        if found is not None and found.key == key:
            return found
        duplicates = find_duplicates(self.config, units, self.folder)
        duplicates.save(self._duplicates_file)
        made = plan_writing(self.config, key, units, duplicates, processes)
        made.save(self._plan_file)
        return made

    def write_jobs(self, plan: Plan) -> list[WriteJob] | None:
        """All shares of phase 3; None where phase 2 is not done for these very units."""
        found = WritePlan.read(self._plan_file)
        if found is None:
            return None
        files = [unit_files(self._written_from, unit.number) for unit in plan.units]
        manifests = [manifest for each in files if (manifest := each.manifest()) is not None]
        if len(manifests) < len(files):
            return None
        units = Units.of(files, manifests)
        return self._jobs_of(found, units) if found.key == plan_key(self.settings, units) else None

    def _jobs_of(self, plan: WritePlan, units: Units) -> list[WriteJob]:
        cleaned = Cleaned(self._written_from, len(units.files), self._duplicates_file, plan.key)
        folder = self.folder / "written"
        return [WriteJob(self.config, cleaned, plan, share, folder / f"{share.number:06d}") for share in plan.shares]

    def write(self, plan: Plan, jobs: Sequence[WriteJob], around: Surroundings) -> list[ShareResult]:
        """Phase 3 for some shares."""
        processes = self.num_processes(plan, len(jobs))
        threads = max(1, _num_cores(self.config) // processes)
        total_bytes = sum(plan.inputs.values())
        results = []
        with _pool(processes) as each:
            for result in each(write_share, [replace(job, threads=threads) for job in jobs]):
                results.append(result)
                around.progress(total_bytes, total_bytes)
        return results

    def num_processes(self, plan: Plan, num_jobs: int) -> int:
        """For jobs that all the input is spread over."""
        return _num_workers(self.config, num_jobs, sum(plan.inputs.values()))

    @property
    def _plan_file(self) -> Path:
        return self.folder / "write.json"

    @property
    def _duplicates_file(self) -> Path:
        return self.folder / "duplicates.bin"

    @property
    def _strips(self) -> bool:
        return self.config.repeated_lines.max_documents is not None

    @property
    def _written_from(self) -> Path:
        """The folder of the units that phases 2 and 3 work on."""
        return self.folder / ("stripped" if self._strips else "units")

    def _remove(self) -> None:
        """Remove the work folder. A process that outlived a killed run may still write there for a moment."""
        for _ in range(_REMOVALS):
            with suppress(OSError):
                DISK.remove(self.folder)
            if not self.folder.exists():
                return
            time.sleep(0.2)

    def _stripped(self, plan: Plan, units: Units) -> Units:
        """The units without the lines that stand in many documents."""
        path = self.folder / "repeated_lines.bin"
        digest = save_hashes(path, find_repeated_lines(self.config, units, self.folder))
        stripped = [unit_files(self._written_from, unit.number) for unit in plan.units]
        jobs = [
            StripJob(self.config, files.folder, to.folder, path, strip_key(manifest, digest))
            for files, to, manifest in zip(units.files, stripped, units.manifests, strict=True)
        ]
        with _pool(self.num_processes(plan, len(jobs))) as each:
            manifests = list(each(strip_unit, jobs))
        return Units.of(stripped, manifests)

    @property
    def _spool(self) -> Path:
        return self.folder / "input" / "stdin"

    def _spooled(self, standard_input: IO[bytes] | None) -> Path | None:
        """What is piped in, as a file: work can be cut from it, and it is still there after a kill."""
        if all(source.path != STANDARD_INPUT for source in self.config.sources):
            return None
        path = self._spool
        first = standard_input.read(_COPY_BYTES) if standard_input is not None else b""
        if first and standard_input is not None:
            partial = partial_path(path)
            with storage_errors(path):
                DISK.make_folder(path.parent)
                writer = HashingWriter(partial)
                while first:
                    writer.write(first)
                    first = standard_input.read(_COPY_BYTES)
                writer.close()
                DISK.rename(partial, path)
        return path if path.exists() else None


class _BadLines:
    """Shows the first bad lines and ends the stage after too many."""

    def __init__(self, config: CorpusSection) -> None:
        self._limit = config.max_bad_lines
        self._count = 0
        self._first = ""
        self._base: dict[str, int] = {}

    def note(self, manifest: UnitManifest) -> None:
        """Take the next unit in order. Raises CorpusError."""
        for number, place in enumerate(self.told(manifest)):
            self._first = self._first or place
            if self._count + number < MAX_SHOWN_BAD_LINES:
                print(place, file=sys.stderr)
        self._count += manifest.bad
        if self._count > self._limit:
            raise CorpusError(f"corpus.max_bad_lines {self._limit} is passed; the first bad line is {self._first}")

    def told(self, manifest: UnitManifest) -> list[str]:
        """The first bad lines of the next unit in order, with their places."""
        first_lines = []
        for path, starts_file, num_lines in zip(manifest.paths, manifest.starts_file, manifest.num_lines, strict=True):
            first_lines.append(0 if starts_file else self._base.get(path, 0))
            self._base = {path: first_lines[-1] + num_lines}
        return [
            f"{manifest.paths[piece]}:{first_lines[piece] + line if line else 0}: {reason}"
            for piece, line, reason in manifest.bad_lines
        ]


def _first_bad_lines(config: CorpusSection, manifests: Sequence[UnitManifest]) -> dict[int, str]:
    """The first bad line of each source that has one."""
    bad_lines = _BadLines(config)
    first: dict[int, str] = {}
    for manifest in manifests:
        for place in bad_lines.told(manifest):
            first.setdefault(manifest.source, place)
    return first


def _num_workers(config: CorpusSection, num_units: int, size_bytes: int) -> int:
    """As many as asked for, but none for less than a unit's bytes: starting a process takes longer than cleaning a megabyte."""
    return max(1, min(_num_cores(config), num_units, -(-size_bytes // config.unit_bytes)))


def _num_cores(config: CorpusSection) -> int:
    return config.workers or cores()


def _pool(count: int) -> AbstractContextManager[Each]:
    return workers(count, "prepare", "corpus.workers")
