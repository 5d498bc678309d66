"""Phase 3 cut into shares that are written apart, in several processes or pods, into the files that one process would write.

A source's documents come in one sequence: all its units in order, and again for each further copy that the mix takes. Where
its parts begin follows from the sizes in the units' indexes, so a share knows how the one before it ends without waiting for
it. A part belongs to the share that it begins in, which reads on until it is full, as does a file of fates. What is held out is
little and fills parts slowly: shares gather its lines, and who assembles the corpus makes parts of them.

    units        |    0    |    1    |    2    |    3    |
    parts        | a   | b    | c      | d     | e   | f |
    shares       0: a b c (to its end in unit 2)
                                     1: d e f
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer import __version__
from trainer.config_corpus import CorpusSection
from trainer.config_section import canonical_json
from trainer.corpus.clusters import Clusters
from trainer.corpus.deduplicating import Duplicates, Units, fingerprint_bytes
from trainer.corpus.mixing import copies, most_copies, repeats_by_source
from trainer.corpus.store import Gathered
from trainer.files import write_json

MAX_STEPS, SHARES_A_PROCESS = 64, 4
"""A share is done again as a whole after a kill; and what it reads on, others read too: it should be long, but not too long."""


class Share(BaseModel):
    """Some steps of a source's sequence, and how far its files are at the first one.

    A step is a unit of the source; after the last unit they come again, for documents that the mix takes twice or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    source: int
    first: int
    last: int
    """The first step of the next share."""
    train: Gathered
    held_out: Gathered
    fates: int


class WritePlan(BaseModel):
    """What all who write agree on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    repeats: dict[str, float]
    """How often the mix takes each source."""
    clusters: Clusters
    shares: tuple[Share, ...]

    def save(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @staticmethod
    def read(path: Path) -> "WritePlan | None":
        """None where there is none, or one of another version."""
        try:
            return WritePlan.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None


def plan_key(settings: str, units: Units) -> str:
    """Names the settings, the program and the units that a corpus is written from."""
    return hashlib.sha256(canonical_json([__version__, settings, [each.key for each in units.manifests]])).hexdigest()


def plan_writing(config: CorpusSection, key: str, units: Units, duplicates: Duplicates, processes: int) -> WritePlan:
    """Cut the writing into shares for so many processes; the result does not depend on where."""
    sequence = _Sequence(config, units, duplicates)
    repeats = repeats_by_source(config, sequence.train_bytes())
    share_steps = MAX_STEPS
    if processes > 1:
        share_steps = max(1, min(MAX_STEPS, -(-len(units.files) // (processes * SHARES_A_PROCESS))))
    shares: list[Share] = []
    for source in range(len(config.sources)):
        shares.extend(sequence.shares(source, repeats, share_steps, len(shares)))
    return WritePlan(key=key, repeats=repeats, clusters=Clusters.of(duplicates), shares=tuple(shares))


class _Sequence:
    """The sizes of the documents that are written, from the units' indexes alone."""

    def __init__(self, config: CorpusSection, units: Units, duplicates: Duplicates) -> None:
        self._config = config
        self._units = units
        self._duplicates = duplicates
        # of whole numbers, those below it are those below the product: is_held_out's very rule
        self._held_out_below = np.uint64(math.ceil(config.held_out * 2**64))

    def train_bytes(self) -> Mapping[str, int]:
        """Training text of each source before mixing; not needed, and empty, where there are no weights."""
        found: dict[str, int] = {}
        if all(source.weight is None for source in self._config.sources):
            return found
        for unit, manifest in enumerate(self._units.manifests):
            records, held_out = self._stay(unit)
            name = self._config.sources[manifest.source].name
            found[name] = found.get(name, 0) + int(records["text_bytes"][~held_out].sum(dtype=np.int64))
        return found

    def shares(self, source: int, repeats: Mapping[str, float], share_steps: int, number: int) -> Iterator[Share]:
        """The shares of a source, numbered from `number`."""
        times = repeats.get(self._config.sources[source].name, 0.0)
        units = units_of(source, self._units)
        num_steps = len(units) * max(1, most_copies(times))
        train, held_out, fates = Gathered(), Gathered(), 0
        for step in range(num_steps):
            if step % share_steps == 0:
                last = min(step + share_steps, num_steps)
                yield Share(number=number, source=source, first=step, last=last, train=train, held_out=held_out, fates=fates)
                number += 1
            turn, place = divmod(step, len(units))
            records, is_held_out = self._stay(units[place])
            taken = self._copies(records[~is_held_out], times) > turn
            train = self._after(train, records["text_bytes"][~is_held_out][taken])
            if turn == 0:
                held_out = self._after(held_out, records["text_bytes"][is_held_out])
                manifest = self._units.manifests[units[place]]
                fates += manifest.read + manifest.bad

    def _stay(self, unit: int) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """The index of the documents of a unit that repeat no other one, and which of these are held out."""
        index = self._units.files[unit].index()
        start = int(self._units.starts[unit])
        stays = np.ones(len(index), bool)
        stays[self._duplicates.numbers(start, start + len(index)) - start] = False
        return index[stays], index[stays]["high"] < self._held_out_below

    @staticmethod
    def _copies(records: NDArray[np.void], times: float) -> NDArray[np.int64]:
        if times == 1.0:
            return np.ones(len(records), np.int64)
        return np.fromiter((copies(fingerprint_bytes(record), times) for record in records), np.int64, len(records))

    def _after(self, begun: Gathered, sizes: NDArray[np.uint32]) -> Gathered:
        """How far the parts are after documents of these sizes."""
        ends = np.cumsum(sizes, dtype=np.int64)
        num_parts, gathered, before = begun.num_parts, begun.text_bytes, 0
        while True:
            at = int(np.searchsorted(ends, before + self._config.part_bytes - gathered))
            if at >= len(ends):
                break
            num_parts, gathered, before = num_parts + 1, 0, int(ends[at])
        return Gathered(num_parts=num_parts, text_bytes=gathered + (int(ends[-1]) - before if len(ends) else 0))


def units_of(source: int, units: Units) -> Sequence[int]:
    """The numbers of a source's units."""
    return [number for number, manifest in enumerate(units.manifests) if manifest.source == source]
