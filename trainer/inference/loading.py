"""A model from a checkpoint: the newest of a run, or one that is named."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpoint.format import MANIFEST
from trainer.checkpoint.named import newest_stage
from trainer.checkpoint.reading import Checkpoint, newest_checkpoint, open_checkpoint
from trainer.config import TRAINING_STAGES, Config, TrainingStage
from trainer.errors import CheckpointError
from trainer.inference.best_stage import best_checkpoints
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TextEncoder
from trainer.training import starting


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, and where it stands in its training."""

    model: GPT
    stage: str
    step: int
    precision: str


def load_model(
    config: Config, folder: RunFolder, device: torch.device, num_positions: int, stage: TrainingStage | None = None
) -> LoadedModel:
    """The model of a stage's newest whole checkpoint, in evaluation mode, its adapters merged. Raises CheckpointError.

    Without a stage it is the last one of the run that has weights.
    """
    return load_weights(config, find_checkpoint(newest_checkpoints(folder, stage)), device, num_positions)


def newest_checkpoints(folder: RunFolder, stage: TrainingStage | None = None) -> Path:
    """The folder of a stage's checkpoints; without a stage, of the last one of the run that has weights."""
    return folder.checkpoints_of(stage or newest_stage(folder) or "pretrain")


def chosen_checkpoint(config: Config, folder: RunFolder, named: Path | None) -> Checkpoint:
    """The checkpoint that is named, or the run's best one; stderr says why where there was a choice. Raises CheckpointError."""
    if named is not None:
        return find_checkpoint(named)
    choice = best_checkpoints(config, folder)
    if choice.reason:
        print(f"trainer: using {choice.reason}; --checkpoint takes another", file=sys.stderr, flush=True)
    return find_checkpoint(choice.checkpoints)


def find_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint by its folder, or the newest whole one of a folder that holds several. Raises CheckpointError."""
    if (path / MANIFEST).exists():
        return open_checkpoint(path)
    checkpoint = newest_checkpoint(path, lambda damaged: print(f"passed over: {damaged.reason}", file=sys.stderr))
    if checkpoint is None:
        stage = path.parent.name if path.parent.name in TRAINING_STAGES else "pretrain"
        done = path.parent / "DONE"
        if done.exists():
            raise CheckpointError(f"{done} says trained, but {path} holds no checkpoint; remove {done} to train again")
        raise CheckpointError(f"{path}: no checkpoint here; run `trainer {stage}` first")
    return checkpoint


def load_weights(config: Config, checkpoint: Checkpoint, device: torch.device, num_positions: int) -> LoadedModel:
    """The model of a checkpoint, in evaluation mode, its adapters merged. Raises CheckpointError if it has another shape."""
    model = GPT(config.model, num_positions).to(device)
    starting.load_weights(model, checkpoint)
    manifest = checkpoint.manifest
    return LoadedModel(model.eval(), manifest.stage, manifest.state.step, manifest.precision)


def check_tokenizer(checkpoint: Checkpoint, encoder: TextEncoder) -> None:
    """Raises CheckpointError if the checkpoint was trained on another tokenizer's ids."""
    wanted = checkpoint.manifest.tokenizer_sha256
    if wanted != encoder.sha256:
        raise CheckpointError(
            f"{checkpoint.path}: was trained with tokenizer {wanted[:12]}, but {encoder.file} is {encoder.sha256[:12]}; "
            "give the config of the run that it belongs to"
        )


def checkpoint_name(folder: RunFolder, checkpoint: Checkpoint) -> str:
    """How results call a checkpoint: its path within the run folder, else the path as it is."""
    path, run = checkpoint.path.resolve(), folder.path.resolve()
    return str(path.relative_to(run) if path.is_relative_to(run) else checkpoint.path)
