"""Stretches of a text that something was found in, and how several finders' stretches become one list. Pure.

    text --finders--> Span, Span, ... --without_overlaps--> in order, none within another --replaced--> text

Finders work in linear time because each of their patterns has a bound on the characters that one attempt may look at: every
repetition has an upper limit, and what it gives back fails at once, or it stands in a lookahead and gives nothing back
(`(?=(...))\\1`). Possessive quantifiers and atomic groups would say that shorter, but Python 3.11.0 to 3.11.4 match them
wrongly (gh-106052). A test computes each pattern's bound from its parse tree (tests/corpus/backtracking.py).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

WIDE = str.maketrans({**{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}, "\u00a0": " ", "\u3000": " "})
"""Full-width forms of ASCII to ASCII, one character to one, so that positions stay."""


class Span(NamedTuple):
    """Characters start to end of a text, and what kind of thing they are."""

    start: int
    end: int
    kind: str


Finder = Callable[[str], Iterable[Span]]


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """In order of the text. Of spans that overlap the one that was given first stays: give the surest kinds first.

    O(n log n) in the number of spans.
    """
    ranked = sorted(((span, rank) for rank, span in enumerate(spans)), key=lambda item: (item[0].start, item[1]))
    kept: list[tuple[Span, int]] = []
    for span, rank in ranked:
        while kept and kept[-1][0].end > span.start and kept[-1][1] > rank:
            kept.pop()
        if not kept or kept[-1][0].end <= span.start:
            kept.append((span, rank))
    return [span for span, _ in kept]


def replaced(text: str, spans: Iterable[Span], by: Callable[[Span], str]) -> str:
    """The text with each span, in order and without overlaps, replaced."""
    parts: list[str] = []
    at = 0
    for span in spans:
        parts += (text[at : span.start], by(span))
        at = span.end
    parts.append(text[at:])
    return "".join(parts)
