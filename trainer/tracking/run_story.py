"""A run's records put together into one value: what holds after kills and restarts, and what happened. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import yaml

from trainer import events
from trainer.events import (
    AnswersJudged,
    AnswersValidated,
    CheckpointMeasured,
    CheckpointSaved,
    Evaluated,
    Event,
    Failed,
    Generated,
    OrderChecked,
    Preempting,
    PreferencesValidated,
    RankKilled,
    Record,
    StageStarted,
    StepsDone,
    StepSkipped,
    TaskScored,
    TrainingEvent,
    TrainingFinished,
    TrainingStarted,
    Validated,
)

State = Literal["not started", "running", "stopped", "failed", "finished"]
E = TypeVar("E", bound=Event)
_PRETRAIN = "pretrain"

_KINDS: dict[str, type[Event]] = {
    kind.name(): kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, TrainingEvent)
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """A stage after pretraining, as the report tells it; one event a step, in order."""

    stage: str
    steps: tuple[StepsDone, ...]
    text: tuple[Validated, ...]
    """Held-out bits per byte of the pretraining's text."""
    answers: tuple[AnswersValidated, ...]
    preferences: tuple[PreferencesValidated, ...]
    judged: tuple[AnswersJudged, ...] = ()


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run as the report tells it. `steps`, `skips` and `validations` hold one event a step, in order, of pretraining.

    Starts, stops, saves and the check of the order are of pretraining, too, or of the first stage of a run without it.
    """

    name: str
    config_text: str | None
    records: tuple[Record, ...]
    num_unknown: int
    state: State
    training_s: float
    starts: tuple[TrainingStarted, ...]
    steps: tuple[StepsDone, ...]
    skips: tuple[StepSkipped, ...]
    validations: tuple[Validated, ...]
    kills: tuple[RankKilled, ...]
    stops: tuple[Preempting, ...]
    saves: tuple[CheckpointSaved, ...]
    evaluated: Evaluated | None
    scored: tuple[TaskScored, ...]
    """Of the last evaluation, by checkpoint and task."""
    measured: tuple[CheckpointMeasured, ...]
    """Of the last evaluation, where it compared several checkpoints."""
    samples: tuple[Generated, ...]
    order: OrderChecked | None
    tunings: tuple[Tuning, ...] = ()

    @property
    def span_s(self) -> float:
        """From the first event to the last, in seconds, with the time in which nothing ran."""
        return self.records[-1].time - self.records[0].time if self.records else 0.0

    @property
    def num_restarts(self) -> int:
        """How often training began again."""
        return max(0, len(self.starts) - 1)


def parse_records(lines: Iterable[dict[str, Any]]) -> tuple[list[Record], int]:
    """Known events as values, and the number of lines passed over: a later version may tell more."""
    records, num_unknown = [], 0
    for line in lines:
        record = _parse(line)
        if record is None:
            num_unknown += 1
        else:
            records.append(record)
    return records, num_unknown


def tell_story(records: Sequence[Record], name: str, config_text: str | None = None, num_unknown: int = 0) -> RunStory:
    """Put together what belongs together, and drop what a later start of the run tells again.

    Steps are counted in each stage from 0, so the curves of one never meet those of another.
    """
    told = [record.event.stage for record in records if isinstance(record.event, StepsDone)]
    tunings = tuple(_tuning(records, stage) for stage in dict.fromkeys(told) if stage != _PRETRAIN)
    everything, records = records, [record for record in records if _stage_of(record.event) in (None, _PRETRAIN)]
    # of a run that only tunes, how it went is told by its first stage
    trains = told[0] if told and _PRETRAIN not in told else _PRETRAIN
    of_training = [record for record in everything if _stage_of(record.event) in (None, trains)]
    return RunStory(
        name=name,
        config_text=config_text,
        records=tuple(everything),
        num_unknown=num_unknown,
        state=_state(everything),
        training_s=_training_s(of_training),
        starts=tuple(_all(of_training, TrainingStarted)),
        steps=tuple(_by_step(records, StepsDone)),
        skips=tuple(_by_step(records, StepSkipped)),
        validations=tuple(_by_step(records, Validated)),
        kills=tuple(_all(records, RankKilled)),
        stops=tuple(_all(of_training, Preempting)),
        saves=tuple(_all(of_training, CheckpointSaved)),
        evaluated=_last(records, Evaluated),
        scored=tuple(_of_last_evaluation(records, TaskScored)),
        measured=tuple(_of_last_evaluation(records, CheckpointMeasured)),
        samples=tuple(_latest_samples(records)),
        order=_last(of_training, OrderChecked),
        tunings=tunings,
    )


def _stage_of(event: Event) -> str | None:
    """The training stage that an event belongs to."""
    return event.stage if isinstance(event, TrainingEvent | TrainingStarted | TrainingFinished) else None


def _tuning(records: Sequence[Record], stage: str) -> Tuning:
    own = [record for record in records if _stage_of(record.event) == stage]
    return Tuning(
        stage,
        tuple(_by_step(own, StepsDone)),
        tuple(_by_step(own, Validated)),
        tuple(_by_step(own, AnswersValidated)),
        tuple(_by_step(own, PreferencesValidated)),
        tuple(_by_step(own, AnswersJudged)),
    )


def values_in(config_text: str | None) -> dict[str, Any]:
    """The config's values. A config that is not readable is shown as it is and is no reason to withhold the report."""
    try:
        values = yaml.safe_load(config_text or "")
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed (nearest rank). Needs at least one value."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _parse(line: dict[str, Any]) -> Record | None:
    kind = _KINDS.get(str(line.get("event")))
    time, run = line.get("time"), line.get("run")
    if kind is None or not isinstance(time, int | float) or not isinstance(run, str):
        return None
    known = {field.name: line[field.name] for field in fields(kind) if field.name in line}
    # JSON has no NaN: a figure that must be a number and is null was none
    known |= {field.name: math.nan for field in fields(kind) if field.type is float and known.get(field.name, 0) is None}
    try:
        return Record(float(time), run, kind(**known))
    except TypeError:
        # A field that this version requires is missing
        return None


