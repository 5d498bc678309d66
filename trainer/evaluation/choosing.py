"""Which checkpoints are evaluated, and whether that was done before. No torch: a stage that is done is skipped at once."""

import hashlib
from pathlib import Path

from trainer.checkpoint.format import steps_in
from trainer.config import WRITING_STAGES, Config
from trainer.config_section import canonical_json
from trainer.run_folder import RunFolder


def checkpoint_paths(config: Config, folder: RunFolder) -> list[Path]:
    """What to evaluate: the config's checkpoints, else the newest one of each stage that writes text, in their order."""
    if config.evaluate.checkpoints:
        return [Path(path) for path in config.evaluate.checkpoints]
    trained = [path for stage in WRITING_STAGES if steps_in(path := folder.checkpoints_of(stage))]
    return trained or [folder.checkpoints_of("pretrain")]


def settings_hash(config: Config, folder: RunFolder) -> str:
    """SHA-256 of all that decides what `evaluate` writes, the steps that there are among it; nothing is loaded."""
    steps = [[str(path), steps_in(path)[-1:]] for path in checkpoint_paths(config, folder)]
    values = [config.hash(), config.evaluate.model_dump(mode="json"), config.generate.model_dump(mode="json"), steps]
    return hashlib.sha256(canonical_json(values)).hexdigest()
