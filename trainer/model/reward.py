"""The reward model: the GPT's trunk and one more matrix, which makes a number of the hidden state at an answer's end.

Shapes: B rows, T positions, C hidden size, A answers.
"""

import torch
from torch import Tensor, nn

from trainer.config import ModelSection
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT

HEAD = "reward_head.weight"
"""The name of its head in a checkpoint, of shape (1, C), beside the weights of the trunk or its adapters."""


class RewardModel(GPT):
    """A GPT with a scalar head. The head starts at zero, so at first every answer is worth nothing, exactly."""

    def __init__(self, config: ModelSection, num_positions: int) -> None:
        super().__init__(config, num_positions)
        self.reward_head = nn.Linear(config.hidden_size, 1, bias=False)

    def init_weights(self, seed: int) -> None:
        super().init_weights(seed)
        with torch.no_grad():
            self.reward_head.weight.zero_()

    def rewards(self, ids_BT: Tensor, mask: DocumentMask, ends_A: Tensor) -> Tensor:
        """float32 of shape (A,). `ends_A` are places in the flattened (B T) of ids behind which an answer is over."""
        ends_AC = self(ids_BT, mask).flatten(0, 1).index_select(0, ends_A)
        rewards_A1: Tensor = self.reward_head(ends_AC)
        return rewards_A1.squeeze(1).float()
