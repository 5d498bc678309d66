"""The stage `reward`: a copy of the model learns to judge which of two answers to the same conversation is better.

    loss = -log sigmoid(r(chosen) - r(rejected))        Bradley and Terry 1952; InstructGPT, arXiv 2203.02155 eq. 1

r is read behind an answer's end token by a head of its own (`trainer.model.reward`). A step divides by its pairs.
Shapes: P pairs of a batch, A = 2 P answers.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainer.config import Config
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT
from trainer.model.reward import RewardModel
from trainer.tokens.order import Ids
from trainer.tokens.shards import TokenRows
from trainer.training.batches import Batch
from trainer.training.objective import TOKENS, Objective
from trainer.training.pair_measure import PairMeasure
from trainer.training.pairs import read_pairs
from trainer.training.precision import Numerics
from trainer.training.stage import Feed, Setting, Stage


@dataclass(frozen=True, slots=True)
class JudgedBatch(Batch):
    """Rows of pairs. `num_targets` counts pairs."""

    ends_A: Tensor
    """Places of the end tokens in the flattened (B T), int64: pair p has the chosen answer's at 2 p, then the other."""
    num_tokens: int
    """Tokens of all answers."""


def read_judged(rows: TokenRows, ids: Ids, num_rows: int) -> JudgedBatch:
    """Rows by id, padded to `num_rows`."""
    pairs = read_pairs(rows, ids, num_rows)
    # an answer's last target is its end token, which is the input one position further on
    borders = np.diff(pairs.answers_N.numpy(), append=-1) != 0
    ends = pairs.places_N.numpy()[borders] + 1
    return JudgedBatch(
        pairs.inputs_BT,
        pairs.targets_BT,
        pairs.documents_BT,
        pairs.used_N,
        pairs.num_targets,
        torch.from_numpy(ends),
        len(pairs.places_N),
    )


class RewardLoss(Objective):
    """A reward model with its loss. Dropout stays off: what is judged is the answer."""

    figures: ClassVar[tuple[str, ...]] = (TOKENS, "accuracy", "margin", "chosen_reward", "rejected_reward")

    def __init__(self, model: GPT, numerics: Numerics, _config: Config | None = None) -> None:
        super().__init__()
        if not isinstance(model, RewardModel):
            raise TypeError(f"{type(model).__name__} has no head to judge with")
        self.model = model
        self.numerics = numerics

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, batch: Batch) -> Tensor:
        assert isinstance(batch, JudgedBatch)
        with self.numerics.autocast():
            mask = DocumentMask.of(batch.documents_BT, self.numerics.dtype, self.numerics.attention)
            rewards_A = self.model.rewards(batch.inputs_BT, mask, batch.ends_A)
        chosen_P, rejected_P = rewards_A.view(-1, 2).unbind(1)
        self.noted = _figures(chosen_P.detach(), rejected_P.detach(), batch.num_tokens)
        return -functional.logsigmoid(chosen_P - rejected_P).sum()


def _figures(chosen_P: Tensor, rejected_P: Tensor, num_tokens: int) -> Tensor:
    """Sums over the batch."""
    margin_P = chosen_P - rejected_P
    return torch.stack(
        [
            torch.tensor(float(num_tokens), device=margin_P.device),
            (margin_P > 0).float().sum(),
            margin_P.sum(),
            chosen_P.sum(),
            rejected_P.sum(),
        ]
    )


def _feed(setting: Setting, module: RewardLoss) -> Feed:
    """Pairs; held-out ones are measured."""
    held_out = setting.data.held_out
    most_rows = setting.config.validation.max_rows_per_source
    measure = PairMeasure(held_out, read_judged, module, setting.section.micro_batch, most_rows, setting.peers)
    return Feed(read_judged, (measure,) if len(held_out) else ())


REWARD: Stage[RewardLoss] = Stage("reward", "pairs", RewardLoss, _feed, RewardModel)