def _all(records: Sequence[Record], kind: type[E]) -> list[E]:
    return [record.event for record in records if isinstance(record.event, kind)]


def _last(records: Sequence[Record], kind: type[E]) -> E | None:
    found = _all(records, kind)
    return found[-1] if found else None


def _by_step(records: Sequence[Record], kind: type[E]) -> list[E]:
    """One event for each step. A start at step k takes back all that was told of later steps."""
    told: dict[int, E] = {}
    for record in records:
        event = record.event
        if isinstance(event, TrainingStarted):
            resumed_at = event.step or 0
            told = {step: earlier for step, earlier in told.items() if step <= resumed_at}
        elif isinstance(event, kind) and event.step is not None:
            told[event.step] = event
    return [told[step] for step in sorted(told)]


def _latest_samples(records: Sequence[Record]) -> list[Generated]:
    """What the last `generate` wrote: the stage can be run again with other prompts."""
    samples: list[Generated] = []
    begun_anew = False
    for record in records:
        event = record.event
        if isinstance(event, StageStarted) and event.stage == "generate":
            begun_anew = True
        elif isinstance(event, Generated):
            samples = [event] if begun_anew else [*samples, event]
            begun_anew = False
    return samples


def _of_last_evaluation(records: Sequence[Record], kind: type[E]) -> list[E]:
    """What the last evaluation told before its end; one that was cut off does not count."""
    told: list[E] = []
    waiting: list[E] = []
    for record in records:
        event = record.event
        if isinstance(event, StageStarted) and event.stage == "evaluate":
            waiting = []
        elif isinstance(event, kind):
            waiting.append(event)
        elif isinstance(event, Evaluated):
            told, waiting = waiting, []
    return told


def _state(records: Sequence[Record]) -> State:
    """Of the training. A run that was cut off without a word looks like a running one; its last event's time tells."""
    state: State = "not started"
    for record in records:
        match record.event:
            case TrainingStarted():
                state = "running"
            case Preempting():
                state = "stopped"
            case Failed():
                state = "failed"
            case TrainingFinished(complete=complete):
                state = "finished" if complete else "stopped"
    return state


def _training_s(records: Sequence[Record]) -> float:
    """Seconds from each start to the last event before its end or the next start; time in between does not count."""
    total = 0.0
    began: float | None = None
    last = 0.0
    for record in records:
        if isinstance(record.event, TrainingStarted):
            total += last - began if began is not None else 0.0
            began = record.time
        last = record.time
        if isinstance(record.event, TrainingFinished | Preempting) and began is not None:
            total += record.time - began
            began = None
    return total + (last - began if began is not None else 0.0)
