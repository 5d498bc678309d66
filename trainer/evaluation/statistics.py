"""How far a count of right answers can be trusted. Pure.

interval   Wilson 1927: the accuracies p for which |k/n - p| <= z sqrt(p (1 - p) / n); see Brown, Cai, DasGupta 2001
p value    P(X >= k) for X right answers by guessing, exact. Each item may have its own chance (Poisson's binomial
           distribution); where all have the same, that is the binomial test
difference McNemar 1947, exact: of the items that one model has right and the other wrong, each is the one's or the other's
           with probability 1/2 if they are equally good. Intervals of two accuracies that overlap say nothing of it, since
           both were asked the same items
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z_95 = 1.959963984540054
"""The normal distribution's two-sided 95% point."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers out of n, beside what guessing gives."""

    accuracy: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    p_value: float
    """Probability that guessing gets as many right, or more."""

    @staticmethod
    def of(right: Sequence[bool], chances: Sequence[float]) -> "Accuracy":
        """From each item's outcome and its chance when guessing. Needs at least one item."""
        num_right = sum(right)
        return Accuracy(num_right / len(right), *wilson(num_right, len(right)), at_least(num_right, chances))

    def to_json(self) -> dict[str, float]:
        """As it stands in results and events."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models' answers to the same items."""

    only_first: int
    """Items that the first one alone has right."""
    only_second: int
    p_value: float
    """Probability that equally good models differ by as much, either way round."""

    @staticmethod
    def of(first: Sequence[bool], second: Sequence[bool]) -> "Difference":
        """From both models' outcomes, item by item."""
        only_first = sum(one and not other for one, other in zip(first, second, strict=True))
        only_second = sum(other and not one for one, other in zip(first, second, strict=True))
        number = only_first + only_second
        tail = at_least(max(only_first, only_second), [0.5] * number)
        return Difference(only_first, only_second, min(1.0, 2 * tail))


def wilson(num_right: int, num_items: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of accuracies that fit what was seen."""
    share, weight = num_right / num_items, z * z / num_items
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt((share * (1 - share) + weight / 4) / num_items)
    return max(0.0, centre - half), min(1.0, centre + half)


def at_least(num_right: int, chances: Sequence[float]) -> float:
    """P(X >= num_right), exact up to rounding: the distribution of the count, item by item."""
    counts = np.zeros(len(chances) + 1)
    counts[0] = 1.0
    for place, chance in enumerate(chances, start=1):
        counts[1 : place + 1] = counts[1 : place + 1] * (1 - chance) + counts[:place] * chance
        counts[0] *= 1 - chance
    return min(1.0, math.fsum(counts[num_right:]))
