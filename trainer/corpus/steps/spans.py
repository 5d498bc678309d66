"""Stretches of a text that something was found in, and how several finders' stretches become one list. Pure.

    text --finders--> Span, Span, ... --without_overlaps--> in order, none within another --replaced--> text

Finders work in linear time because each of their patterns has a bound on the characters that one attempt may look at:
every repetition is possessive (it gives nothing back, so there is no backtracking) and has an upper limit. `widest_attempt`
computes that bound from a pattern, and a test holds every pattern to it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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


def widest_attempt(parsed: Any) -> int:
    """Most characters that one attempt of a pattern can look at, from its parse tree (`re._parser.parse(...)`).

    A pattern tried at each of n places so costs at most n times this. Raises ValueError for a repetition that can give
    back what it took, or that has no upper limit.
    """
    return sum(_width(str(operator), argument) for operator, argument in parsed)


def _width(operator: str, argument: Any) -> int:
    if operator in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
        return 1
    if operator in ("AT", "FAILURE"):
        return 0
    if operator in ("ASSERT", "ASSERT_NOT"):
        return widest_attempt(argument[1])
    if operator == "SUBPATTERN":
        return widest_attempt(argument[-1])
    if operator == "ATOMIC_GROUP":
        return widest_attempt(argument)
    if operator == "BRANCH":
        return sum(widest_attempt(branch) for branch in argument[1])
    if operator in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, inner = argument
        if operator != "POSSESSIVE_REPEAT" and least != most:
            raise ValueError(f"a repetition of {least} to {most} can give back what it took")
        if int(most) > 1 << 20:
            raise ValueError("a repetition has no upper limit")
        return int(most) * widest_attempt(inner)
    raise ValueError(f"{operator} is not known to be linear")
