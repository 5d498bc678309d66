"""Phase 2, deduplicate: which documents repeat an earlier one, exactly or nearly. Memory is bounded, the result is exact.

Documents have numbers, in the order of the input. Equal ones have equal fingerprints. Near-duplicates share a band of their
MinHash signatures (LSH, 14 bands of 8 hashes) and agree in enough of all 112; what is connected by such pairs is a cluster, of
which the document with the lowest number stays. None of this depends on processes or partitions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.config_corpus import CorpusSection
from trainer.corpus.partitions import Records, group_starts, num_partitions, partitioned
from trainer.corpus.steps.near_duplicates import BANDS, NUM_HASHES
from trainer.corpus.work import UnitFiles, UnitManifest, starts
from trainer.errors import CorpusError
from trainer.files import write_file

EXACT, NEAR = 1, 2

DUPLICATE = np.dtype([("number", "<u8"), ("of", "<u8"), ("similarity", "<f4"), ("kind", "<u4")])
"""A document that is left out, and the one that it repeats."""

_PRINT = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<u8")])
_BAND = np.dtype([("key", "<u8"), ("number", "<u8")])
_EDGE = np.dtype([("number", "<u8"), ("of", "<u8")])
_EVERYTHING = 1 << 64

MAX_LEADERS = 32
"""Documents of one band's bucket that others are compared with: a bucket of many different documents costs no more."""

