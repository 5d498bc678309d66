"""Phase 3, write: the cleaned units in order, without duplicates, mixed, split, as parts; and the account of every document."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.account import (
    ACCOUNT,
    MAX_CLUSTER_TEXTS,
    MAX_CLUSTERS,
    SAMPLE_CHARS,
    Account,
    Cluster,
    ClusterText,
    FateWriter,
    Sample,
    SourceAccount,
    SourceTally,
)
from trainer.corpus.deduplicating import EXACT, NEAR, Duplicates, Units, fingerprint_bytes
from trainer.corpus.mixing import copies, repeats_by_source
from trainer.corpus.normalising import is_held_out
from trainer.corpus.store import SPLITS, CorpusManifest, Part, PartWriter, Split, write_manifest
from trainer.corpus.work import Row
from trainer.errors import CorpusError
from trainer.files import write_json

DUPLICATE_RULE, NEAR_RULE, MIX_RULE = "duplicate", "near_duplicate", "mix"


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept row, its fingerprint, and the document that it repeats if it does."""

    row: Row
    number: int
    name: bytes
    text_bytes: int
    repeats: np.void | None


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


def write_corpus(
    config: CorpusSection, settings: str, inputs: dict[str, int], units: Units, duplicates: Duplicates, folder: Path
) -> CorpusManifest:
    """Write parts, fates, account and manifest. Raises CorpusError where nothing is left for training."""
    with ThreadPoolExecutor(config.workers or len(os.sched_getaffinity(0))) as threads:
        writing = _Writing(config, units, duplicates, folder, threads)
        accounts = {source.name: writing.source(index, source) for index, source in enumerate(config.sources)}
    counts = {name: account.counts for name, account in accounts.items()}
    if not any(part.split == "train" for part in writing.parts):
        raise CorpusError(
            f"corpus: no document is left for training of {sum(c['read'] for c in counts.values())} read; {counts}"
        )
    account = Account(sources=accounts, clusters=writing.clusters.told())
    write_json(folder / ACCOUNT, account.model_dump(mode="json"))
    rules = {name: account.rules for name, account in accounts.items() if account.rules}
    manifest = CorpusManifest(settings=settings, inputs=inputs, parts=tuple(writing.parts), counts=counts, rules=rules)
    write_manifest(folder, manifest)
    return manifest


