"""A small run that has been pretrained, for stages that follow."""

from pathlib import Path
from typing import Any

from tests.support import ranks
from tests.support.data import write_config


def pretrained(data: Path, folder: Path) -> Path:
    """A run folder with twelve steps of pretraining, and instruction tuning on them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder / "config.yaml", data)
    for stage in ("pretrain", "sft"):
        ranks.run_trainer(stage, "--config", str(config), folder=folder)
    return folder / "run"


def tuned_from(base: Path, data: Path, folder: Path, stage: str, **changes: Any) -> Path:
    """The config of a run in `folder` whose stage starts from `base`; its run folder is FOLDER/run."""
    folder.mkdir(parents=True, exist_ok=True)
    start = base / "checkpoints" if stage == "sft" else base / "sft" / "checkpoints"
    return write_config(folder / "config.yaml", data, init_from=str(start), **changes)
