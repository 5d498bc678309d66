"""The report's sections on tasks and on several checkpoints side by side; empty where nothing of it was asked for."""

import math

from trainer.events import CheckpointMeasured, TaskScored
from trainer.tracking import units
from trainer.tracking.markup import Markup, element
from trainer.tracking.report_parts import section, table
from trainer.tracking.run_story import RunStory

_WIDTH, _HEIGHT = 140.0, 16.0
"""Of a drawn interval, in pixels."""

_SCORE_NAMES = {"plain": "sum", "per_character": "per character"}


def tasks(story: RunStory) -> Markup:
    """Accuracy on tasks with a right answer, each with its interval beside what guessing gives."""
    if not story.scored:
        return Markup("")
    names = list(dict.fromkeys(event.checkpoint for event in story.scored))
    note = (
        "Share of right answers by the log-probability of each choice: its sum, or divided by the choice's length. The line is "
        "the 95% interval (Wilson), the mark is guessing; p is the probability that guessing does as well."
    )
    head = ["Task", *(["Checkpoint"] if len(names) > 1 else []), "Items", "Score", "Right (95% interval)", "", "Guessing", "p"]
    rows = [_row(event, name, several=len(names) > 1) for event in story.scored for name in event.scores]
    return section("Tasks", element("p", note, class_="note"), table(head, rows, "figures tasks"))


def _row(event: TaskScored, name: str, *, several: bool) -> list[str]:
    score = event.scores[name]
    left_out = f" ({event.left_out:,} left out: trained on)" if event.left_out else ""
    return [
        event.task,
        *([event.checkpoint.replace("checkpoints/", "")] if several else []),
        f"{event.n:,}{left_out}",
        _SCORE_NAMES.get(name, name),
        f"{units.share(score['accuracy'])} ({100 * score['low']:.1f} to {100 * score['high']:.1f})",
        _interval(score, event.chance),
        units.share(event.chance),
        _p_value(score["p_value"]),
    ]


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return units.number(value)
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _interval(score: dict[str, float], chance: float) -> Markup:
    """A line from 0 to 1 with the interval, the accuracy as a dot, and guessing as a mark."""
    values = [score["low"], score["high"], score["accuracy"], chance]
    if not all(math.isfinite(value) for value in values):
        return Markup("")
    low, high, at, guess = (4 + (_WIDTH - 8) * min(1.0, max(0.0, value)) for value in values)
    middle = _HEIGHT / 2
    label = f"{units.share(score['accuracy'])}, guessing {units.share(chance)}"
    return element(
        "svg",
        element("line", x1=4.0, x2=_WIDTH - 4, y1=middle, y2=middle, class_="track"),
        element("line", x1=low, x2=high, y1=middle, y2=middle, class_="span"),
        element("line", x1=guess, x2=guess, y1=1.0, y2=_HEIGHT - 1, class_="guess"),
        element("circle", cx=at, cy=middle, r=4.0, class_="s0"),
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        width=_WIDTH,
        height=_HEIGHT,
        class_="interval",
        role="img",
        aria_label=label,
    )


def side_by_side(story: RunStory) -> Markup:
    """Checkpoints that were evaluated together: their figures, and what each writes behind the same prompts."""
    if not story.measured:
        return Markup("")
    sources = list(dict.fromkeys(source for event in story.measured for source in event.bits_per_byte))
    head = ["Checkpoint", "Stage", *("all sources" if source == "all" else source for source in sources)]
    rows = [
        [event.checkpoint, event.stage, *(_bits(event.bits_per_byte.get(source)) for source in sources)]
        for event in story.measured
    ]
    note = "Held-out bits per byte, and texts behind the same prompts with the same seed; the prompt is marked."
    prompts = list(dict.fromkeys(prompt for event in story.measured for prompt in event.samples))
    texts = (element("div", *(_text(event, prompt) for event in story.measured), class_="beside") for prompt in prompts)
    return section("Side by side", element("p", note, class_="note"), table(head, rows, "figures"), *texts)


def _bits(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "\u2013"


def _text(event: CheckpointMeasured, prompt: str) -> Markup:
    marked = element("mark", prompt) if prompt else element("mark", "new document", class_="no-prompt")
    quote = element("blockquote", marked, event.samples.get(prompt, ""), dir="auto")
    return element("figure", quote, element("figcaption", event.checkpoint), class_="sample")
