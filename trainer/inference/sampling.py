"""How an id is drawn from logits.

Shapes: V ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.tokens.tokenizer import END_OF_TEXT, IM_END

COLDEST = 1e-6
"""Lower temperatures than this draw the same id, and would overflow float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one text is to be written."""

    max_tokens: int
    """Most ids to write, the end id among them."""
    temperature: float = 1.0
    """0: always the most probable id; 1: the model's own distribution."""
    top_p: float = 1.0
    """Draw from the most probable ids that hold this share of the probability (arXiv 1904.09751)."""
    presence_penalty: float = 0.0
    """Taken off the logit of each id that was written before."""
    frequency_penalty: float = 0.0
    """The same, for each time that it was written."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids, and what is added to the logit of each."""
    seed: int = 0
    """The same seed draws the same ids."""
    end_ids: frozenset[int] = frozenset((END_OF_TEXT, IM_END))
    """Ids behind which the text is over."""
    top_logprobs: int | None = None
    """Tell each id's log-probability, and those of so many most probable ones; None: tell none."""
    prompt_logprobs: bool = False
    """Tell the same of the prompt's ids, where `top_logprobs` is not None; the whole prompt is then read."""


def adjusted(logits_V: Tensor, sampling: Sampling, written: Sequence[int]) -> Tensor:
    """Logits with OpenAI's penalties for what was written, and the bias; the same ones where neither is asked for."""
    if not (sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias):
        return logits_V
    logits_V = logits_V.clone()
    if written:
        ids, counts = torch.tensor(written).unique(return_counts=True)
        logits_V[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    for token, bias in sampling.logit_bias:
        logits_V[token] += bias
    return logits_V


def choose(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One id from logits on CPU: the most probable at temperature 0, else drawn from the nucleus of mass `top_p`."""
    if temperature == 0:
        return int(logits_V.argmax())
    scaled_V = (logits_V - logits_V.max()) / max(temperature, COLDEST)
    probabilities, order = torch.softmax(scaled_V, dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities[1:][before[1:] >= top_p] = 0.0  # the first id always stays
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
