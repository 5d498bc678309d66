"""A model from a run's newest checkpoint."""

import sys
from dataclasses import dataclass

import torch

from trainer.checkpoint.reading import newest_checkpoint
from trainer.config import Config, TrainingStage
from trainer.errors import CheckpointError
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.training.starting import load_weights, newest_stage


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, and where it stands in its training."""

    model: GPT
    stage: TrainingStage
    step: int
    precision: str


def load_model(
    config: Config, folder: RunFolder, device: torch.device, num_positions: int, stage: TrainingStage | None = None
) -> LoadedModel:
    """The model of a stage's newest whole checkpoint, in evaluation mode, its adapters merged. Raises CheckpointError.

    Without a stage it is the last one of the run that has weights.
    """
    stage = stage or newest_stage(folder) or "pretrain"
    checkpoints = folder.checkpoints_of(stage)
    checkpoint = newest_checkpoint(checkpoints, lambda damaged: print(f"passed over: {damaged.reason}", file=sys.stderr))
    if checkpoint is None:
        raise CheckpointError(f"{checkpoints}: no checkpoint here; run `trainer {stage}` first")
    model = GPT(config.model, num_positions).to(device)
    load_weights(model, checkpoint)
    return LoadedModel(model.eval(), stage, checkpoint.manifest.state.step, checkpoint.manifest.precision)
