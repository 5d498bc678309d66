"""Figures as people read them, with their units."""

import math

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
GAP = "\u00a0"
"""Keeps a number and its unit on one line."""


def exact(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def count(value: float) -> str:
    """Three digits and a prefix: 25.8 M; below 10,000 the number itself."""
    if not math.isfinite(value):
        return number(value)
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    return _prefixed(value)


def size(value_bytes: float) -> str:
    """Bytes in powers of 1000."""
    if value_bytes < 1000:
        return f"{value_bytes:.0f}{GAP}B"
    return _prefixed(value_bytes) + "B"


def duration(value_s: float) -> str:
    """Seconds in the two largest units that matter."""
    if not math.isfinite(value_s):
        return number(value_s)
    if value_s < 1:
        return f"{value_s * 1000:.0f}{GAP}ms"
    if value_s < 9.95:
        return f"{value_s:.1f}{GAP}s"
    seconds = round(value_s)
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            rest = seconds % unit_s // part_s
            return f"{seconds // unit_s}{GAP}{unit}" + (f" {rest}{GAP}{part}" if rest else "")
    return f"{seconds}{GAP}s"


def share(value: float, digits: int = 1) -> str:
    """A fraction in per cent."""
    return f"{100 * value:.{digits}f}{GAP}%" if math.isfinite(value) else number(value)


def number(value: float) -> str:
    """Four significant digits; what is not finite says so."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def plural(how_many: int, word: str) -> str:
    """1 step, 2 steps, 1,000 steps."""
    return f"{how_many:,} {word}" + ("" if how_many == 1 else "s")


def _prefixed(value: float) -> str:
    for factor, prefix in _STEPS:
        # 999,950 would print as 1000 k
        if abs(value) >= 0.9995 * factor:
            scaled = value / factor
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}{GAP}{prefix}"
    return f"{value:.0f}"
