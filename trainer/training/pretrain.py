"""The stage `pretrain`: next-token prediction over packed rows."""

from torch import Tensor

from trainer.config import Config
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT
from trainer.model.loss import next_token_loss
from trainer.training.batches import Batch, read_batch
from trainer.training.objective import Objective
from trainer.training.precision import Numerics
from trainer.training.stage import Feed, Setting, Stage


class NextTokenLoss(Objective):
    """A model with the loss of pretraining: each token given those before it in its document."""

    def __init__(self, model: GPT, numerics: Numerics, _config: Config | None = None) -> None:
        super().__init__()
        self.model = model
        self.numerics = numerics

    def forward(self, batch: Batch) -> Tensor:
        """Sum of nats over the batch's targets, a float32 scalar."""
        # autocast stands in here and not around the call, where DeepSpeed would switch it off
        with self.numerics.autocast():
            mask = DocumentMask.of(batch.documents_BT, self.numerics.dtype, self.numerics.attention)
            hidden_BTC = self.model(batch.inputs_BT, mask)
            return next_token_loss(hidden_BTC, self.model.embed_tokens.weight, batch.targets_BT, batch.used_N)


def _feed(setting: Setting, _module: NextTokenLoss) -> Feed:
    return Feed(read_batch, setting.text_measures())


PRETRAIN: Stage[NextTokenLoss] = Stage("pretrain", "text", NextTokenLoss, _feed)
