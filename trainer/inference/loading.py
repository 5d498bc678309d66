"""A model from a run's newest checkpoint."""

import sys
from dataclasses import dataclass

import torch

from trainer.checkpoint.format import MODEL_FILE
from trainer.checkpoint.reading import load_tensors, newest_checkpoint
from trainer.config import Config
from trainer.errors import CheckpointError
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, and where it stands in its training."""

    model: GPT
    step: int
    precision: str


def load_model(config: Config, folder: RunFolder, device: torch.device, num_positions: int) -> LoadedModel:
    """The model of the newest whole checkpoint, in evaluation mode. Raises CheckpointError."""
    checkpoint = newest_checkpoint(folder.checkpoints, lambda damaged: print(f"passed over: {damaged.reason}", file=sys.stderr))
    if checkpoint is None:
        raise CheckpointError(f"{folder.checkpoints}: no checkpoint here; run `trainer pretrain` first")
    model = GPT(config.model, num_positions).to(device)
    load_tensors(checkpoint.path / MODEL_FILE, dict(model.named_parameters()))
    return LoadedModel(model.eval(), checkpoint.manifest.state.step, checkpoint.manifest.precision)
