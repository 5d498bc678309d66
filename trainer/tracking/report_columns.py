"""The checkpoints of the last evaluation as the report's tables and charts name them: one column each, in the same order."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainer.tracking.markup import Markup, element, join
from trainer.tracking.run_story import RunStory

ALL = "all"
"""The key of the figure over all sources."""
MODEL = "model"
"""The key of the model's own figures beside the baselines'."""

_FOLDER = re.compile(r"^(?:(sft|reward|dpo|grpo)/)?checkpoints/")


@dataclass(frozen=True, slots=True)
class Column:
    """One evaluated checkpoint."""

    stage: str | None
    """None: the evaluation was told by a version that named none."""
    label: str
    bits_per_byte: Mapping[str, float]


def columns(story: RunStory) -> list[Column]:
    """What was measured together, else the one model that was."""
    if story.measured:
        labels = labels_of_checkpoints(story)
        return [Column(event.stage, labels[event.checkpoint], known(event.bits_per_byte)) for event in story.measured]
    if story.evaluated is None or MODEL not in story.evaluated.bits_per_byte:
        return []
    return [Column(story.evaluated.stage, MODEL, known(story.evaluated.bits_per_byte[MODEL]))]


def known(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Without those that were no number, which events tell as null."""
    return {name: value for name, value in figures.items() if value is not None}


def headline_column(story: RunStory) -> Column | None:
    """The pretrained model's, the last one of several; without one, the first."""
    found = columns(story)
    pretrained = [column for column in found if column.stage == "pretrain"]
    return pretrained[-1] if pretrained else next(iter(found), None)


def labels_of_checkpoints(story: RunStory) -> dict[str, str]:
    """By checkpoint, in the order of the evaluation: its stage, with the step where that alone does not tell it from others."""
    found: dict[str, tuple[str | None, int | None]] = {event.checkpoint: (event.stage, event.step) for event in story.measured}
    for scored in story.scored:
        found.setdefault(scored.checkpoint, (_stage_in(scored.checkpoint), scored.step))
    stages = [stage for stage, _ in found.values()]
    labels = {}
    for checkpoint, (stage, step) in found.items():
        if stage is None or list(found.values()).count((stage, step)) > 1:
            labels[checkpoint] = checkpoint
        else:
            labels[checkpoint] = stage if stages.count(stage) == 1 else f"{stage} {step or 0:,}"
    return labels


def _stage_in(checkpoint: str) -> str | None:
    found = _FOLDER.match(checkpoint)
    return None if found is None else found[1] or "pretrain"


def marked(text: str, *, best: bool) -> Markup:
    """A figure, marked for eyes and for ears where it is the best of its row."""
    return join(element("strong", text, class_="best"), element("span", " (best)", class_="aloud")) if best else join(text)


def best_of(values: Sequence[float], *, lowest: bool = False) -> Iterator[bool]:
    """Which values are the best; none where there is nothing to choose from."""
    known = [value for value in values if value == value]
    best = (min if lowest else max)(known) if len(known) > 1 else None
    return (value == best for value in values)
