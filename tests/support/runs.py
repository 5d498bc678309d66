"""Reading what a run left behind."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, folder_name, steps_in
from trainer.checkpoint.reading import open_checkpoint
from trainer.events import read_events


def events(run: Path, name: str) -> list[dict[str, Any]]:
    """Events of a name, in order."""
    return [record for _, record in read_events(run / "events.jsonl") if record["event"] == name]


def losses(run: Path) -> dict[int, float]:
    """Loss by step; the last word counts."""
    return {record["step"]: record["loss"] for record in events(run, "steps_done")}


def last_step(run: Path) -> int:
    """The last step told so far, 0 before the first."""
    return max((record["step"] for record in events(run, "steps_done")), default=0)


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    return (steps_in(run / "checkpoints") or [0])[-1]


def state_of(run: Path, step: int) -> tuple[str, str, dict[str, Any]]:
    """SHA-256 of weights and optimizer state, and the numbers, of a whole checkpoint."""
    manifest = open_checkpoint(run / "checkpoints" / folder_name(step)).manifest
    return manifest.files[MODEL_FILE].sha256, manifest.files[OPTIMIZER_FILE].sha256, manifest.state.model_dump()


def rows_by_step(run: Path) -> dict[int, list[int]]:
    """Rows of each step from the sample log, read as someone from outside would: the last attempt at a step counts."""
    taken: dict[int, list[int]] = {}
    for attempt in sorted((run / "sample_log").iterdir()):
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
