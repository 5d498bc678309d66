"""Documents that hold passages of evaluation sets are dropped. Pure.

A passage is a run of 13 words (GPT-3's choice, arXiv 2005.14165, appendix C) or, in Chinese, of 20 characters, without case,
punctuation and blanks, so that another layout hides nothing. A question shorter than a passage counts as a whole if it has at
least 8 words or 12 characters; shorter ones are everybody's words.

Passages are kept as 64-bit hashes: one of n false keys is hit by chance with probability n / 2^64 a place.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from trainer.config_steps import DecontaminationSection
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.hashing import Keys, rolling_keys, word_numbers

MIN_WORDS, MIN_HAN_CHARS = 8, 12
_WORD = re.compile(r"[^\W_]+")
_HAN_RUN = re.compile("[\u3400-\u9fff\uf900-\ufaff]+")
_SHOWN_CHARS = 60


@dataclass(frozen=True)
class Passages:
    """Sorted keys of passages by kind and length: ("words", 13), ("han", 20), and the shorter lengths of whole questions."""

    keys: dict[tuple[str, int], Keys] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.keys.values()))


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage of an evaluation set in a document."""

    kind: str
    size: int
    passage: str


def texts_of(content: str, is_json: bool) -> Iterator[str]:
    """The texts of an evaluation file: of JSON lines every string, else the paragraphs."""
    if not is_json:
        yield from re.split(r"\n{2,}", content)
        return
    for line in content.splitlines():
        if line.strip():
            yield from _strings(json.loads(line))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def passages_of(texts: Iterable[str], section: DecontaminationSection) -> Passages:
    """All passages of the evaluation texts."""
    found: dict[tuple[str, int], list[Keys]] = {}
    for text in texts:
        for kind, pieces, size, least in (
            ("words", _words(text), section.words, MIN_WORDS),
            ("han", _han(text), section.han_chars, MIN_HAN_CHARS),
        ):
            if len(pieces) >= least:
                length = min(size, len(pieces))
                found.setdefault((kind, length), []).append(rolling_keys(word_numbers(pieces), length))
    return Passages({key: np.unique(np.concatenate(parts)) for key, parts in sorted(found.items())})


def contaminated(text: str, passages: Passages) -> Hit | None:
    """The first passage that the text holds, or None. O(n) for each length of passages."""
    pieces = {"words": _words(text), "han": _han(text)}
    numbers = {kind: word_numbers(items) for kind, items in pieces.items()}
    for (kind, size), known in passages.keys.items():
        if len(numbers[kind]) < size:
            continue
        keys = rolling_keys(numbers[kind], size)
        at = np.searchsorted(known, keys)
        at[at == len(known)] = 0
        hits = np.flatnonzero(known[at] == keys)
        if len(hits):
            joined = (" " if kind == "words" else "").join(pieces[kind][int(hits[0]) : int(hits[0]) + size])
            return Hit(kind, size, joined)
    return None


def _words(text: str) -> list[str]:
    """Words but those of Han characters, which have no blanks between them."""
    return [word for word in _WORD.findall(_HAN_RUN.sub(" ", text.lower())) if word]


def _han(text: str) -> list[str]:
    return list("".join(_HAN_RUN.findall(text)))


@dataclass(frozen=True)
class Decontaminate:
    """The step."""

    passages: Passages
    name: str = "decontamination"

    def __call__(self, document: Draft) -> Draft | Dropped:
        hit = contaminated(document.text, self.passages)
        if hit is None:
            return document
        shown = hit.passage if len(hit.passage) <= _SHOWN_CHARS else hit.passage[:_SHOWN_CHARS] + "…"
        unit = "words" if hit.kind == "words" else "Han characters"
        return Dropped("decontamination.passage", f"holds {hit.size} {unit} of an evaluation set: {shown}")