class _Writing:
    """The corpus while it is written."""

    def __init__(self, config: CorpusSection, units: Units, duplicates: Duplicates, folder: Path, threads: Executor) -> None:
        self._threads = threads
        self._config = config
        self._units = units
        self._duplicates = duplicates
        self._folder = folder
        self._names = Names(config, units)
        self._repeats = repeats_by_source(config, self._train_bytes())
        self.parts: list[Part] = []
        self.clusters = _Clusters(duplicates, self._names)

    def source(self, index: int, source: SourceSection) -> SourceAccount:
        """Write the documents of a source. Returns what became of them."""
        part_bytes, threads = self._config.part_bytes, self._threads
        writers = {split: PartWriter(self._folder, split, source.name, part_bytes, threads) for split in SPLITS}
        fates = FateWriter(self._folder, source.name)
        tally = SourceTally()
        repeats = self._repeats.get(source.name, 0.0)
        most = 1
        for unit in self._units_of(index):
            for item in self._rows(unit):
                if isinstance(item, Row):
                    fate = self._dropped(tally, self._names.at(unit, item.piece, item.line), item)
                else:
                    fate, taken = self._kept(tally, self._names.at(unit, item.row.piece, item.row.line), item, repeats, writers)
                    most = max(most, taken)
                fates.add(fate)
        for turn in range(1, most):
            self._once_more(index, turn, repeats, writers["train"])
        fates.close()
        parts = {split: writers[split].finish() for split in SPLITS}
        self.parts.extend(part for split in SPLITS for part in parts[split])
        sizes = {split: sum(part.text_bytes for part in parts[split]) for split in SPLITS}
        return tally.account(sizes["train"], sizes["held_out"], repeats)

    def _dropped(self, tally: SourceTally, name: str, row: Row) -> dict[str, object]:
        tally.counts["bad" if row.is_bad else "read"] += 1
        tally.read_chars += row.chars
        if not row.is_bad:
            tally.counts["too_short" if row.rule == "too_short" else "filtered"] += 1
        tally.left_out(row.rule, Sample(id=name, reason=row.reason, text=row.sample))
        fate = {"id": name, "fate": "dropped", "rule": row.rule, "reason": row.reason, "chars": row.chars}
        return fate | ({"begins": row.sample} if row.sample else {})

    def _kept(
        self, tally: SourceTally, name: str, item: Kept, repeats: float, writers: dict[Split, PartWriter]
    ) -> tuple[dict[str, object], int]:
        """Write a document, or find that it repeats one. Returns its fate and how often it is taken."""
        row = item.row
        tally.counts["read"] += 1
        tally.read_chars += row.chars
        self.clusters.see(item.number, name, row)
        fate: dict[str, object] = {"id": name, "chars": row.chars, "language": row.language}
        if row.changes:
            fate["changes"] = dict(row.changes)
        if item.repeats is not None:
            return fate | self._repeated(tally, name, item.repeats, row), 0
        held_out = is_held_out(item.name, self._config.held_out)
        taken = 1 if held_out else copies(item.name, repeats)
        if not taken:
            tally.counts["unmixed"] += 1
            reason = f"the mix takes {repeats:.3f} of the source"
            tally.left_out(MIX_RULE, None)
            return fate | {"fate": "dropped", "rule": MIX_RULE, "reason": reason}, 0
        split: Split = "held_out" if held_out else "train"
        tally.counts["held_out" if held_out else "kept"] += 1
        tally.languages[row.language] += 1
        tally.lengths[row.chars.bit_length()] += 1
        tally.changes.update(dict(row.changes))
        tally.clean_chars += row.chars
        fate |= {"fate": split, "part": writers[split].add(row.stored or b"", item.text_bytes)}
        return fate | ({"copies": taken} if taken > 1 else {}), taken

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

    def _once_more(self, index: int, turn: int, repeats: float, writer: PartWriter) -> None:
        """Write the documents that the mix takes more than `turn` times, far from their other copies."""
        for unit in self._units_of(index):
            for item in self._rows(unit):
                if not isinstance(item, Kept) or item.repeats is not None or is_held_out(item.name, self._config.held_out):
                    continue
                if copies(item.name, repeats) > turn:
                    writer.add(item.row.stored or b"", item.text_bytes)

    def _units_of(self, source: int) -> Iterator[int]:
        return (number for number, manifest in enumerate(self._units.manifests) if manifest.source == source)

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

    def _train_bytes(self) -> dict[str, int]:
        """Training text of each source before mixing; not needed, and empty, where there are no weights."""
        found: Counter[str] = Counter()
        if all(source.weight is None for source in self._config.sources):
            return found
        for number, manifest in enumerate(self._units.manifests):
            index = self._units.files[number].index()
            start = int(self._units.starts[number])
            repeated = self._duplicates.between(start, start + len(index))
            name = self._config.sources[manifest.source].name
            for place, record in enumerate(index):
                if start + place not in repeated and not is_held_out(fingerprint_bytes(record), self._config.held_out):
                    found[name] += int(record["text_bytes"])
        return found


class _Clusters:
    """The largest clusters of near-duplicates, with the beginnings of some of their texts."""

    def __init__(self, duplicates: Duplicates, names: Names) -> None:
        near = duplicates.records[duplicates.records["kind"] == NEAR]
        roots, sizes = np.unique(near["of"], return_counts=True)
        order = np.lexsort((roots, -sizes))[:MAX_CLUSTERS]
        self._roots = {int(roots[place]): int(sizes[place]) + 1 for place in order}
        self._members: dict[int, dict[int, float]] = {}
        for root in self._roots:
            members = near[near["of"] == root][: MAX_CLUSTER_TEXTS - 1]
            self._members[root] = {root: 1.0} | {int(each["number"]): float(each["similarity"]) for each in members}
        self._wanted = {number for members in self._members.values() for number in members}
        self._seen: dict[int, tuple[str, str]] = {}

    def see(self, number: int, name: str, row: Row) -> None:
        """Note how a document begins if it is one that will be shown."""
        if number in self._wanted:
            self._seen[number] = (name, row.text[:SAMPLE_CHARS])

    def told(self) -> list[Cluster]:
        clusters = []
        for root, size in self._roots.items():
            texts = [
                ClusterText(id=self._seen[number][0], similarity=round(similarity, 3), text=self._seen[number][1])
                for number, similarity in self._members[root].items()
            ]
            clusters.append(Cluster(size=size, texts=tuple(texts)))
        return clusters
