"""The report's headline: how good the pretrained model is, the tuned ones beside it, and what the run took."""

import math
from collections.abc import Sequence

from trainer.tracking import units
from trainer.tracking.markup import Markup, element
from trainer.tracking.report_columns import ALL, columns, headline_column
from trainer.tracking.run_story import RunStory, percentile

_MODELS = {
    "pretrain": "the pretrained model",
    "sft": "the model after instruction tuning",
    "dpo": "the model after preference optimisation",
    "grpo": "the model after reinforcement by rewards",
}


def headline(story: RunStory) -> Markup:
    """The pretrained model's quality with its own tokens, the tuned ones' beside it, and what the run took."""
    cards = [_quality_card(story), *_size_cards(story), *_time_cards(story), _order_card(story)]
    return element("section", element("dl", *cards, class_="cards"), aria_label="Headline figures")


def _card(label: str, value: str | None, note: str = "", tone: str = "", more: str = "", beside: str = "") -> Markup:
    shown = element("dd", value if value is not None else "\u2013", class_="value")
    under = element("dd", note, class_=f"under {tone}".rstrip()) if note else ""
    second = element("dd", more, class_="under") if more else ""
    others = element("dd", beside, class_="others") if beside else ""
    return element("div", element("dt", label), shown, others, under, second, class_="shared" if beside else None)


def _quality_card(story: RunStory) -> Markup:
    """The first card: one large figure, and the other models' beside it."""
    label = "Held-out bits per byte"
    chosen = headline_column(story)
    if chosen is not None and ALL in chosen.bits_per_byte:
        value = chosen.bits_per_byte[ALL]
        baselines = story.evaluated.bits_per_byte if story.evaluated is not None else {}
        bigram = baselines.get("bigram", {}).get(ALL)
        others = [(each.stage, each.label, each.bits_per_byte.get(ALL)) for each in columns(story) if each != chosen]
        beside = _beside(story, others)
        whose = _whose(story, chosen.stage)
        if bigram is None:
            return _card(label, f"{value:.3f}", whose, beside=beside)
        tone = "good" if value < bigram else "bad"
        return _card(label, f"{value:.3f}", _compared(value, bigram), tone, whose, beside)
    if story.validations:
        last = story.validations[-1]
        tuned = [(each.stage, each.stage, each.text[-1].bits_per_byte) for each in story.tunings if each.text]
        note = f"validation at step {last.step:,}; not evaluated yet"
        return _card(label, f"{last.bits_per_byte:.3f}", note, beside=_beside(story, tuned))
    return _card(label, None, "not evaluated yet")


def _whose(story: RunStory, stage: str | None) -> str:
    """Which model a figure is of, with the tokens that its own stage saw."""
    if stage is None:
        return ""
    seen = _tokens_of(story, stage)
    return _MODELS.get(stage, stage) + (f", after {units.count(seen)} tokens" if seen else "")


def _tokens_of(story: RunStory, stage: str) -> int | None:
    steps = story.steps if stage == "pretrain" else next((each.steps for each in story.tunings if each.stage == stage), ())
    return steps[-1].tokens_seen if steps else None


def _beside(story: RunStory, others: Sequence[tuple[str | None, str, float | None]]) -> Markup:
    """The figures of other models, by stage, label and value."""
    items = []
    for stage, label, value in others:
        if value is not None and math.isfinite(value):
            seen = _tokens_of(story, stage) if stage is not None else None
            tokens = element("span", f"{units.count(seen)} tokens") if seen else ""
            items.append(element("li", element("strong", f"{value:.3f}"), " ", element("span", f"after {label}"), " ", tokens))
    return element("ul", *items, class_="tuned") if items else Markup("")


def _compared(model: float, bigram: float) -> str:
    if not (math.isfinite(model) and math.isfinite(bigram) and bigram > 0):
        return f"bigram baseline {bigram:.3f}"
    change = model / bigram - 1
    return f"{units.share(abs(change), 0)} {'below' if change < 0 else 'above'} the bigram baseline, {bigram:.3f}"


def _size_cards(story: RunStory) -> list[Markup]:
    start = story.starts[-1] if story.starts else None
    last = story.steps[-1] if story.steps else None
    parameters = None if start is None else units.count(start.num_parameters)
    seen = None if last is None else units.count(last.tokens_seen)
    return [
        _card("Parameters", parameters, "" if start is None else units.exact(start.num_parameters)),
        _card("Tokens seen", seen, "" if last is None else f"{last.epoch:.2f} epochs", more=_tuning_tokens(story)),
    ]


def _tuning_tokens(story: RunStory) -> str:
    """What the stages after pretraining saw."""
    seen = sum(each.steps[-1].tokens_seen for each in story.tunings if each.steps)
    return f"and {units.count(seen)} in tuning" if seen else ""


def _time_cards(story: RunStory) -> list[Markup]:
    speeds = [event.tokens_per_s for event in story.steps if math.isfinite(event.tokens_per_s)]
    shares = [event.mfu for event in story.steps if event.mfu is not None and math.isfinite(event.mfu)]
    mfu = f", MFU {units.share(percentile(shares, 0.5))}" if shares else ""
    speed = units.count(percentile(speeds, 0.5)) if speeds else None
    training = units.duration(story.training_s) if story.starts else None
    span = f"in training; {units.duration(story.span_s)} from first to last event" if story.starts else ""
    kills = f"{units.plural(len(story.kills), 'planned kill')}" if story.kills else ""
    return [
        _card("Tokens per second", speed, f"median{mfu}" if speeds else ""),
        _card("Wall time", training, span),
        _card("Restarts", f"{story.num_restarts:,}" if story.starts else None, kills),
    ]


def _order_card(story: RunStory) -> Markup:
    order = story.order
    if order is None:
        return _card("Order check", None, "not made")
    exact = order.repeated == 0 and order.skipped == 0
    note = f"{order.repeated:,} repeated, {order.skipped:,} skipped"
    return _card("Order check", units.plural(order.samples, "sample"), note, "good" if exact else "bad")