_PAIRS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Units:
    """All cleaned units in order."""

    files: Sequence[UnitFiles]
    manifests: Sequence[UnitManifest]
    starts: NDArray[np.int64]

    @staticmethod
    def of(files: Sequence[UnitFiles], manifests: Sequence[UnitManifest]) -> "Units":
        return Units(files, manifests, starts(manifests))

    @property
    def num_documents(self) -> int:
        return int(self.starts[-1])

    def place(self, number: int) -> tuple[int, int]:
        """The unit of a document, and its place among the unit's kept documents."""
        unit = int(np.searchsorted(self.starts, number, side="right")) - 1
        return unit, number - int(self.starts[unit])

    def signatures(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """(numbers, hashes): the signatures of some documents."""
        wanted, back = np.unique(numbers.astype(np.int64), return_inverse=True)
        units = np.searchsorted(self.starts, wanted, side="right") - 1
        found = np.empty((len(wanted), NUM_HASHES), np.uint32)
        for first, last in _runs(units):
            unit = int(units[first])
            found[first:last] = self.files[unit].signatures(wanted[first:last] - self.starts[unit])
        return found[back]


def find_duplicates(config: CorpusSection, units: Units, folder: Path) -> "Duplicates":
    """All documents that repeat an earlier one. Raises CorpusError where memory_bytes cannot hold the near-duplicates."""
    exact: list[Records] = []
    for group in _exact(config, units, folder / "exact"):
        exact.append(group)
        check_memory(config, sum(each.nbytes for each in exact), "duplicates")
    found = _joined(exact, DUPLICATE)
    if config.near_duplicates.enabled:
        found = np.concatenate([found, _near(config, units, np.sort(found["number"]), folder)])
    return Duplicates(found[np.argsort(found["number"], kind="stable")])


def check_memory(config: CorpusSection, size_bytes: int, what: str) -> None:
    """What is found must be in memory at once: of a corpus that half repeats itself, 12 bytes for each of its documents."""
    if size_bytes * 3 > config.memory_bytes:
        raise CorpusError(
            f"corpus.memory_bytes {config.memory_bytes} cannot hold the table of {what}; raise it to {size_bytes * 6} or more, "
            "or clean the sources apart"
        )


class Duplicates:
    """What is left out, in the order of the documents."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def save(self, path: Path) -> None:
        write_file(path, self.records.view(np.uint8).data)

    @staticmethod
    def read(path: Path) -> "Duplicates":
        """From a file, of which only what is looked at comes into memory."""
        if path.stat().st_size == 0:  # which cannot be mapped
            return Duplicates(np.empty(0, DUPLICATE))
        return Duplicates(np.memmap(path, DUPLICATE, mode="r"))

    def numbers(self, start: int, end: int) -> NDArray[np.int64]:
        """The numbers in [start, end) of left-out documents."""
        first, last = np.searchsorted(self.records["number"], np.array([start, end], "<u8"))
        return self.records["number"][first:last].astype(np.int64)

    def between(self, start: int, end: int) -> dict[int, np.void]:
        """The left-out documents whose numbers are in [start, end)."""
        first, last = np.searchsorted(self.records["number"], np.array([start, end], "<u8"))
        return {int(record["number"]): record for record in self.records[first:last]}


# --- equal documents --------------------------------------------------------------------------------------------------


def _exact(config: CorpusSection, units: Units, folder: Path) -> Iterator[Records]:
    count = num_partitions(units.num_documents, _PRINT.itemsize, config.memory_bytes)
    for group in partitioned(_prints(units), "high", _EVERYTHING, count, folder):
        order = np.lexsort((group["number"], group["low"], group["high"]))
        group = group[order]
        same = (group["high"][1:] == group["high"][:-1]) & (group["low"][1:] == group["low"][:-1])
        if not same.any():
            continue
        begins = np.concatenate([np.ones(1, bool), ~same])
        firsts = group["number"][np.flatnonzero(begins)][np.cumsum(begins) - 1]
        found = np.zeros(int(same.sum()), DUPLICATE)
        found["number"], found["of"] = group["number"][~begins], firsts[~begins]
        found["similarity"], found["kind"] = 1.0, EXACT
        yield found


def _prints(units: Units) -> Iterator[Records]:
    for files, start in zip(units.files, units.starts, strict=False):
        index = files.index()
        prints = np.empty(len(index), _PRINT)
        prints["high"], prints["low"] = index["high"], index["low"]
        prints["number"] = np.arange(start, start + len(index), dtype=np.uint64)
        yield prints


# --- nearly equal documents -------------------------------------------------------------------------------------------


def _near(config: CorpusSection, units: Units, left_out: NDArray[np.uint64], folder: Path) -> Records:
    count = num_partitions(units.num_documents * BANDS, _BAND.itemsize, config.memory_bytes)
    edges = np.empty(0, _EDGE)
    for group in partitioned(_bands(units, left_out), "key", _EVERYTHING, count, folder / "bands"):
        more = _edges_of(group, units, config.near_duplicates.similarity)
        edges = np.unique(np.concatenate([edges, more]))
        check_memory(config, edges.nbytes, "near-duplicates")
    return _clusters(edges, units)


def _bands(units: Units, left_out: NDArray[np.uint64]) -> Iterator[Records]:
    """A record for each band of each document that is no exact duplicate."""
    for files, start in zip(units.files, units.starts, strict=False):
        hashes = files.bands()
        numbers = np.arange(start, start + len(hashes), dtype=np.uint64)
        stays = ~np.isin(numbers, left_out, assume_unique=True)
        hashes, numbers = hashes[stays], numbers[stays]
        records = np.empty((len(numbers), BANDS), _BAND)
        records["key"] = hashes
        records["number"] = numbers[:, None]
        yield records.reshape(-1)


def _edges_of(group: Records, units: Units, similarity: float) -> Records:
    """Pairs (number, of) of similar documents within the buckets of some bands.

    The first document of a bucket leads; those that are like it are its pairs, of the others the first one leads next.
    """
    group = group[np.lexsort((group["number"], group["key"]))]
    numbers, keys = group["number"], group["key"]
    found: list[Records] = []
    for _ in range(MAX_LEADERS):
        begins = group_starts(keys)
        sizes = np.diff(np.append(begins, len(keys)))
        leads = np.zeros(len(keys), bool)
        leads[begins] = True
        leaders = np.repeat(numbers[begins], sizes)
        rest = ~leads
        if not rest.any():
            break
        members, leaders, keys = numbers[rest], leaders[rest], keys[rest]
        alike = estimates(members, leaders, units) >= similarity
        edges = np.empty(int(alike.sum()), _EDGE)
        edges["number"], edges["of"] = members[alike], leaders[alike]
        found.append(edges)
        numbers, keys = members[~alike], keys[~alike]
    return _joined(found, _EDGE)


def estimates(some: NDArray[np.uint64], others: NDArray[np.uint64], units: Units) -> NDArray[np.float32]:
    """Of each pair of documents the share of equal hashes, which estimates the Jaccard similarity of their n-grams."""
    values = np.empty(len(some), np.float32)
    for start in range(0, len(some), _PAIRS_AT_ONCE):
        at = slice(start, start + _PAIRS_AT_ONCE)
        values[at] = (units.signatures(some[at]) == units.signatures(others[at])).mean(axis=1, dtype=np.float32)
    return values


def _clusters(edges: Records, units: Units) -> Records:
    """All documents that hang together with one of a lower number, and the lowest number of their cluster."""
    nodes = np.unique(np.concatenate([edges["number"], edges["of"]]))
    a, b = np.searchsorted(nodes, edges["number"]), np.searchsorted(nodes, edges["of"])
    lowest = np.arange(len(nodes))
    while True:
        before = lowest.copy()
        least = np.minimum(lowest[a], lowest[b])
        for end in (a, b):
            np.minimum.at(lowest, lowest[end], least)
            np.minimum.at(lowest, end, least)
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            break
    repeats = lowest != np.arange(len(nodes))
    found = np.zeros(int(repeats.sum()), DUPLICATE)
    found["number"], found["of"], found["kind"] = nodes[repeats], nodes[lowest[repeats]], NEAR
    found["similarity"] = estimates(found["number"], found["of"], units)
    return found


def _joined(arrays: Sequence[Records], dtype: np.dtype[np.void]) -> Records:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """[first, last) of each run of equal values."""
    borders = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from pairwise(borders)


def fingerprint_bytes(record: np.void) -> bytes:
    """The 16 bytes whose halves an INDEX record holds."""
    return int(record["high"]).to_bytes(8, "big") + int(record["low"]).to_bytes(8, "big")
