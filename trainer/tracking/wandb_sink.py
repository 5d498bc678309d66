"""Events to Weights & Biases, in a thread of its own: a slow or absent server never holds up a step.

Charts are named as MiniMind's users know them: loss, lr, epoch_time.
"""

import os
import queue
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.config import TRAINING_STAGES, WandbSection
from trainer.errors import MissingDependencyError
from trainer.events import (
    AnswersJudged,
    AnswersValidated,
    EpochDone,
    Evaluated,
    PreferencesValidated,
    Record,
    StepsDone,
    TaskScored,
    TrainingEvent,
    Validated,
)

_QUEUE_EVENTS = 10_000
_STEP_METRICS = ("loss", "lr", "grad_norm", "epoch", "tokens_seen", "tokens_per_s", "data_wait_share", "mfu")


def import_wandb() -> ModuleType:
    """The wandb package. Raises MissingDependencyError."""
    try:
        import wandb
    except ImportError:
        raise MissingDependencyError(
            "wandb is not installed: pip install 'pretrain-run[wandb]', or leave --use_wandb"
        ) from None
    return wandb


class Wandb:
    """One wandb run for one run folder, the same one after a resume."""

    name = "wandb"

    def __init__(self, config: WandbSection, run_name: str, run_id: str, folder: Path, values: dict[str, Any]) -> None:
        self._wandb = import_wandb()
        self._arguments: dict[str, Any] = {
            "project": config.project,
            "name": config.run_name or run_name,
            "id": run_id,
            "resume": "allow",
            "dir": str(folder),
            "config": values,
            "mode": self._mode(config.mode),
        }
        self._deadline_s = config.deadline_s
        self._queue: queue.Queue[Record | None] = queue.Queue(_QUEUE_EVENTS)
        self._error: Exception | None = None
        self._reconnecting = False
        self._thread = self._started()

    def write(self, record: Record) -> None:
        """Queue an event. Raises what wandb raised, if it did, and queue.Full when it lags far behind.

        After an error a new thread connects anew; until it has, each call raises ConnectionError.
        """
        self._raise_error()
        if self._reconnecting:
            raise ConnectionError("wandb is not reached yet")
        self._queue.put_nowait(record)

    def close(self) -> None:
        """Finish within a deadline; at once where wandb is not reached."""
        self._raise_error()
        if self._reconnecting:
            return
        self._queue.put(None, timeout=self._deadline_s)
        self._thread.join(self._deadline_s)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"wandb did not finish within {self._deadline_s:.0f} s")

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        thread.start()
        return thread

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error, self._reconnecting = self._error, None, True
            self._thread = self._started()
            raise error

    def _mode(self, wanted: str) -> str:
        if wanted != "auto":
            return wanted
        known = os.environ.get("WANDB_API_KEY") or self._wandb.api.api_key
        return os.environ.get("WANDB_MODE") or ("online" if known else "offline")

    def _work(self) -> None:
        try:
            settings = self._wandb.Settings(init_timeout=self._deadline_s, console="off", silent=True)
            run = self._wandb.init(settings=settings, **self._arguments)
            self._reconnecting = False
            run.define_metric("*", step_metric="step")
            for stage in TRAINING_STAGES[1:]:
                run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            while (record := self._queue.get()) is not None:
                values = metrics(record)
                if values:
                    run.log(values)
            run.finish()
        except Exception as error:  # noqa: BLE001 - kept and raised in the caller's thread at the next event
            self._error = error


def metrics(record: Record) -> dict[str, Any]:
    """What an event adds to the charts; the step is a metric of its own, so a resumed run may tell a step again.

    What follows pretraining has charts and steps of its own, such as `sft/loss` over `sft/step`.
    """
    event = record.event
    match event:
        case StepsDone():
            chosen = {name: getattr(event, name) for name in _STEP_METRICS} | event.figures
        case EpochDone():
            chosen = {"epoch_time": event.epoch_time_s}
        case Validated():
            chosen = {"bits_per_byte": event.bits_per_byte}
            chosen |= {f"bits_per_byte/{name}": value for name, value in event.by_source.items()}
        case AnswersValidated():
            chosen = {"answers_bits_per_byte": event.bits_per_byte}
        case PreferencesValidated():
            chosen = {f"held_out_{name}": getattr(event, name) for name in ("accuracy", "margin", "kl")}
        case AnswersJudged():
            chosen = {"held_out_reward": event.reward, "held_out_answer_tokens": event.answer_tokens}
        case Evaluated():
            chosen = {f"evaluation/{name}": values.get("all") for name, values in event.bits_per_byte.items()}
        case TaskScored():
            chosen = {f"evaluation/{event.task}/{name}": score["accuracy"] for name, score in event.scores.items()}
        case _:
            return {}
    values = {"step": event.step} | {name: value for name, value in chosen.items() if value is not None}
    if isinstance(event, TrainingEvent) and event.stage != "pretrain":
        return {f"{event.stage}/{name}": value for name, value in values.items()}
    return values
