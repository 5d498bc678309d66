"""What quality rules of both languages share: limits with a reason, prose apart from code, repetition. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer.config_steps import RepetitionSection
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.hashing import Runs

_FENCE = re.compile(r"\s{0,8}(?:```|~~~)")
_HAN = re.compile("[\u3400-\u9fff]")


class Limit(NamedTuple):
    """A measured value and the thresholds that it must keep; None is no threshold."""

    rule: str
    what: str
    value: float
    least: float | None = None
    most: float | None = None


def first_broken(limits: Iterable[Limit]) -> Dropped | None:
    """The first limit that is not kept, as a reason. What stands behind it is not measured."""
    for rule, what, value, least, most in limits:
        if least is not None and value < least:
            return Dropped(rule, f"{what} {value:.4g} is below {least:g}")
        if most is not None and value > most:
            return Dropped(rule, f"{what} {value:.4g} is above {most:g}")
    return None


def share(part: float, whole: float) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0


def code_lines(lines: Sequence[str]) -> list[bool]:
    """Which lines are code: in a fence of Markdown, or indented by a tab or four blanks and not mainly Chinese.

    A fence that never ends is none.
    """
    marks = [number for number, line in enumerate(lines) if _FENCE.match(line)]
    fenced: set[int] = set()
    for start, end in zip(marks[0::2], marks[1::2], strict=False):
        fenced.update(range(start, end + 1))
    return [
        number in fenced or (line.startswith(("    ", "\t")) and 3 * len(_HAN.findall(line)) < len(line.strip()))
        for number, line in enumerate(lines)
    ]


def prose_of(text: str, keep_code: bool) -> str:
    """The text without its lines of code, if code is to be kept from judgement."""
    if not keep_code or not ("\n    " in text or "\n\t" in text or "```" in text or "~~~" in text):
        return text
    lines = text.split("\n")
    return "\n".join(line for line, is_code in zip(lines, code_lines(lines), strict=True) if not is_code)


def duplicates(pieces: Iterable[str]) -> tuple[int, int]:
    """How many pieces stood there before, and their characters."""
    seen: set[str] = set()
    count = chars = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            chars += len(piece)
        else:
            seen.add(piece)
    return count, chars


def repetition(text: str, words: Sequence[str], rules: RepetitionSection, prefix: str) -> Iterator[Limit]:
    """Gopher's rules (arXiv 2112.11446, table A1) on lines, paragraphs and n-grams of the words given.

    Each character counts once, however many repeated n-grams it lies in, and not where an n-gram stands first.
    """
    paragraphs = [part for part in re.split(r"\n{2,}", text) if part.strip()]
    lines = [line for line in text.split("\n") if line.strip()]
    chars = len(text)
    for name, pieces, most, most_chars in (
        ("paragraph", paragraphs, rules.max_duplicate_paragraphs, rules.max_duplicate_paragraph_chars),
        ("line", lines, rules.max_duplicate_lines, rules.max_duplicate_line_chars),
    ):
        count, repeated = duplicates(pieces)
        yield Limit(f"{prefix}.duplicate_{name}s", f"share of repeated {name}s", share(count, len(pieces)), most=most)
        what = f"share of characters in repeated {name}s"
        yield Limit(f"{prefix}.duplicate_{name}_chars", what, share(repeated, chars), most=most_chars)
    yield from _ngram_limits(words, chars, rules, prefix)


def _ngram_limits(words: Sequence[str], chars: int, rules: RepetitionSection, prefix: str) -> Iterator[Limit]:
    """Shorter n-grams first: a longer one repeats only where the shorter ones in it do, so mostly one or two are measured."""
    numbers, lengths = _numbered(words)
    runs = Runs(numbers)
    for n, most in sorted(rules.max_top_ngrams):
        times, top = _top_chars(runs, lengths, n)
        if times < 2:
            break
        what = f"share of characters in the most frequent {n}-gram"
        yield Limit(f"{prefix}.top_{n}_gram", what, share(top, chars), most=most)
    ascending = sorted(rules.max_duplicate_ngrams)
    for place, (n, most) in enumerate(ascending):
        repeated = share(_repeated_chars(runs, lengths, n), chars)
        what = f"share of characters in repeated {n}-grams"
        yield Limit(f"{prefix}.duplicate_{n}_grams", what, repeated, most=most)
        if all(repeated <= limit for _, limit in ascending[place + 1 :]):
            return


def _numbered(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each word's number (equal for equal words) and length."""
    number_of: dict[str, int] = {}
    numbers = np.fromiter((number_of.setdefault(word, len(number_of)) for word in words), dtype=np.uint64, count=len(words))
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    return numbers, lengths


def _top_chars(runs: Runs, lengths: np.ndarray, n: int) -> tuple[int, int]:
    """How often the most frequent n-gram stands there, and the characters in all its places, blanks between words with them."""
    keys = runs.keys(n)
    if not len(keys):
        return 0, 0
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    times = int(counts.max())
    at = int(first[counts == times].min())
    blanks = n - 1 if int(lengths.max()) > 1 else 0
    return times, times * (int(lengths[at : at + n].sum()) + blanks)


def _repeated_chars(runs: Runs, lengths: np.ndarray, n: int) -> int:
    """Characters of words that lie in an n-gram which stood there before."""
    keys = runs.keys(n)
    if not len(keys):
        return 0
    _, first = np.unique(keys, return_index=True)
    if len(first) == len(keys):
        return 0
    again = np.ones(len(keys), dtype=bool)
    again[first] = False
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    starts[: len(keys)] += again
    starts[n : n + len(keys)] -= again
    covered = np.cumsum(starts[:-1]) > 0
    return int(lengths[covered].sum())
