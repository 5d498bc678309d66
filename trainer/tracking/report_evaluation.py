"""The report's sections on evaluation: bits per byte, tasks, texts and answers, a column for each evaluated checkpoint.

All but the first are empty where nothing of them was asked for.
"""

import math
from collections.abc import Mapping, Sequence

from trainer.events import CheckpointMeasured, TaskScored
from trainer.tracking import units
from trainer.tracking.markup import Markup, element, join
from trainer.tracking.plot import bar_chart
from trainer.tracking.report_columns import (
    ALL,
    MODEL,
    best_of,
    columns,
    headline_column,
    known,
    labels_of_checkpoints,
    marked,
)
from trainer.tracking.report_parts import answer_card, conversation, figure, missing, section, table
from trainer.tracking.run_story import RunStory

_WIDTH, _HEIGHT = 120.0, 16.0
"""Of a drawn interval, in pixels."""

_SCORE_NAMES = {"plain": "sum", "per_character": "per character"}
_SURE = 0.05
"""A task's best is marked where guessing does as well more seldom than this."""


def evaluation(story: RunStory) -> Markup:
    """Bits per byte of each checkpoint and of the baselines: the same rows and columns in the table and in the chart."""
    shown = columns(story)
    if story.evaluated is None or not story.evaluated.bits_per_byte:
        return section("Evaluation", missing("Not evaluated yet;", "trainer evaluate"))
    baselines = {name: known(figures) for name, figures in story.evaluated.bits_per_byte.items() if name != MODEL}
    figures: dict[str, Mapping[str, float]] = {column.label: column.bits_per_byte for column in shown} | baselines
    sources = list(dict.fromkeys(source for by_source in figures.values() for source in by_source))
    sources.sort(key=lambda source: source == ALL)
    values = {name: [by_source.get(source, math.nan) for source in sources] for name, by_source in figures.items()}
    labels = ["all sources" if source == ALL else source for source in sources]
    compared = headline_column(story)
    against = compared.label if compared is not None and "bigram" in baselines else None
    rows = []
    for index, label in enumerate(labels):
        own = [values[column.label][index] for column in shown]
        cells = [marked(_bits(value), best=best) for value, best in zip(own, best_of(own, lowest=True), strict=True)]
        cells += [join(_bits(values[name][index])) for name in baselines]
        against_bigram = [join(_change(values[against][index], values["bigram"][index]))] if against else []
        rows.append([label, *cells, *against_bigram])
    head = ["Source", *figures, *([f"{against} vs bigram" if len(shown) > 1 else "vs bigram"] if against else [])]
    note = "Bits per byte of held-out text, all on the same rows; lower is better."
    if len(shown) > 1:
        note += " The best stage of each row is marked. Tuning is not made for this text, and mostly costs some of it."
    bars = figure("Compared", bar_chart("Bits per byte by source", labels, list(values.items())))
    whole = table(head, rows, "figures", "Bits per byte by source")
    layout = "stacked" if len(shown) > 1 else "halves"
    return section("Evaluation", element("p", note, class_="note"), element("div", whole, bars, class_=layout))


