"""The one list of events that a run tells, with their fields and units.

Every event becomes one line of RUN/events.jsonl: `time` (seconds since 1970), `event`, `run` (the config's hash), `step`
and the event's own fields. Terminal, wandb and report read the same stream. After a kill, steps since the last checkpoint are
told again; of two events with the same name and step, the later one holds.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Base: the optimizer step at which it happened, counted in finished steps."""

    step: int | None = None

    @classmethod
    def name(cls) -> str:
        """The class's name in snake case, as it stands in `event`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingEvent(Event):
    """Base of what a training stage tells: steps are counted in each stage from 0, so whose they are belongs to them."""

    stage: str = "pretrain"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStarted(Event):
    """A stage begins."""

    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFinished(Event):
    """A stage is done, now or before."""

    stage: str
    skipped: bool
    duration_s: float
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStarted(Event):
    """All processes are ready for the first step. `restart` counts torchrun's restarts of this agent."""

    stage: str
    num_steps: int
    world_size: int
    restart: int
    pids: list[int]
    device: str
    engine: str
    precision: str
    threads: int
    num_parameters: int
    rows: int
    row_tokens: int
    utilisation: float
    peak_tflops: float | None
    torch_version: str
    resumed_from: str | None
    started_from: str | None = None
    """The checkpoint whose weights the stage began with, relative to its own; None: drawn weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepsDone(TrainingEvent):
    """Steps since the last such event. `loss` is nats per target token, or per pair; speeds are of all processes together.

    `figures` are means that the stage adds: accuracy, margin and rewards of pairs, dpo's KL; grpo's reward, KL, clipped share,
    answer length, and shares of answers that were cut off and of groups whose rewards are all equal.
    """

    loss: float
    lr: float
    grad_norm: float
    epoch: float
    tokens_seen: int
    tokens_per_s: float
    step_time_s: float
    data_wait_share: float
    mfu: float | None
    eta_s: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSkipped(TrainingEvent):
    """A step whose loss or gradient was not finite: no process applied it."""

    reason: str
    skipped_in_a_row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochDone(TrainingEvent):
    """A pass over all rows."""

    epoch: int
    epoch_time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Validated(TrainingEvent):
    """Held-out bits per byte: by source, and over all bytes. Of the pretraining's text, in every stage."""

    bits_per_byte: float
    by_source: dict[str, float]
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersValidated(TrainingEvent):
    """sft: bits per byte of the answers in held-out conversations."""

    bits_per_byte: float
    by_source: dict[str, float]
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencesValidated(TrainingEvent):
    """Held-out pairs: the share that the model puts in the right order, and by how much.

    `p_value` is the probability that guessing gets as many right, or more; `kl` how far dpo went from its reference.
    """

    pairs: int
    accuracy: float
    by_source: dict[str, float]
    margin: float
    duration_s: float
    kl: float | None = None
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersJudged(TrainingEvent):
    """grpo: the mean reward of answers to held-out prompts, one to each, and the first few of them.

    Each of `samples` has prompt, answer and reward.
    """

    prompts: int
    reward: float
    by_source: dict[str, float]
    answer_tokens: float
    samples: list[dict[str, Any]]
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved(TrainingEvent):
    """A checkpoint is on the disk. `stall_s` is what the step loop waited, `write_s` what the writing thread took."""

    path: str
    size_bytes: int
    stall_s: float
    write_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFailed(TrainingEvent):
    """A checkpoint could not be written; the one before it stays, training goes on."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointDamaged(TrainingEvent):
    """A checkpoint did not match its manifest and was passed over."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Preempting(TrainingEvent):
    """A signal asked the run to stop; the state is saved at this step."""

    signal: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RankKilled(Event):
    """A planned fault: a process was ended with SIGKILL."""

    rank: int
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFinished(Event):
    """The last step is done and saved, or `stop_after` is reached (`complete` is false then)."""

    stage: str
    complete: bool
    duration_s: float
    skipped_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed(Event):
    """A process ended for a reason that a restart does not mend. `kind` is the class in trainer.errors."""

    kind: str
    exit_code: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated(Event):
    """The evaluate stage's figures, all in bits per byte on the same held-out rows; `model` is the last checkpoint's."""

    bits_per_byte: dict[str, dict[str, float]]
    stage: str | None = None
    """Of the last checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScored(Event):
    """A checkpoint's answers to one task. `scores` are by name of the score: accuracy, low, high, p_value."""

    checkpoint: str
    task: str
    kind: str
    n: int
    chance: float
    left_out: int
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointsCompared(Event):
    """Every two checkpoints that were evaluated together, on each task by each score.

    Each of `differences` has task, score, first and second (checkpoints), only_first and only_second (items that one alone has
    right), and p_value (McNemar's exact test).
    """

    differences: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointMeasured(Event):
    """One of several checkpoints that were evaluated together: bits per byte by source, texts by prompt, and answers.

    Each of `answers` has source, question, expected and answer: held-out conversations, the same ones for each checkpoint.
    """

    checkpoint: str
    stage: str
    bits_per_byte: dict[str, float]
    samples: dict[str, str]
    answers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated(Event):
    """One text written by the model."""

    prompt: str
    text: str
    tokens_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderChecked(TrainingEvent):
    """What the sample log says of a run's order."""

    steps: int
    samples: int
    repeated: int
    skipped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkFailed(Event):
    """A sink raised. It is tried again, and gets what it missed; training goes on."""

    sink: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkRecovered(Event):
    """A sink that failed works again. `lost_events` are those that no longer waited for it."""

    sink: str
    duration_s: float
    lost_events: int


@dataclass(frozen=True, slots=True)
class Record:
    """One line of events.jsonl: an event with when and whose it is."""

    time: float
    run: str
    event: Event

    def to_json(self) -> str:
        fields = asdict(self.event)
        step = fields.pop("step")
        head = {"time": round(self.time, 3), "event": self.event.name(), "run": self.run, "step": step}
        return json.dumps(head | _with_null_for_non_finite(fields), ensure_ascii=False)


def _with_null_for_non_finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return {name: _finite(value) for name, value in fields.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return _with_null_for_non_finite(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Events of a log from a byte offset on, each with the offset behind it.

    A torn line (a kill amid a write) is passed over; a last line that lacks its end may still get it and is left for later.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield offset, record
