"""A model from a checkpoint: the newest of a run, or one that is named."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpoint.format import MANIFEST, MODEL_FILE
from trainer.checkpoint.reading import Checkpoint, load_tensors, newest_checkpoint, open_checkpoint
from trainer.config import Config
from trainer.errors import CheckpointError
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TextEncoder


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, and where it stands in its training."""

    model: GPT
    step: int
    precision: str


def load_model(config: Config, folder: RunFolder, device: torch.device, num_positions: int) -> LoadedModel:
    """The model of the newest whole checkpoint, in evaluation mode. Raises CheckpointError."""
    return load_weights(config, find_checkpoint(folder.checkpoints), device, num_positions)


def find_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint by its folder, or the newest whole one of a folder that holds several. Raises CheckpointError."""
    if (path / MANIFEST).exists():
        return open_checkpoint(path)
    checkpoint = newest_checkpoint(path, lambda damaged: print(f"passed over: {damaged.reason}", file=sys.stderr))
    if checkpoint is None:
        raise CheckpointError(f"{path}: no checkpoint here; run `trainer pretrain` first")
    return checkpoint


def load_weights(config: Config, checkpoint: Checkpoint, device: torch.device, num_positions: int) -> LoadedModel:
    """The model of a checkpoint, in evaluation mode. Raises CheckpointError if it has another shape."""
    model = GPT(config.model, num_positions).to(device)
    load_tensors(checkpoint.path / MODEL_FILE, dict(model.named_parameters()))
    return LoadedModel(model.eval(), checkpoint.manifest.state.step, checkpoint.manifest.precision)


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