def _bits(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "\u2013"


def _change(model: float, bigram: float) -> str:
    if not (math.isfinite(model) and math.isfinite(bigram) and bigram > 0):
        return "\u2013"
    return f"{100 * (model / bigram - 1):+.0f}\u00a0%".replace("-", "\u2212")


def tasks(story: RunStory) -> Markup:
    """Tasks by stages: accuracy with its interval beside what guessing gives, the best of each row marked."""
    if not story.scored:
        return Markup("")
    labels = labels_of_checkpoints(story)
    told = list(dict.fromkeys(event.checkpoint for event in story.scored))
    note = (
        "Share of right answers by the log-probability of each choice: its sum, or divided by the choice's length. The line is "
        "the 95% interval (Wilson), the mark is guessing; p is the probability that guessing does as well."
    )
    if len(told) > 1:
        note += f" The best of a row is marked where its p is below {_SURE}."
    head = ["Task", "Score", "Items", "Guessing", *(labels[name] if len(told) > 1 else "Right" for name in told)]
    by_task: dict[str, dict[str, TaskScored]] = {}
    for event in story.scored:
        by_task.setdefault(event.task, {})[event.checkpoint] = event
    rows = [
        _task_row(name, score, [scored.get(checkpoint) for checkpoint in told])
        for name, scored in by_task.items()
        for score in dict.fromkeys(score for event in scored.values() for score in event.scores)
    ]
    return section("Tasks", element("p", note, class_="note"), table(head, rows, "figures tasks", "Tasks by stages"))


def _task_row(task: str, score: str, scored: Sequence[TaskScored | None]) -> list[str]:
    """A score of a task, as each checkpoint has it."""
    first = next(event for event in scored if event is not None)
    found = [event.scores.get(score) if event is not None else None for event in scored]
    left_out = f" ({first.left_out:,} left out: trained on)" if first.left_out else ""
    accuracies = [each["accuracy"] if each is not None else math.nan for each in found]
    cells = [
        _score_cell(each, first.chance, best=best and each is not None and each["p_value"] < _SURE)
        for each, best in zip(found, best_of(accuracies), strict=True)
    ]
    return [task, _SCORE_NAMES.get(score, score), f"{first.n:,}{left_out}", units.share(first.chance), *cells]


def _score_cell(score: Mapping[str, float] | None, chance: float, *, best: bool) -> Markup:
    if score is None:
        return Markup("\u2013")
    interval = f"({100 * score['low']:.1f} to {100 * score['high']:.1f})"
    return join(
        marked(units.share(score["accuracy"]), best=best),
        _interval(score, chance),
        element("span", interval, class_="detail"),
        element("span", f"p {_p_value(score['p_value'])}", class_="detail"),
    )


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return units.number(value)
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _interval(score: Mapping[str, float], chance: float) -> Markup:
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
    """What each of several checkpoints writes behind the same prompts."""
    prompts = list(dict.fromkeys(prompt for event in story.measured for prompt in event.samples))
    if not prompts:
        return Markup("")
    labels = labels_of_checkpoints(story)
    note = "Texts behind the same prompts with the same seed; the prompt is marked."
    texts = (
        element("div", *(_text(event, prompt, labels[event.checkpoint]) for event in story.measured), class_="beside")
        for prompt in prompts
    )
    return section("Side by side", element("p", note, class_="note"), *texts)


def _text(event: CheckpointMeasured, prompt: str, label: str) -> Markup:
    prompted = element("mark", prompt) if prompt else element("mark", "new document", class_="no-prompt")
    quote = element("blockquote", prompted, event.samples.get(prompt, ""), dir="auto")
    return element("figure", quote, element("figcaption", label), class_="sample")


def answers(story: RunStory) -> Markup:
    """What each checkpoint answers in a chat to the same held-out questions."""
    asked = [event for event in story.measured if event.answers]
    if not asked:
        return Markup("")
    labels = labels_of_checkpoints(story)
    note = (
        "Held-out questions in the chat's own form, answered by the model before and after each stage with the same seed. "
        "A model that was not tuned goes on writing until it is cut off."
    )
    parts = []
    for place, first in enumerate(asked[0].answers):
        said = [(event, event.answers[place]) for event in asked if place < len(event.answers)]
        cards = [answer_card(labels[event.checkpoint], str(answer.get("answer", ""))) for event, answer in said]
        expected = str(first.get("expected", ""))
        if expected:
            cards.append(answer_card("in the data", expected, class_="expected"))
        parts.append(element("div", *conversation(str(first.get("question", ""))), class_="asked"))
        parts.append(element("div", *cards, class_="beside"))
    return section("Answers", element("p", note, class_="note"), *parts)
