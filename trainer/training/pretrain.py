"""The stage `pretrain`: next-token prediction over packed rows."""

from torch import Tensor, nn

from trainer.checkpoint.format import TrainingState
from trainer.config import Config
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT
from trainer.model.loss import next_token_loss
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tokens.order import Order
from trainer.tracking.hub import Tracker
from trainer.training.assembly import train
from trainer.training.batches import Batch
from trainer.training.precision import Numerics
from trainer.world import World


class NextTokenLoss(nn.Module):
    """A model with the loss of pretraining: each token given those before it in its document."""

    def __init__(self, model: GPT, numerics: Numerics) -> None:
        super().__init__()
        self.model = model
        self._numerics = numerics

    def forward(self, batch: Batch) -> Tensor:
        """Sum of nats over the batch's targets, a float32 scalar."""
        # autocast stands in here and not around the call, where DeepSpeed would switch it off
        with self._numerics.autocast():
            mask = DocumentMask.of(batch.documents_BT, self._numerics.dtype, self._numerics.attention)
            hidden_BTC = self.model(batch.inputs_BT, mask)
            return next_token_loss(hidden_BTC, self.model.embed_tokens.weight, batch.targets_BT, batch.used_N)


def pretrain(
    config: Config, folder: RunFolder, world: World, tracker: Tracker, stop: StopRequest
) -> tuple[TrainingState, Order]:
    """Collective: `assembly.train` with the loss of pretraining. Raises TrainerError."""
    return train(config, "pretrain", config.pretrain, NextTokenLoss, folder, world, tracker, stop)
