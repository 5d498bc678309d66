"""The batched engine: texts join and leave between two steps, each step writes one id of every text.

`add` puts a text into the queue; `step` reads a part of the next prompt, gives one id to each running text, and tells what was
written. It knows ids alone, has no thread and no clock; trainer.inference.writing turns ids into text.

The running texts lie in the cache's slots 0 to n - 1 without a gap: who leaves is replaced by the last one, so a step works on
a plain slice of the cache. One more slot takes in prompts. It remembers the last one, so a prompt that begins like it (another
sample of the same question, the same system message) is read only from where they differ.

Shapes: B running texts, T positions of a prompt, V ids.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import UsageError
from trainer.inference.sampling import Sampling, adjusted, choose
from trainer.model.cache import KeyValueCache
from trainer.model.gpt import GPT

PREFILL_TOKENS = 256
"""Tokens of prompts read in a step at most: the running texts wait so long for their next id."""

FinishReason = Literal["stop", "length"]


@dataclass(eq=False, slots=True)
class Writing:
    """One text on its way through the engine."""

    prompt: tuple[int, ...]
    sampling: Sampling
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    """The prompt and what was written; the cache holds all but the last one."""
    prompt_logprobs: list["IdLogprob"] = field(default_factory=list)
    """Of the prompt's ids read so far, where they are asked for."""

    @property
    def num_written(self) -> int:
        """Ids written so far."""
        return len(self.ids) - len(self.prompt)


@dataclass(frozen=True, slots=True)
class IdLogprob:
    """What the model says of an id of the prompt."""

    id: int
    logprob: float | None
    """None for the first id, which nothing stands before."""
    top: tuple[tuple[int, float], ...] = ()
    """The most probable ids in its place with theirs."""


@dataclass(frozen=True, slots=True)
class Written:
    """One id that a step wrote."""

    writing: Writing
    id: int
    finish_reason: FinishReason | None
    """stop: the id is an end id; length: it is the last one that was asked for; None: the text goes on."""
    logprob: float | None = None
    """Natural logarithm of its probability under the model, before temperature and nucleus."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The most probable ids with theirs, as many as were asked for."""
    prompt_logprobs: tuple[IdLogprob, ...] = ()
    """With the first id, where they are asked for: the whole prompt's."""


