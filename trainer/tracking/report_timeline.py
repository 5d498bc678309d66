"""What happened in a run, one row for each thing that a person would tell. Pure: records to rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from trainer.events import (
    AnswersJudged,
    AnswersValidated,
    CheckpointDamaged,
    CheckpointFailed,
    CheckpointMeasured,
    CheckpointSaved,
    EpochDone,
    Evaluated,
    Event,
    Failed,
    Generated,
    OrderChecked,
    Preempting,
    PreferencesValidated,
    RankKilled,
    Record,
    SinkFailed,
    SinkRecovered,
    StageFinished,
    StageStarted,
    StepsDone,
    StepSkipped,
    TaskScored,
    TrainingFinished,
    TrainingStarted,
    Validated,
)
from trainer.tracking import units

Tone = Literal["plain", "good", "bad", "quiet"]


_VALIDATED = Validated | AnswersValidated | PreferencesValidated | AnswersJudged | Evaluated | TaskScored | CheckpointMeasured
_TOLD_ELSEWHERE = StepsDone | EpochDone | _VALIDATED | Generated
"""The page's charts, tables and samples."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the timeline: seconds since the run's first event, the steps it is about, and what happened."""

    since_start_s: float
    steps: str
    what: str
    detail: str = ""
    tone: Tone = "plain"


def timeline(records: Sequence[Record]) -> list[Row]:
    """Rows in order. What repeats without anything in between (saves, skipped steps) shares one row."""
    told = [record for record in records if not isinstance(record.event, _TOLD_ELSEWHERE)]
    told = [record for index, record in enumerate(told) if not _is_folded(record.event, told[index + 1 : index + 2])]
    rows = []
    for _, group in groupby(told, key=_group_key):
        rows.append(_row(list(group), records[0].time))
    return rows


def summary_text(summary: Mapping[str, Any]) -> str:
    """A stage's own figures as one line."""
    parts = []
    for key, value in summary.items():
        word = key.replace("_", " ")
        if isinstance(value, Mapping):
            parts.append(f"{word} ({summary_text(value)})")
        else:
            parts.append(f"{word} {_plain(value)}")
    return ", ".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return units.exact(value)
    if isinstance(value, float):
        return units.number(value)
    if isinstance(value, list | tuple):
        return " ".join(_plain(item) for item in value)
    return str(value)


def _is_folded(event: Event, following: Sequence[Record]) -> bool:
    """Has no row: the report's own stage, and a stage's start right before its end."""
    if not isinstance(event, StageStarted | StageFinished):
        return False
    if event.stage == "report":
        return True
    after = following[0].event if following else None
    return isinstance(event, StageStarted) and isinstance(after, StageFinished) and after.stage == event.stage


def _group_key(record: Record) -> object:
    event = record.event
    if isinstance(event, CheckpointSaved | StepSkipped):
        return event.name(), event.stage
    if isinstance(event, StageFinished) and event.skipped:
        return event.name()
    return id(record)


def _row(group: Sequence[Record], began: float) -> Row:
    first, last = group[0].event, group[-1].event
    steps = "" if first.step is None else f"{first.step:,}"
    if last.step is not None and last.step != first.step:
        steps += f"\u2013{last.step:,}"
    return Row(group[0].time - began, steps, *_told([record.event for record in group]))


def _told(group: Sequence[Event]) -> tuple[str, str, Tone]:
    """What happened, details, tone; of a group of equal events."""
    match group[-1]:
        case StageStarted(stage=stage):
            return f"Stage {stage} began", "", "plain"
        case StageFinished(skipped=True):
            stages = dict.fromkeys(event.stage for event in group if isinstance(event, StageFinished))
            return "Done before: " + ", ".join(stages), "", "quiet"
        case StageFinished() as event:
            return f"Stage {event.stage} took {units.duration(event.duration_s)}", summary_text(event.summary), "plain"
        case TrainingFinished() as event:
            skipped = f"{units.plural(event.skipped_steps, 'step')} skipped" if event.skipped_steps else ""
            what = "Training finished" if event.complete else "Training paused: stop_after is reached"
            return f"{what} after {units.duration(event.duration_s)}", skipped, "good" if event.complete else "plain"
        case OrderChecked() as event:
            exact = event.repeated == 0 and event.skipped == 0
            detail = f"{units.plural(event.samples, 'sample')}, {event.repeated:,} repeated, {event.skipped:,} skipped"
            return "Order of samples checked", detail, "good" if exact else "bad"
        case Failed() as event:
            return f"Failed with exit code {event.exit_code}", f"{event.kind}: {event.reason}", "bad"
        case SinkFailed() as event:
            return f"Sink {event.sink} failed and is tried again", event.reason, "bad"
        case SinkRecovered() as event:
            lost = f"{units.plural(event.lost_events, 'event')} lost" if event.lost_events else "nothing lost"
            return f"Sink {event.sink} works again after {units.duration(event.duration_s)}", lost, "good"
        case event:
            return _told_of_training(event, len(group))


def _told_of_training(event: Event, times: int) -> tuple[str, str, Tone]:
    match event:
        case TrainingStarted():
            processes = "1 process" if event.world_size == 1 else f"{event.world_size} processes"
            device = f"{event.device}, {event.precision}, {units.plural(event.threads, 'thread')} each"
            if event.resumed_from is not None:
                return f"Resumed with {processes}", f"from {event.resumed_from}; {device}", "good"
            again = event.restart > 0
            return f"{'Began again' if again else 'Training began'} with {processes}", device, "plain"
        case CheckpointSaved():
            what = "Checkpoint saved" if times == 1 else f"{times:,} checkpoints saved"
            return what, f"{units.size(event.size_bytes)}{'' if times == 1 else ' each'}", "quiet"
        case CheckpointFailed(reason=reason):
            return "A checkpoint could not be written", reason, "bad"
        case CheckpointDamaged(path=path, reason=reason):
            return "A damaged checkpoint was passed over", f"{path}: {reason}", "bad"
        case StepSkipped(reason=reason):
            return ("A step was skipped" if times == 1 else f"{times:,} steps were skipped"), reason, "bad"
        case Preempting(signal=signal):
            return f"{signal} asked the run to stop", "the state is saved at this step", "bad"
        case RankKilled(rank=rank, pid=pid):
            return f"Rank {rank} was killed", f"planned fault, SIGKILL to process {pid}", "bad"
        case _:
            return event.name().replace("_", " "), "", "plain"
