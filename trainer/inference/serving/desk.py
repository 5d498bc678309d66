"""What a server knows while it runs: its model, its limits, how many texts are under way. The event loop alone touches it."""

import asyncio
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from trainer.config_serving import ServeSection
from trainer.inference.serving.failures import ApiError
from trainer.inference.serving.metrics import Metrics
from trainer.inference.serving.model_thread import ModelThread, Ticket
from trainer.tokens.tokenizer import TextEncoder

_BEST_BYTES_PER_TOKEN = 64
"""No text is denser than this on average; longer ones are refused unread."""


@dataclass(frozen=True)
class ServedModel:
    """What the API tells of the model."""

    name: str
    fingerprint: str
    created: int
    context_tokens: int
    vocab_size: int
    num_parameters: int


class Desk:
    """Takes requests in, or refuses them."""

    def __init__(
        self, model: ServedModel, limits: ServeSection, encoder: TextEncoder, thread: ModelThread, metrics: Metrics
    ) -> None:
        self.model, self.limits, self.encoder, self.thread, self.metrics = model, limits, encoder, thread, metrics
        metrics.running.set_function(lambda: thread.num_running)
        self.ending = asyncio.Event()
        """Set when the server waits for requests no longer."""
        self.tickets: set[Ticket] = set()
        """Of the requests that the model works on."""
        self._num_texts = 0
        self._text_s = 1.0
        """How long a request took lately: what Retry-After goes by."""

    @contextmanager
    def place(self, num_texts: int) -> Iterator[None]:
        """Room for a request's texts while the block runs. Raises ApiError 429 when the queue is full, 503 without a model."""
        if not self.thread.is_alive:
            raise ApiError(503, "the model has failed; the server is ending", "model_failed")
        limit = self.limits.slots + self.limits.queue
        if num_texts > limit:
            raise ApiError(400, f"{num_texts} texts are asked for; this server holds {limit} at once", "too_many_texts", "n")
        if self._num_texts + num_texts > limit:
            wait_s = min(60, max(1, math.ceil(self._text_s * self._num_texts / (2 * self.limits.slots))))
            raise ApiError(
                429, f"{self._num_texts} texts are under way and the queue is full; try again in {wait_s} s", "queue_full",
                headers={"retry-after": str(wait_s)},
            )  # fmt: skip
        self._change(num_texts)
        started = time.monotonic()
        try:
            yield
        finally:
            self._change(-num_texts)
            duration_s = time.monotonic() - started
            self._text_s += 0.2 * (duration_s - self._text_s)
            self.metrics.request_s.observe(duration_s)

    def give_up(self) -> None:
        """Tell every request under way that the server ends before it is done."""
        self.ending.set()
        for ticket in self.tickets:
            ticket.give_up()

    def check_model(self, name: str) -> None:
        """Raises ApiError 404 for another model than ours."""
        if name != self.model.name:
            raise ApiError(404, f"no model {name!r} here; this server has {self.model.name!r}", "model_not_found", "model")

    def check_ids(self, ids: Iterable[int], param: str) -> None:
        """Raises ApiError 400 for an id that the model does not have."""
        if (highest := max(ids, default=0)) >= self.model.vocab_size:
            message = f"id {highest} is beyond this model's {self.model.vocab_size} ids"
            raise ApiError(400, message, "invalid_value", param)

    def output_limit(
        self, wanted: int | None, default: int, prompts: Sequence[Sequence[int]], param: str
    ) -> tuple[int, str | None]:
        """How many tokens each text may have, and a note if those are fewer than wanted. Raises ApiError 400 without room."""
        longest = max(map(len, prompts))
        room = self.model.context_tokens - longest
        if room < 1:
            raise ApiError(
                400, f"the prompt has {longest} tokens; the context of {self.model.context_tokens} has no room for it",
                "context_length_exceeded", param,
            )  # fmt: skip
        limit = min(self.limits.max_output_tokens, room)
        if wanted is None:
            return min(default, limit), None
        if wanted <= limit:
            return wanted, None
        if limit < room:
            return limit, f"max_tokens {wanted} was cut to this server's limit of {limit}"
        return limit, f"max_tokens {wanted} was cut to {limit}: the prompt leaves no more of the context"

    def is_readable(self, num_chars: int) -> bool:
        """Whether a text is so short that it is worth the while to encode it."""
        return num_chars <= _BEST_BYTES_PER_TOKEN * self.model.context_tokens

    def check_size(self, num_chars: int, param: str) -> None:
        """Raises ApiError 400 for a text so long that encoding it is not worth the while."""
        if not self.is_readable(num_chars):
            raise ApiError(
                400, f"the prompt has {num_chars} characters; that is beyond this server's context", "context_length_exceeded",
                param,
            )  # fmt: skip

    def _change(self, by: int) -> None:
        self._num_texts += by
        self.metrics.texts.set(self._num_texts)
