"""The stage `grpo`: the model writes several answers to a prompt, and learns from those that are judged better than the others.

    A = (r - mean r) / (std r + 1e-4) within an answer's group     arXiv 2402.03300, 4.1.2; without the division: 2503.20783
    ratio = p(token) / p_old(token), p_old that of the weights which wrote the answer
    clipped   -min(ratio A, clip(ratio, 1 - low, 1 + high) A)      2402.03300 eq. 3; low and high apart: 2503.14476 eq. 8
    cispo     -sg(min(ratio, 1 + high)) A log p(token)             2506.13585 eq. 4 and 5; sg: no gradient
    kl        p_ref / p - log(p_ref / p) - 1                       2402.03300 eq. 4, never negative: Schulman 2020, "k3"
              times ratio with `kl_by_ratio`                       2512.02556

A token weighs 1 / its answer's length (2402.03300 eq. 3), or 1 / max_tokens (2503.20783); a step divides by its answers. The
reference is the model that grpo starts from. Steps k U to k U + U - 1 (U is `updates_per_rollout`) learn from answers that the
weights before step k U write; a checkpoint amid them holds those weights, too, so a resumed run writes the same answers.

Shapes: P prompts, G answers of a group, B = P G answers, N tokens of all answers.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from trainer.alignment.held_out import AnswerMeasure
from trainer.alignment.judging import Judge, judge_of, without_end
from trainer.alignment.rollouts import AnswerRows, PromptBatch, Text, answer_seed, read_prompts, write_answers
from trainer.config import Config
from trainer.config_tuning import GrpoSection
from trainer.errors import ConfigError
from trainer.model.attention import DocumentMask
from trainer.model.gpt import GPT
from trainer.model.loss import target_log_probs
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder
from trainer.training.batches import Batch
from trainer.training.objective import TOKENS
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import Feed, Setting, Stage

BEHAVIOUR_FILE = "behaviour.safetensors"
"""In a checkpoint amid the steps that share their answers: the trained weights that write them."""
_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class Company:
    """Whom the policy works with."""

    judge: Judge
    num_ids: int
    """The tokenizer's vocabulary."""
    reference: GPT | None
    """Without a KL in the loss there is none, and the figure is 0."""
    writer: GPT | None
    """The policy as it was when the answers were written; None: answers are written by the policy as it is."""


class GrpoLoss(NextTokenLoss):
    """A model with the loss of grpo; rows of text get the loss of pretraining, for validation.

    Dropout stays off: noise would count as a ratio.
    """

    figures: ClassVar[tuple[str, ...]] = (TOKENS, "reward", "kl", "clip_share", "cut_share", "no_signal_share")

    def __init__(self, model: GPT, numerics: Numerics, config: Config) -> None:
        super().__init__(model, numerics)
        self._section, self._seed = config.grpo, config.seed
        self._step = 0
        self._company: Company | None = None

    def meet(self, company: Company) -> None:
        """Before the first batch of prompts."""
        self._company = company

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def start_step(self, step: int) -> None:
        self._step = step
        writer = self._company.writer if self._company is not None else None
        if writer is not None and self.replaces_kept(step):
            with torch.no_grad():
                for theirs, ours in zip(writer.parameters(), self.model.parameters(), strict=True):
                    theirs.copy_(ours)

    def replaces_kept(self, step: int) -> bool:
        return self._section.updates_per_rollout > 1 and step % self._section.updates_per_rollout == 0

    def kept(self, step: int) -> dict[str, dict[str, Tensor]]:
        writer = self._company.writer if self._company is not None else None
        if writer is None or step % self._section.updates_per_rollout == 0:
            return {}
        trained = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        return {BEHAVIOUR_FILE: {name: weight for name, weight in writer.named_parameters() if name in trained}}

    def forward(self, batch: Batch) -> Tensor:
        if not isinstance(batch, PromptBatch):
            return super().forward(batch)
        assert self._company is not None
        section, company = self._section, self._company
        prompts, answers, rewards_PG = self._rollout(batch, company)
        rows = AnswerRows.of(prompts, answers, self.model.embed_tokens.weight.device)
        log_probs_N = self.log_probs(self.model, rows)
        with torch.no_grad():
            old_N = log_probs_N.detach() if company.writer is None else self.log_probs(company.writer, rows)
            reference = company.reference
            reference_N = log_probs_N.detach() if reference is None else self.log_probs(reference, rows)
        advantages_B = advantages(rewards_PG, scaled=section.scale_advantages).flatten().to(log_probs_N)
        advantages_N = advantages_B[rows.answers_N]
        kl_N = kl_estimates(log_probs_N, reference_N)
        penalty_N = kl_N * (log_probs_N - old_N).exp() if section.kl_by_ratio else kl_N
        losses_N = policy_losses(log_probs_N, old_N, advantages_N, section) + section.beta * penalty_N
        lengths_N = rows.lengths_B[rows.answers_N]
        weights_N = 1 / (lengths_N if section.length_norm == "answer" else torch.full_like(lengths_N, section.max_tokens))
        clipped_N = is_clipped((log_probs_N - old_N).detach().exp(), advantages_N, section)
        num_cut = sum(len(answer) == section.max_tokens and without_end(answer) == answer for answer in answers)
        sums = [rewards_PG.sum(), kl_N.detach().sum(), clipped_N.sum(), torch.tensor(num_cut), is_silent(rewards_PG).sum()]
        self.noted = torch.stack([rows.lengths_B.sum(), *(each.to(log_probs_N) for each in sums)])
        return (losses_N * weights_N).sum()

    def log_probs(self, model: GPT, rows: AnswerRows) -> Tensor:
        """Log-probability of each token of the answers, float32 of shape (N,)."""
        with self.numerics.autocast():
            mask = DocumentMask.of(rows.documents_BT, self.numerics.dtype, self.numerics.attention)
            hidden_BTC = model(rows.inputs_BT, mask)
            return target_log_probs(hidden_BTC, model.embed_tokens.weight, rows.targets_BT, rows.places_N)

    def told(self, sums: Mapping[str, float], targets: float) -> dict[str, float]:
        """Means over answers; KL and clipped share over tokens, the share without signal over groups."""
        tokens, answers = max(1.0, sums[TOKENS]), max(1.0, targets)
        return {
            "reward": sums["reward"] / answers,
            "kl": sums["kl"] / tokens,
            "clip_share": sums["clip_share"] / tokens,
            "cut_share": sums["cut_share"] / answers,
            "no_signal_share": sums["no_signal_share"] * self._section.group_size / answers,
            "answer_tokens": sums[TOKENS] / answers,
        }

    def _rollout(self, batch: PromptBatch, company: Company) -> tuple[list[Text], list[Text], Tensor]:
        """Each prompt as often as its group is large, the answers, and their rewards, float64 of shape (P, G) on CPU."""
        section = self._section
        group = range(section.group_size)
        prompts = [prompt for prompt in batch.prompts for _ in group]
        expected = [answer for answer in batch.expected for _ in group]
        seeds = [answer_seed(self._seed, self._step, row, place) for row in batch.rows for place in group]
        answers = write_answers(company.writer or self.model, prompts, seeds, section.max_tokens, company.num_ids)
        rewards = company.judge.rewards(prompts, answers, expected)
        return prompts, answers, torch.tensor(rewards, dtype=torch.float64).view(-1, section.group_size)


