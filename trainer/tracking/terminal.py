"""Events for a person: a progress bar where one looks, plain lines in a log. Everything goes to stderr."""

import math
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from trainer.events import (
    AnswersJudged,
    AnswersValidated,
    CheckpointDamaged,
    CheckpointFailed,
    CheckpointMeasured,
    CheckpointSaved,
    CheckpointsCompared,
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


class _Console(Console):
    """Says that its reader is gone (`2>&1 | head`): rich's own would end the process, training and all."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("nobody reads it any more")


class Terminal:
    """Writes events as lines; where the stream is a terminal, steps move a bar instead."""

    name = "terminal"

    def __init__(self, stream: TextIO) -> None:
        self._console = _Console(file=stream, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def write(self, record: Record) -> None:
        event = record.event
        if isinstance(event, TrainingStarted) and self._console.is_terminal:
            self._start_bar(event)
        if isinstance(event, StepsDone) and self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=event.step, figures=step_figures(event))
            return
        line = describe(event)
        if line is not None:
            self._console.print(line.replace(units.GAP, " "), markup=False)
        if isinstance(event, TrainingFinished | Preempting):
            self._stop_bar()

    def close(self) -> None:
        self._stop_bar()

    def _start_bar(self, event: TrainingStarted) -> None:
        figures = TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        bar = BarColumn(bar_width=10)
        self._progress = Progress(bar, MofNCompleteColumn(), figures, console=self._console, expand=True)
        self._progress.start()
        self._task = self._progress.add_task(event.stage, total=event.num_steps, completed=event.step or 0, figures="")

    def _stop_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def step_figures(event: StepsDone) -> str:
    """Loss, rate, speed, waiting, utilisation and time left of a step."""
    mfu = "" if event.mfu is None else f"  mfu {event.mfu:.0%}"
    figures = "".join(f"{name} {value:.3f}  " for name, value in event.figures.items())
    return (
        f"loss {event.loss:.4f}  {figures}{units.count(event.tokens_per_s)} tok/s  left {units.duration(event.eta_s)}{mfu}"
        f"  data {event.data_wait_share:.1%}  lr {event.lr:.2e}  norm {event.grad_norm:.2f}"
    )


def describe(event: Event) -> str | None:
    """An event in one line, or None where it is not for this reader."""
    match event:
        case StageStarted():
            return f"== {event.stage}"
        case StageFinished():
            facts = "  ".join(f"{key} {value}" for key, value in event.summary.items())
            return (
                f"== {event.stage}: "
                + ("done before" if event.skipped else f"done in {units.duration(event.duration_s)}")
                + f"  {facts}"
            )
        case TrainingStarted():
            start = f"from the weights of {event.started_from}" if event.started_from else "from the start"
            origin = f"from {event.resumed_from}" if event.resumed_from else start
            peak = "" if event.peak_tflops is None else f", peak {event.peak_tflops:.2f} TFLOPS"
            parameters = units.count(event.num_parameters)
            return (
                f"{event.stage}: step {event.step} of {event.num_steps}, {origin}; {parameters} parameters, "
                f"{event.world_size} x {event.device} {event.precision}, {event.threads} threads each{peak}; "
                f"{event.rows} rows of {event.row_tokens} tokens, {event.utilisation:.1%} used"
            )
        case StepsDone():
            return f"step {event.step}  {step_figures(event)}"
        case StepSkipped():
            return f"step {event.step} skipped on all processes: {event.reason} ({event.skipped_in_a_row} in a row)"
        case EpochDone():
            return f"epoch {event.epoch} done in {units.duration(event.epoch_time_s)}"
        case Validated():
            sources = "  ".join(f"{name} {value:.4f}" for name, value in event.by_source.items())
            return f"step {event.step}  held-out bits per byte {event.bits_per_byte:.4f}  ({sources})"
        case AnswersValidated():
            sources = "  ".join(f"{name} {value:.4f}" for name, value in event.by_source.items())
            return f"step {event.step}  held-out answers, bits per byte {event.bits_per_byte:.4f}  ({sources})"
        case PreferencesValidated():
            sources = "  ".join(f"{name} {value:.3f}" for name, value in event.by_source.items())
            figures = f"margin {event.margin:.3f}" + ("" if event.kl is None else f"  kl {event.kl:.4f}")
            if event.p_value is not None:
                figures += f"  p {event.p_value:.2g}"
            return f"step {event.step}  {event.pairs} held-out pairs, accuracy {event.accuracy:.3f}  ({sources})  {figures}"
        case AnswersJudged():
            told = "".join(f"\n  {each['reward']:.3f}  {each['answer']!r}" for each in event.samples)
            figures = f"mean reward {event.reward:.4f}, {event.answer_tokens:.1f} tokens"
            return f"step {event.step}  answers to {event.prompts} held-out prompts: {figures}{told}"
        case CheckpointSaved():
            size = event.size_bytes / 1e6
            waited_ms = 1000 * event.stall_s
            return f"step {event.step} saved: {size:.1f} MB, loop waited {waited_ms:.0f} ms, written in {event.write_s:.2f} s"
        case CheckpointFailed():
            return f"step {event.step}: checkpoint trouble: {event.reason}"
        case CheckpointDamaged():
            return f"checkpoint passed over: {event.reason}"
        case Preempting():
            return f"{event.signal}: saving after step {event.step}"
        case RankKilled():
            return f"killed rank {event.rank} (process {event.pid}) at step {event.step}, as planned"
        case TrainingFinished():
            how = "finished" if event.complete else "stopped as configured"
            took = units.duration(event.duration_s)
            return f"{event.stage} {how} after step {event.step} in {took}, {event.skipped_steps} steps skipped"
        case Failed():
            return f"{event.kind}: {event.reason}"
        case OrderChecked():
            return (
                f"order of {event.steps} steps checked: {event.samples} rows taken, {event.repeated} repeated, "
                f"{event.skipped} skipped"
            )
        case Evaluated():
            return "\n".join(_table(event.bits_per_byte))
        case TaskScored():
            return "\n".join(_scores(event))
        case CheckpointsCompared():
            return "\n".join(_differences(event))
        case CheckpointMeasured():
            bits = event.bits_per_byte.get("all", math.nan)
            return f"{event.checkpoint}: {bits:.4f} bits per byte, {len(event.samples)} texts beside those of the others"
        case Generated():
            return f"> {event.prompt}\n{event.text}\n"
        case SinkFailed():
            return f"{event.sink} takes no events: {event.reason}; it is tried again, and training goes on"
        case SinkRecovered():
            lost = f"; {event.lost_events} events are lost" if event.lost_events else " and has what it missed"
            return f"{event.sink} takes events again after {units.duration(event.duration_s)}{lost}"
    return None


def _scores(event: TaskScored) -> list[str]:
    """A line for each score of a task."""
    head = f"{event.task} of {event.checkpoint}, {event.n} items"
    return [
        f"{head}: {name} {score['accuracy']:.3f} ({score['low']:.3f} to {score['high']:.3f}), chance {event.chance:.3f}, "
        f"p {score['p_value']:.2g}"
        for name, score in event.scores.items()
    ]


_SHOWN_P = 0.05


def _differences(event: CheckpointsCompared) -> list[str]:
    """A line for each difference that chance explains badly."""
    shown = [each for each in event.differences if each["p_value"] < _SHOWN_P]
    lines = []
    for each in sorted(shown, key=lambda each: float(each["p_value"])):
        better, worse = ("first", "second") if each["only_first"] > each["only_second"] else ("second", "first")
        lines.append(
            f"{each['task']}, {each['score']}: {each[better]} is better than {each[worse]}: "
            f"{each[f'only_{better}']} items right that the other has wrong, {each[f'only_{worse}']} the other way, "
            f"p {each['p_value']:.2g}"
        )
    rest = len(event.differences) - len(shown)
    return [*lines, f"{rest} of {len(event.differences)} comparisons show no difference (McNemar's test, p >= {_SHOWN_P})"]


def _table(bits_per_byte: dict[str, dict[str, float]]) -> list[str]:
    """Held-out bits per byte: a line for each model, a column for each source."""
    sources = list(next(iter(bits_per_byte.values())))
    width = max(len(name) for name in [*bits_per_byte, "bits per byte"])
    lines = [f"{'bits per byte':{width}}  " + "  ".join(f"{name:>15}" for name in sources)]
    for name, values in bits_per_byte.items():
        lines.append(f"{name:{width}}  " + "  ".join(f"{values[source]:15.4f}" for source in sources))
    return lines
