"""The report's sections on the stages that follow pretraining."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.events import AnswersJudged, StepsDone
from trainer.tracking.markup import Markup, element
from trainer.tracking.plot import Axis, Series, line_chart
from trainer.tracking.report_curves import STEP, curve, points
from trainer.tracking.report_parts import answer_card, conversation, figure, section
from trainer.tracking.run_story import RunStory, Tuning

_TUNING_HEADINGS = {
    "sft": "Instruction tuning",
    "reward": "Reward model",
    "dpo": "Preference optimisation",
    "grpo": "Reinforcement by rewards",
}
_LOSS_UNITS = {"sft": "nats per answer token", "grpo": "per answer"}
_JUDGED = (
    ("reward", "Reward", "mean reward"),
    ("kl", "KL", "nats a token, from the start"),
    ("answer_tokens", "Answer length", "tokens"),
)
_SHARES = (("clip_share", "tokens clipped"), ("cut_share", "answers cut off"), ("no_signal_share", "groups without signal"))


def tunings(story: RunStory) -> Markup:
    """A section for each stage."""
    return Markup("".join(_tuning(tuning) for tuning in story.tunings))


def _tuning(tuning: Tuning) -> Markup:
    """Curves of one stage: its loss, the figures that it adds, and what was held out."""
    charts = [curve(tuning.steps, "Loss", Axis(_LOSS_UNITS.get(tuning.stage, "per pair")), _loss)]
    if tuning.stage == "grpo":
        charts += _judged(tuning)
    figures = tuning.steps[-1].figures if tuning.preferences and tuning.steps else {}
    for name in [each for each in ("accuracy", "margin", "kl") if each in figures]:
        series = [Series("training pairs", _noted(tuning.steps, name))]
        told = [(event.step or 0, getattr(event, name)) for event in tuning.preferences]
        series.append(Series("held out", [(step, float(value)) for step, value in told if value is not None]))
        charts.append(figure(name.capitalize(), line_chart(name.capitalize(), series, STEP, Axis(name))))
    held_out = [Series("text", [(event.step or 0, event.bits_per_byte) for event in tuning.text])] if tuning.text else []
    if tuning.answers:
        held_out.append(Series("answers", [(event.step or 0, event.bits_per_byte) for event in tuning.answers]))
    if held_out:
        charts.append(figure("Held out", line_chart("Held out", held_out, STEP, Axis("bits per byte", "bits per byte"))))
    heading = _TUNING_HEADINGS.get(tuning.stage, tuning.stage)
    return section(heading, element("div", *charts, class_="thirds"), *_judged_answers(tuning))


def _judged(tuning: Tuning) -> list[Markup]:
    """Curves of a stage that learns from rewards."""
    charts = []
    for name, heading, axis in _JUDGED:
        series = [Series("training", _noted(tuning.steps, name))]
        if name != "kl":
            series.append(Series("held out", [(event.step or 0, float(getattr(event, name))) for event in tuning.judged]))
        charts.append(figure(heading, line_chart(heading, series, STEP, Axis(axis))))
    shares = [Series(label, [(x, 100 * y) for x, y in _noted(tuning.steps, name)]) for name, label in _SHARES]
    charts.append(figure("Shares", line_chart("Shares", shares, STEP, Axis("%", "%", zero=True))))
    return charts


def _judged_answers(tuning: Tuning) -> list[Markup]:
    """The same held-out prompts with what the model answered at the first measure and at the last, and what it got for it."""
    told = [event for event in tuning.judged if event.samples]
    shown = told[:1] + told[1:][-1:]
    if not shown:
        return []
    parts: list[Markup] = []
    for prompt in dict.fromkeys(str(sample.get("prompt", "")) for sample in shown[-1].samples):
        cards = [
            answer_card(_judgement(event, sample), str(sample.get("answer", "")))
            for event in shown
            for sample in event.samples
            if sample.get("prompt", "") == prompt
        ]
        parts += [element("div", *conversation(prompt), class_="asked"), element("div", *cards, class_="beside")]
    note = element("p", "Answers to held-out prompts, and the reward that each got; more is better.", class_="note")
    return [element("h3", "Judged answers"), note, *parts]


def _judgement(event: AnswersJudged, sample: Mapping[str, Any]) -> str:
    reward = sample.get("reward")
    given = f"{reward:.3f}" if isinstance(reward, int | float) and math.isfinite(reward) else "\u2013"
    return f"step {event.step or 0:,}: reward {given}"


def _noted(steps: Sequence[StepsDone], name: str) -> list[tuple[float, float]]:
    """A figure that the stage adds, of each step."""
    return points(steps, lambda event: event.figures.get(name, math.nan))


def _loss(event: StepsDone) -> float:
    return event.loss
