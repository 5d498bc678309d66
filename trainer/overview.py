"""What `trainer status` and `trainer validate` show of a run, from its folder alone. No torch."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.format import steps_in
from trainer.config import TRAINING_STAGES, Config, StageName, TrainingStage
from trainer.evaluation.choosing import settings_hash
from trainer.events import Failed, StepsDone, TrainingStarted, read_events
from trainer.run_folder import RunFolder
from trainer.tracking import units


@dataclass(frozen=True, slots=True)
class StageState:
    """How far a stage is."""

    stage: str
    state: str
    """done, begun or ahead."""
    detail: str


@dataclass(frozen=True, slots=True)
class Overview:
    """A run as its folder tells it."""

    name: str
    folder: str
    holder: str | None
    """Who trains in it now."""
    last_event_age_s: float | None
    failure: str | None
    stages: tuple[StageState, ...]

    @staticmethod
    def of(config: Config) -> "Overview":
        """Reads the run folder. Raises RunFolderError if another run lives there."""
        folder = RunFolder.of(config)
        folder.check(config)
        told: dict[str, dict[str, Any]] = {}
        last: dict[str, Any] = {}
        for _, last in read_events(folder.events):
            if last.get("event") in (StepsDone.name(), TrainingStarted.name()):
                told[str(last.get("stage"))] = told.get(str(last.get("stage")), {}) | last
        failure = str(last.get("reason")) if last.get("event") == Failed.name() else None
        age_s = max(0.0, time.time() - float(last["time"])) if last else None
        states = tuple(_state(config, folder, stage, told) for stage in config.stages)
        return Overview(config.name, str(folder.path), _holder(folder.path / "lock"), age_s, failure, states)

    def lines(self) -> Iterator[str]:
        """For a person."""
        now = f"{self.holder} works in it" if self.holder else "nobody works in it"
        told = f", its last word is {units.duration(self.last_event_age_s)} old" if self.last_event_age_s is not None else ""
        yield f"{self.name}: {self.folder}: {now}{told}"
        width = max(len(each.stage) for each in self.stages)
        for each in self.stages:
            yield f"  {each.stage:{width}}  {each.state}" + (f": {each.detail}" if each.detail else "")
        if self.failure:
            yield f"  it failed: {self.failure}"

    def to_json(self) -> str:
        """For a program."""
        return json.dumps(asdict(self), ensure_ascii=False)


def _state(config: Config, folder: RunFolder, stage: StageName, told: dict[str, dict[str, Any]]) -> StageState:
    training = next((each for each in TRAINING_STAGES if each == stage), None)
    if training is not None:
        return _training_state(folder, training, told.get(stage, {}))
    chat = config.chat
    rows = [(folder.chat, chat.conversations), (folder.pairs, chat.pairs), (folder.prompts, chat.prompts)]
    asked = [path for path, sources in rows if sources]
    made = {
        "prepare": folder.corpus.exists(),
        "tokenizer": folder.tokenizer.exists(),
        "encode": all(path.exists() for path in [*asked, *([folder.tokens] if config.corpus.sources or not asked else [])]),
        "evaluate": _is_evaluated(config, folder),
        "generate": folder.generated.exists(),
        "report": (folder.path / "report.html").exists(),
    }
    begun = stage == "prepare" and folder.corpus.with_name("corpus.work").exists()
    return StageState(stage, "done" if made[stage] else "begun" if begun else "ahead", "")


def _training_state(folder: RunFolder, stage: TrainingStage, told: dict[str, Any]) -> StageState:
    saved = steps_in(folder.checkpoints_of(stage))
    if folder.done_of(stage).exists():
        return StageState(stage, "done", f"step {saved[-1]}" if saved else "its checkpoints are gone")
    if not told and not saved:
        return StageState(stage, "ahead", "")
    parts = [f"step {told['step']}" + (f" of {told['num_steps']}" if "num_steps" in told else "")] if told.get("step") else []
    parts += [f"loss {told['loss']:.4f}"] if isinstance(told.get("loss"), float) else []
    parts += [f"{saved[-1]} steps saved"] if saved else ["nothing saved yet"]
    return StageState(stage, "begun", ", ".join(parts))


def _is_evaluated(config: Config, folder: RunFolder) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return bool(json.loads(folder.evaluation.read_bytes())["settings"] == settings_hash(config, folder))
    return False


def _holder(lock: Path) -> str | None:
    """Who holds a lock; nobody who has died does."""
    with suppress(OSError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(200).decode(errors="replace").strip(" \n,") or "another process"
    return None
