"""Numbers to places on paper: ranges, nice ticks, thinning. Pure, and knows nothing of SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]

_LARGEST = 1e300
"""Above it a range would overflow; such values are drawn as a gap, like NaN."""


def drawable(value: float, *, log: bool = False) -> bool:
    """Has a place on the axis."""
    return math.isfinite(value) and abs(value) < _LARGEST and (value > 1 / _LARGEST or not log)


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values, where it lies on paper, and its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def labels(self) -> tuple[str, ...]:
        """One text for each tick, all with the same prefix and number of decimals."""
        gap = 0.0 if self.log or len(self.ticks) < 2 else self.ticks[1] - self.ticks[0]
        largest = max(map(abs, self.ticks), default=0.0)
        return tuple(tick_label(tick, gap or abs(tick), abs(tick) if self.log else largest) for tick in self.ticks)


def make_scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    zero: bool = False,
    whole: bool = False,
    fitted: bool = False,
    num_ticks: int = 5,
) -> Scale:
    """A scale that holds all drawable values.

    `zero` takes in 0, `whole` has ticks at whole numbers only; with `fitted` the range ends at the data, not at a tick.
    """
    shown = [value for value in values if drawable(value, log=log)]
    if log:
        low, high, ticks = _log_range(min(shown, default=1.0), max(shown, default=10.0), num_ticks)
        return Scale(low, high, start, end, ticks, log=True)
    shown += [0.0] if zero or not shown else []
    low, high = min(shown), max(shown)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.1 * abs(high) or 1.0
        low, high = (low if zero and low == 0 else low - room), high + room
    gap = _nice_gap((high - low) / num_ticks, whole=whole)
    first, last = math.ceil(low / gap - 1e-6), math.floor(high / gap + 1e-6)
    if not fitted:
        first, last = math.floor(low / gap + 1e-6), math.ceil(high / gap - 1e-6)
        low, high = first * gap, last * gap
    # 0 times a gap keeps a minus sign from the rounding of small negative numbers
    return Scale(low, high, start, end, tuple(i * gap if i else 0.0 for i in range(first, last + 1)))


def tick_label(value: float, gap: float, largest: float) -> str:
    """A short number, as exact as the distance between ticks needs; 25k and 1.5M where the largest tick is large."""
    if value == 0:
        return "0"
    for least, factor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if largest >= least:
            return _decimals(value / factor, gap / factor) + suffix
    if gap < 0.99e-4 and largest < 100 * gap:  # beside larger numbers, three digits would not tell two ticks apart
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return _decimals(value, gap)


def thin(points: Sequence[Point], limit: int = 1000) -> list[Point]:
    """At most `limit` points that look like all of them: each bucket keeps its lowest, its highest and one gap."""
    if len(points) <= limit:
        return list(points)
    gaps = any(not drawable(y) for _, y in points)
    num_buckets = max(1, (limit - 2) // (3 if gaps else 2))
    kept = {0, len(points) - 1}
    for bucket in range(num_buckets):
        indices = range(bucket * len(points) // num_buckets, (bucket + 1) * len(points) // num_buckets)
        seen = [i for i in indices if drawable(points[i][1])]
        if seen:
            kept |= {min(seen, key=lambda i: points[i][1]), max(seen, key=lambda i: points[i][1])}
        if len(seen) < len(indices):
            kept.add(next(i for i in indices if not drawable(points[i][1])))
    return [points[i] for i in sorted(kept)]


def _nice_gap(least: float, *, whole: bool) -> float:
    unit = 10.0 ** math.floor(math.log10(least))
    if whole and unit < 1:
        return 1.0
    factors = (1, 2, 5, 10) if whole and unit == 1 else (1, 2, 2.5, 5, 10)
    return unit * next(factor for factor in factors if factor * unit >= least * (1 - 1e-9))


def _log_range(low: float, high: float, num_ticks: int) -> tuple[float, float, tuple[float, ...]]:
    """The range widened to 1, 2 or 5 times a power of ten, with the fewest kinds of ticks that fill it."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    steps = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    below = max(i for i, step in enumerate(steps) if step <= low * (1 + 1e-9))
    above = min(i for i, step in enumerate(steps) if step >= high * (1 - 1e-9))
    if below == above:
        below, above = max(0, below - 1), above + 1
    ticks = steps[below : above + 1]
    if len(ticks) > num_ticks + 2:
        tens = [step for step in ticks if f"{step:e}".startswith("1.000")]
        ticks = tens[:: math.ceil(len(tens) / (num_ticks + 2))]
    return steps[below], steps[above], tuple(ticks)


def _decimals(value: float, gap: float) -> str:
    digits = 0
    while digits < 12 and abs(gap * 10**digits - round(gap * 10**digits)) > 1e-6 * 10**digits * gap:
        digits += 1
    return f"{value:,.{digits}f}"
