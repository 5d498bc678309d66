"""The stage `pretrain`: next-token prediction over packed rows."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.checkpoint.format import TrainingState
from trainer.config import Config
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT
from trainer.model.loss import next_token_loss
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tokens.order import Order
from trainer.tracking.hub import Tracker
from trainer.training.assembly import autocast_dtype, train
from trainer.training.batches import Batch
from trainer.world import World


class Pretraining:
    """What pretraining adds to the loop: the loss of each token given those before it in its document."""

    name = "pretrain"

    def __init__(self, model: GPT, mask_dtype: torch.dtype, *, compiled: bool) -> None:
        self.model = model
        self._forward: Callable[..., Tensor] = torch.compile(model, dynamic=False) if compiled else model
        self._mask_dtype = mask_dtype

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over the batch's targets."""
        mask = DocumentMask.of(batch.documents_BT, self._mask_dtype)
        return next_token_loss(self._forward(batch.inputs_BT, mask), self.model.embed_tokens.weight, batch.targets_BT)


def pretrain(
    config: Config, folder: RunFolder, world: World, tracker: Tracker, stop: StopRequest
) -> tuple[TrainingState, Order]:
    """Collective: `assembly.train` with the loss of pretraining. Raises TrainerError."""

    def make_stage(model: GPT, precision: str) -> Pretraining:
        return Pretraining(model, autocast_dtype(precision), compiled=config.compile)

    return train(config, config.pretrain, make_stage, folder, world, tracker, stop)