class Engine:
    """Writes many texts at once with one model. Not thread-safe: one thread calls it."""

    def __init__(
        self, model: GPT, num_slots: int, max_positions: int, num_ids: int | None = None, prefill_tokens: int = PREFILL_TOKENS
    ) -> None:
        """Takes memory for `num_slots` texts of `max_positions` ids each, and one prompt.

        `num_ids` is the tokenizer's vocabulary where it is smaller than the model's: ids beyond it have no text.
        """
        self._model, self._num_ids, self._prefill_tokens = model, num_ids, prefill_tokens
        self._device = model.embed_tokens.weight.device
        self.num_slots, self.max_positions = num_slots, max_positions
        self._cache = KeyValueCache(model.config, num_slots + 1, max_positions, self._device)
        self._waiting: deque[Writing] = deque()
        self._running: list[Writing] = []
        """By slot."""
        self._prompt_slot = num_slots
        self._in_prompt_slot: tuple[int, ...] = ()

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._waiting and not self._running

    @property
    def num_running(self) -> int:
        """Texts that get an id in each step."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Texts that have no slot yet."""
        return len(self._waiting)

    def add(self, prompt: Sequence[int], sampling: Sampling) -> Writing:
        """Queue a text; it joins when a slot is free. Raises UsageError if prompt and answer do not fit into a slot."""
        room = self.max_positions - len(prompt)
        if not prompt:
            raise UsageError("an empty prompt has nothing to go on from; begin with the end-of-text id")
        if room < sampling.max_tokens:
            raise UsageError(
                f"a prompt of {len(prompt)} tokens leaves {max(0, room)} of {self.max_positions} positions; "
                f"lower max_tokens {sampling.max_tokens}, or shorten the prompt"
            )
        generator = torch.Generator().manual_seed(sampling.seed)
        writing = Writing(tuple(prompt), sampling, generator, list(prompt))
        self._waiting.append(writing)
        return writing

    def cancel(self, writing: Writing) -> None:
        """Forget a text, wherever it is; its slot is free for the next step. One that has ended is let be."""
        if writing in self._waiting:
            self._waiting.remove(writing)
        elif writing in self._running:
            self._leave(writing)

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """One id for each running text, and the first one of each whose prompt is now read."""
        return [*self._continue_running(), *self._read_prompts()]

    def _continue_running(self) -> list[Written]:
        running = list(self._running)
        if not running:
            return []
        ids_BT = torch.tensor([writing.ids[-1:] for writing in running], device=self._device)
        window = self._cache.window(0, [len(writing.ids) - 1 for writing in running], 1)
        logits_BV = self._logits(self._model(ids_BT, window=window)[:, -1])
        return [self._write(writing, logits_V) for writing, logits_V in zip(running, logits_BV, strict=True)]

    def _read_prompts(self) -> list[Written]:
        written = []
        left = self._prefill_tokens
        while left > 0 and self._waiting and len(self._running) < self.num_slots:
            writing = self._waiting[0]
            # the last id is always read: its logits are what the answer begins with
            scored = writing.sampling.prompt_logprobs and writing.sampling.top_logprobs is not None
            start = (
                max(0, len(writing.prompt_logprobs) - 1)
                if scored
                else _common_length(self._in_prompt_slot, writing.prompt[:-1])
            )
            part = writing.prompt[start : start + left]
            window = self._cache.window(self._prompt_slot, [start], len(part))
            hidden_BTC = self._model(torch.tensor([part], device=self._device), window=window)
            self._in_prompt_slot = writing.prompt[: start + len(part)]
            left -= len(part)
            if scored:
                self._score(writing, hidden_BTC[0])
            if len(self._in_prompt_slot) == len(writing.prompt):
                self._waiting.popleft()
                self._cache.copy(self._prompt_slot, len(self._running), len(writing.prompt))
                self._running.append(writing)
                written.append(self._write(writing, self._logits(hidden_BTC[0, -1])))
        return written

    def _score(self, writing: Writing, hidden_TC: Tensor) -> None:
        """Take the log-probabilities of the prompt's ids that follow the positions just read."""
        scores = writing.prompt_logprobs or [IdLogprob(writing.prompt[0], None)]
        ids = writing.prompt[len(scores) : len(scores) + len(hidden_TC)]
        logprobs_TV = torch.log_softmax(self._logits(hidden_TC[: len(ids)]), dim=-1)
        values = logprobs_TV[torch.arange(len(ids)), list(ids)].tolist()
        top = logprobs_TV.topk(min(writing.sampling.top_logprobs or 0, logprobs_TV.shape[-1]))
        pairs = (tuple(zip(*each, strict=True)) for each in zip(top.indices.tolist(), top.values.tolist(), strict=True))
        writing.prompt_logprobs = scores + [IdLogprob(*each) for each in zip(ids, values, pairs, strict=True)]

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._model.logits(hidden)[..., : self._num_ids].cpu()

    def _write(self, writing: Writing, logits_V: Tensor) -> Written:
        sampling = writing.sampling
        wanted_V = adjusted(logits_V, sampling, writing.ids[len(writing.prompt) :])
        token = choose(wanted_V, sampling.temperature, sampling.top_p, writing.generator)
        writing.ids.append(token)
        finish_reason: FinishReason | None = None
        if token in sampling.end_ids:
            finish_reason = "stop"
        elif writing.num_written == sampling.max_tokens:
            finish_reason = "length"
        if finish_reason is not None:
            self._leave(writing)
        if sampling.top_logprobs is None:
            return Written(writing, token, finish_reason)
        of_prompt = tuple(writing.prompt_logprobs) if writing.num_written == 1 else ()
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        values, ids = logprobs_V.topk(min(sampling.top_logprobs, len(logprobs_V)))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Written(writing, token, finish_reason, float(logprobs_V[token]), top, of_prompt)

    def _leave(self, writing: Writing) -> None:
        slot = self._running.index(writing)
        last = self._running.pop()
        if last is not writing:
            self._cache.copy(len(self._running), slot, len(last.ids))
            self._running[slot] = last


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
