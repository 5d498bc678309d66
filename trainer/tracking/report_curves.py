"""Curves over the steps of a training stage, as the report's page and its parts draw them."""

import math
from collections.abc import Callable, Sequence

from trainer.events import StepsDone
from trainer.tracking.markup import Markup
from trainer.tracking.plot import Axis, Series, line_chart
from trainer.tracking.report_parts import figure

STEP = Axis("optimizer step", zero=True)


def points(steps: Sequence[StepsDone], value: Callable[[StepsDone], float]) -> list[tuple[float, float]]:
    """A value of each step."""
    return [(event.step, value(event)) for event in steps if event.step is not None]


def curve(steps: Sequence[StepsDone], heading: str, axis: Axis, value: Callable[[StepsDone], float]) -> Markup:
    """One value over the steps."""
    placed = points(steps, value)
    positive = [y for _, y in placed if math.isfinite(y) and y > 0]
    # A gradient norm falls by powers of ten; what starts at zero is a share or a rate, read on a linear axis
    log = not axis.zero and bool(positive) and max(positive) > 30 * min(positive)
    axis = Axis(axis.title, axis.unit, log=log, zero=axis.zero)
    return figure(heading, line_chart(heading, [Series(heading.lower(), placed)], STEP, axis))
