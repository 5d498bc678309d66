"""Reading what a run left behind."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, folder_name, steps_in
from trainer.checkpoint.reading import open_checkpoint
from trainer.events import read_events


def events(run: Path, name: str, stage: str | None = None) -> list[dict[str, Any]]:
    """Events of a name, in order; of one training stage, if one is given."""
    found = [record for _, record in read_events(run / "events.jsonl") if record["event"] == name]
    return [record for record in found if stage is None or record["stage"] == stage]


def losses(run: Path, stage: str = "pretrain") -> dict[int, float]:
    """Loss by step; the last word counts."""
    return {record["step"]: record["loss"] for record in events(run, "steps_done", stage)}


def last_step(run: Path, stage: str = "pretrain") -> int:
    """The last step told so far, 0 before the first."""
    return max((record["step"] for record in events(run, "steps_done", stage)), default=0)


def of_stage(run: Path, stage: str) -> Path:
    """The folder of a stage's checkpoints and sample log."""
    return run if stage == "pretrain" else run / stage


def newest_step(run: Path, stage: str = "pretrain") -> int:
    """Step of the newest checkpoint, 0 without one."""
    return (steps_in(of_stage(run, stage) / "checkpoints") or [0])[-1]


def state_of(run: Path, step: int, stage: str = "pretrain") -> tuple[str, str, dict[str, Any]]:
    """SHA-256 of weights and optimizer state, and the numbers, of a whole checkpoint."""
    manifest = open_checkpoint(of_stage(run, stage) / "checkpoints" / folder_name(step)).manifest
    return manifest.files[MODEL_FILE].sha256, manifest.files[OPTIMIZER_FILE].sha256, manifest.state.model_dump()


def rows_by_step(run: Path, stage: str = "pretrain") -> dict[int, list[int]]:
    """Rows of each step from the sample log, read as someone from outside would: the last attempt at a step counts."""
    taken: dict[int, list[int]] = {}
    for attempt in sorted((of_stage(run, stage) / "sample_log").iterdir()):
        parts: dict[int, dict[int, list[int]]] = defaultdict(dict)
        for file in attempt.glob("*.jsonl"):
            for line in file.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                parts[record["step"]][record["micro_batch"]] = record["rows"]
        taken |= {step: [row for n in sorted(by) for row in by[n]] for step, by in parts.items()}
    return taken
