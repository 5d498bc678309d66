"""The stage `dpo`: of two answers to the same conversation, make the better one more probable than the worse one.

    h = log-ratio(chosen) - log-ratio(rejected),  log-ratio(y) over y's tokens of log p(token) - log p_ref(token)
    sigmoid    -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)      DPO, arXiv 2305.18290 eq. 7; e is label smoothing
    ipo        (h - 1 / (2 beta))^2                                       arXiv 2310.12036 eq. 17

sigmoid sums a log-ratio over the tokens, as its paper does. ipo takes their mean: its paper leaves that open, its authors say
so (direct-preference-optimization, issue 40), and TRL does it. A sum would ask a long answer for what one token can reach.
A step divides by its pairs. Shapes: N targets that count, P pairs, A = 2 P answers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from trainer.config import Config
from trainer.config_tuning import DpoSection
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT
from trainer.model.loss import target_log_probs
from trainer.training.batches import Batch
from trainer.training.objective import TOKENS
from trainer.training.pair_measure import PairMeasure
from trainer.training.pairs import PairBatch
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.reference import reference_rows
from trainer.training.stage import Feed, Setting, Stage


class DpoLoss(NextTokenLoss):
    """A model with the loss of dpo; rows of text get the loss of pretraining, for validation.

    Dropout stays off: noise in the policy but not in the reference would count as a preference.
    """

    figures: ClassVar[tuple[str, ...]] = (TOKENS, "accuracy", "margin", "chosen_reward", "rejected_reward", "kl")

    def __init__(self, model: GPT, numerics: Numerics, config: Config) -> None:
        super().__init__(model, numerics)
        self._section = config.dpo

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, batch: Batch) -> Tensor:
        if not isinstance(batch, PairBatch):
            return super().forward(batch)
        log_ratios_N = self.log_probs(batch) - batch.reference_N
        zeros_A = torch.zeros(2 * batch.num_targets, device=log_ratios_N.device)
        answers_A = zeros_A.index_add(0, batch.answers_N, log_ratios_N)
        if self._section.loss == "ipo":
            answers_A = answers_A / zeros_A.index_add(0, batch.answers_N, torch.ones_like(log_ratios_N))
        chosen_P, rejected_P = answers_A.view(-1, 2).unbind(1)
        self.noted = self._figures(chosen_P.detach(), rejected_P.detach(), log_ratios_N.detach())
        return preference_losses(chosen_P - rejected_P, self._section).sum()

    def log_probs(self, batch: PairBatch) -> Tensor:
        """Log-probability of each target under the policy, float32 of shape (N,)."""
        with self.numerics.autocast():
            mask = DocumentMask.of(batch.documents_BT, self.numerics.dtype, self.numerics.attention)
            hidden_BTC = self.model(batch.inputs_BT, mask)
            return target_log_probs(hidden_BTC, self.model.embed_tokens.weight, batch.targets_BT, batch.places_N)

    def told(self, sums: Mapping[str, float], targets: float) -> dict[str, float]:
        """Means over pairs; the KL over tokens."""
        means = super().told(sums, targets)
        return means | {"kl": sums["kl"] / max(1.0, sums[TOKENS])}

    def _figures(self, chosen_P: Tensor, rejected_P: Tensor, log_ratios_N: Tensor) -> Tensor:
        """Sums over the batch. A reward is beta times a log-ratio, and the margin the difference of two.

        The KL is that of the policy from the reference, estimated on the answers as if the reference had written them: the mean
        of r - 1 - log r with r = p / p_ref, which is never negative (Schulman 2020, "Approximating KL divergence").
        """
        beta = self._section.beta
        margin_P = beta * (chosen_P - rejected_P)
        return torch.stack(
            [
                torch.tensor(float(len(log_ratios_N)), device=log_ratios_N.device),
                (margin_P > 0).float().sum(),
                margin_P.sum(),
                beta * chosen_P.sum(),
                beta * rejected_P.sum(),
                (log_ratios_N.exp() - 1 - log_ratios_N).sum(),
            ]
        )


def preference_losses(h_P: Tensor, section: DpoSection) -> Tensor:
    """The loss of each pair, from the difference of its answers' log-ratios."""
    if section.loss == "ipo":
        return (h_P - 1 / (2 * section.beta)).square()
    logits_P, smoothing = section.beta * h_P, section.label_smoothing
    return -(1 - smoothing) * functional.logsigmoid(logits_P) - smoothing * functional.logsigmoid(-logits_P)


def _feed(setting: Setting, module: DpoLoss) -> Feed:
    """Collective: pairs with the reference's log-probabilities; held-out text and held-out pairs are measured."""
    train, held_out = reference_rows(setting, partial(_reference, setting))
    measures = setting.text_measures()
    if len(setting.data.held_out):
        most_rows = setting.config.validation.max_rows_per_source
        micro_batch = setting.section.micro_batch
        pairs = PairMeasure(setting.data.held_out, held_out.read, module, micro_batch, most_rows, setting.peers)
        return Feed(train.read, (*measures, pairs))
    return Feed(train.read, measures)


def _reference(setting: Setting) -> Callable[[PairBatch], Tensor]:
    """The model that dpo starts from, as the policy computes."""
    return DpoLoss(setting.start_model(), setting.numerics, setting.config).eval().log_probs


DPO: Stage[DpoLoss] = Stage("dpo", "pairs", DpoLoss, _feed)