def advantages(rewards_PG: Tensor, *, scaled: bool) -> Tensor:
    """How far each answer's reward lies from its group's mean; exactly 0 in a group whose rewards are all equal."""
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    if scaled:
        centred_PG = centred_PG / (rewards_PG.std(dim=1, keepdim=True) + _LEAST_DEVIATION)
    return centred_PG.masked_fill(is_silent(rewards_PG)[:, None], 0.0)


def is_silent(rewards_PG: Tensor) -> Tensor:
    """Whether a group's rewards are all equal, so that it teaches nothing; bool of shape (P,)."""
    return (rewards_PG == rewards_PG[:, :1]).all(dim=1)


def policy_losses(log_probs_N: Tensor, old_N: Tensor, advantages_N: Tensor, section: GrpoSection) -> Tensor:
    """The loss of each token, before its weight."""
    ratios_N = (log_probs_N - old_N).exp()
    if section.loss == "cispo":  # no lower limit: the authors set none, and a small weight needs no holding up
        return -ratios_N.detach().clamp(max=1 + section.clip_high) * advantages_N * log_probs_N
    held_N = ratios_N.clamp(1 - section.clip_low, 1 + section.clip_high)
    return -torch.minimum(ratios_N * advantages_N, held_N * advantages_N)


def is_clipped(ratios_N: Tensor, advantages_N: Tensor, section: GrpoSection) -> Tensor:
    """Whether a token's ratio was clipped in the loss."""
    low_N, high_N = ratios_N < 1 - section.clip_low, ratios_N > 1 + section.clip_high
    if section.loss == "cispo":
        return high_N
    return (low_N & (advantages_N < 0)) | (high_N & (advantages_N > 0))


def kl_estimates(log_probs_N: Tensor, reference_N: Tensor) -> Tensor:
    """An estimate of the KL of the policy from the reference at each token that the policy wrote."""
    log_ratios_N = reference_N - log_probs_N
    return log_ratios_N.exp() - log_ratios_N - 1


def _feed(setting: Setting, module: GrpoLoss) -> Feed:
    """Collective: prompts; held-out text is measured, and answers to held-out prompts are judged."""
    config, section, peers = setting.config, setting.config.grpo, setting.peers
    if config.engine.kind != "ddp":
        raise ConfigError(f"grpo writes answers with whole weights: it needs engine.kind ddp, not {config.engine.kind}")
    encoder = TextEncoder(RunFolder.of(config).tokenizer / TOKENIZER_FILE)
    judge = judge_of(config, encoder, setting.numerics, peers)
    reference = setting.start_model().eval().requires_grad_(False) if section.beta else None
    writer = copy.deepcopy(module.model).eval().requires_grad_(False) if section.updates_per_rollout > 1 else None
    module.meet(Company(judge, encoder.vocab_size, reference, writer))
    measures = setting.text_measures()
    if len(setting.data.held_out):
        rows, most_rows = setting.data.held_out, config.validation.max_rows_per_source
        batch_rows = section.micro_batch * section.group_size
        measures += (AnswerMeasure(rows, module.model, judge, encoder, config, batch_rows, most_rows, peers),)
    return Feed(partial(read_prompts, section.group_size), measures)


GRPO: Stage[GrpoLoss] = Stage("grpo", "prompts", GrpoLoss, _feed, compiles=False)
