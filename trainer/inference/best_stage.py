"""Which of a run's checkpoints is served, chatted with and exported where none is named: the one that measured best.

A later stage is not always a better one: a model tuned for one thing may lose another. `trainer evaluate` asks every stage the
same tasks on held-out items; of the stages that were tuned to answer, the one with the highest mean over tasks of

    (accuracy - chance) / (1 - chance)        by summed log-probability, 0 for guessing and 1 for all right

is taken, and of equal ones the later. Without such figures for all of them it is the last stage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.format import folder_name, steps_in
from trainer.config import WRITING_STAGES, Config, TrainingStage
from trainer.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Choice:
    """A folder of checkpoints, and in words why it was chosen; empty where there was nothing to choose from."""

    checkpoints: Path
    reason: str


def best_checkpoints(config: Config, folder: RunFolder) -> Choice:
    """The checkpoints of the stage to use; those of pretraining, which may not be there, for a run that has none."""
    trained = [stage for stage in WRITING_STAGES if steps_in(folder.checkpoints_of(stage))]
    tuned = [stage for stage in trained if stage != "pretrain"]
    if len(tuned) < 2:
        return Choice(folder.checkpoints_of(trained[-1] if trained else "pretrain"), "")
    scores = {stage: _score(_entry(config, folder, stage)) for stage in tuned}
    known = {stage: score for stage, score in scores.items() if score is not None}
    if len(known) < len(tuned):
        missing = ", ".join(stage for stage in tuned if stage not in known)
        return Choice(
            folder.checkpoints_of(tuned[-1]),
            f"{tuned[-1]}, the last stage; `trainer evaluate` with evaluate.tasks has no figures for {missing} yet, by which "
            "the best one would be chosen",
        )
    best = max(tuned, key=lambda stage: (known[stage], tuned.index(stage)))
    others = ", ".join(f"{stage} {known[stage]:.2f}" for stage in tuned if stage != best)
    return Choice(
        folder.checkpoints_of(best),
        f"{best}, the best of {len(tuned)} tuned stages on held-out tasks: {known[best]:.2f}, where 0 is guessing ({others})",
    )


def _entry(config: Config, folder: RunFolder, stage: TrainingStage) -> Mapping[str, Any]:
    """What the evaluation says of a stage's newest checkpoint; nothing if it was not evaluated since."""
    try:
        evaluation = json.loads(folder.evaluation.read_bytes())
        step = steps_in(folder.checkpoints_of(stage))[-1]
        name = (folder.checkpoints_of(stage) / folder_name(step)).relative_to(folder.path)
        entries = {entry["checkpoint"]: entry for entry in evaluation["checkpoints"] if evaluation["run"] == config.hash()}
        entry: Mapping[str, Any] = entries[str(name)]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
    return entry


def _score(entry: Mapping[str, Any]) -> float | None:
    tasks = entry.get("tasks")
    if not tasks:
        return None
    gains = [(task["scores"]["plain"]["accuracy"] - task["chance"]) / (1 - task["chance"]) for task in tasks]
    return float(sum(gains) / len(gains))
