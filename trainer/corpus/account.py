"""The account of a corpus: what became of every document, in numbers and samples. As part of the output it holds no times.

CORPUS/account.json                    what `report` draws
CORPUS/fates/SOURCE-00000.jsonl.zst    one line a document, in order: what `prepare --explain` reads
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.corpus.work import ZstdWriter

ACCOUNT = "account.json"
FATES = "fates"

MAX_SAMPLES = 5
"""Of each source and rule."""
SAMPLE_CHARS = 300

_FATES_IN_A_FILE = 10_000


class Sample(BaseModel):
    """How a dropped document begins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    reason: str
    text: str


class ClusterText(BaseModel):
    """A document of a cluster: the first is the one that stayed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    similarity: float
    text: str


class Cluster(BaseModel):
    """Documents that are nearly the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    texts: tuple[ClusterText, ...]


class SourceAccount(BaseModel):
    """What became of one source."""

    model_config = ConfigDict(extra="forbid")

    counts: dict[str, int]
    """Documents read, kept for training, held out, and left out by kind."""
    rules: dict[str, int]
    """Documents left out, by rule."""
    changes: dict[str, int]
    """What the steps changed in documents that stayed: lines removed, redactions, repairs."""
    languages: dict[str, int]
    """Documents that stayed, by language."""
    read_chars: int
    clean_chars: int
    train_bytes: int
    """Training text, repeats included."""
    held_out_bytes: int
    repeats: float
    """How often the source is taken for the mix."""
    lengths: dict[int, int]
    """Documents that stayed, by the power of two of characters that they do not reach."""
    samples: dict[str, list[Sample]]
    """By rule."""


class Account(BaseModel):
    """What became of every document."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    sources: dict[str, SourceAccount]
    clusters: list[Cluster]
    """The largest clusters of near-duplicates."""


@dataclass(slots=True)
class SourceTally:
    """An account while it grows."""

    counts: Counter[str] = field(
        default_factory=lambda: Counter(
            read=0, kept=0, held_out=0, too_short=0, duplicate=0, near_duplicate=0, filtered=0, unmixed=0, bad=0
        )
    )
    rules: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    read_chars: int = 0
    clean_chars: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def wants_sample(self, rule: str) -> bool:
        """Whether a document that this rule leaves out will be shown."""
        return len(self.samples.get(rule, ())) < MAX_SAMPLES

    def left_out(self, rule: str, sample: Sample | None) -> None:
        """Count a document that a rule leaves out; the first ones of a rule are shown."""
        self.rules[rule] += 1
        if sample is not None and self.wants_sample(rule):
            self.samples.setdefault(rule, []).append(sample)

    def add(self, other: "SourceTally") -> None:
        """Count what comes after it."""
        for mine, more in (
            (self.counts, other.counts),
            (self.changes, other.changes),
            (self.languages, other.languages),
            (self.rules, other.rules),
        ):
            mine.update(more)
        self.lengths.update(other.lengths)
        self.read_chars += other.read_chars
        self.clean_chars += other.clean_chars
        for rule, samples in other.samples.items():
            shown = self.samples.setdefault(rule, [])
            shown.extend(samples[: MAX_SAMPLES - len(shown)])

    def account(self, train_bytes: int, held_out_bytes: int, repeats: float) -> SourceAccount:
        return SourceAccount(
            counts=dict(self.counts),
            rules=dict(sorted(self.rules.items())),
            changes=dict(sorted(self.changes.items())),
            languages=dict(sorted(self.languages.items(), key=lambda item: (-item[1], item[0]))),
            read_chars=self.read_chars,
            clean_chars=self.clean_chars,
            train_bytes=train_bytes,
            held_out_bytes=held_out_bytes,
            repeats=round(repeats, 6),
            lengths=dict(sorted(self.lengths.items())),
            samples=dict(sorted(self.samples.items())),
        )


class FateWriter:
    """The fates of a source's documents, in files of ten thousand: of one share, those files that begin in it."""

    def __init__(self, folder: Path, source: str, num_before: int) -> None:
        self._folder = folder / FATES
        self._source = source
        self._file: ZstdWriter | None = None
        self._num_lines = num_before
        self._begins_files = True

    @property
    def is_open(self) -> bool:
        """Whether a file is begun and not full."""
        return self._file is not None

    def begin_no_more(self) -> None:
        """Fill the file that is begun, and leave what comes after it out."""
        self._begins_files = False

    def add(self, values: dict[str, object]) -> None:
        if self._num_lines % _FATES_IN_A_FILE == 0 and self._begins_files:
            self._folder.mkdir(exist_ok=True)
            name = f"{self._source}-{self._num_lines // _FATES_IN_A_FILE:05d}.jsonl.zst"
            self._file = ZstdWriter(self._folder / name)
        if self._file is not None:
            self._file.write(json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._num_lines += 1
        if self._num_lines % _FATES_IN_A_FILE == 0:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()


def read_account(folder: Path) -> Account | None:
    """The account of a corpus; None where there is none, or one of another version."""
    try:
        return Account.model_validate_json((folder / ACCOUNT).read_bytes())
    except (OSError, ValidationError):
        return None


def fate_files(folder: Path, source: str) -> Iterator[Path]:
    """The files of a source's fates in order."""
    yield from sorted((folder / FATES).glob(f"{source}-[0-9][0-9][0-9][0-9][0-9].jsonl.zst"))
