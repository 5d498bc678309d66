"""A document between two steps, and why one is left out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """A document on its way through the steps."""

    text: str
    language: str = "und"
    """ISO 639 code once identified; the source's own before."""
    changes: tuple[tuple[str, int], ...] = ()
    """(rule, how often) for what the steps changed: lines removed, redactions, repairs."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a document is left out."""

    rule: str
    """Such as "gopher.mean_word_length"."""
    reason: str
    """Such as "mean word length 12.1 is above 10"."""
