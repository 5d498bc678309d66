"""The two kinds of requests: how each becomes prompts, and how pieces become its answers. No I/O."""

import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from trainer.inference.engine import FinishReason
from trainer.inference.generation import prompt_ids
from trainer.inference.sampling import Sampling
from trainer.inference.serving import answers
from trainer.inference.serving.answers import Text, Usage
from trainer.inference.serving.desk import Desk, ServedModel
from trainer.inference.serving.requests import ChatRequest, CompletionRequest, SamplingFields
from trainer.inference.speech import Speech
from trainer.inference.writing import Echo, Piece
from trainer.tokens.chat import Message, RenderedChat, render_chat

_COMPLETION_TOKENS = 16
"""OpenAI's default of max_tokens for /v1/completions; for a chat it is whatever the limits allow."""


class Chunks(Protocol):
    """Makes the events of one stream."""

    def opening(self, num_texts: int) -> Iterator[BaseModel]: ...

    def of(self, number: int, offset: int, piece: Piece) -> Iterator[BaseModel]: ...

    def closing(self, usage: Usage) -> BaseModel: ...


@dataclass(frozen=True)
class Asked:
    """What a request comes to."""

    prompts: list[list[int]]
    """The ids of each."""
    echoes: list[Echo | None]
    """For each prompt, how it is told again."""
    max_tokens: int
    """So many may follow each."""
    note: str | None
    """What is done otherwise than asked for."""


class Form(Protocol):
    """A kind of request."""

    def read(self, body: bytes) -> Any:
        """The request in a body. Raises pydantic's ValidationError."""

    def asked(self, order: Any, desk: Desk) -> "Asked":
        """What the model is to do. Raises ApiError."""

    def sampling(self, order: Any, max_tokens: int, number: int) -> Sampling:
        """How the number-th text of each prompt is drawn."""

    def whole(
        self, order: Any, model: ServedModel, texts: Sequence[Text], usage: Usage
    ) -> answers.ChatCompletion | answers.Completion:
        """The answer that is sent at once."""

    def chunks(self, order: Any, model: ServedModel) -> Chunks:
        """The answer that is streamed."""


class ChatForm:
    """/v1/chat/completions."""

    def read(self, body: bytes) -> ChatRequest:
        return ChatRequest.model_validate_json(body)

    def asked(self, order: ChatRequest, desk: Desk) -> Asked:
        wanted, default = order.max_completion_tokens or order.max_tokens, desk.limits.max_output_tokens
        ids, num_left_out = self._ids(order, desk, min(wanted or default, default))
        limit, note = desk.output_limit(wanted, default, [ids], "messages")
        if num_left_out:
            note = "; ".join(filter(None, (f"the oldest {num_left_out} messages were left out: the context is full", note)))
        return Asked([ids], [None], limit, note)

    def _ids(self, order: ChatRequest, desk: Desk, num_wanted: int) -> tuple[list[int], int]:
        """The prompt, and how many messages were left out of it so that an answer has room."""

        def rendered(messages: Sequence[Message]) -> RenderedChat:
            return render_chat(messages, order.told_tools, add_generation_prompt=True)

        def is_short(messages: Sequence[Message]) -> bool:
            chat = rendered(messages)
            return desk.is_readable(len(chat.text)) and len(chat.encode(desk.encoder).ids) <= room

        whole = order.conversation
        room = desk.model.context_tokens - min(num_wanted, desk.model.context_tokens // 4)
        kept = newest_turns(whole, is_short) if order.truncation == "auto" else whole
        chat = rendered(kept)
        desk.check_size(len(chat.text), "messages")
        return chat.encode(desk.encoder).ids, len(whole) - len(kept)

    def sampling(self, order: ChatRequest, max_tokens: int, number: int) -> Sampling:
        return _sampling(order, max_tokens, number, (order.top_logprobs or 0) if order.logprobs else None)

    def whole(self, order: ChatRequest, model: ServedModel, texts: Sequence[Text], usage: Usage) -> answers.ChatCompletion:
        choices = []
        for index, text in enumerate(texts):
            message = answers.answer_message(text.text, calls=order.told_tools is not None)
            logprobs = answers.chat_logprobs(text.logprobs, wanted=bool(order.logprobs))
            reason = _finish_reason(text.finish_reason or "length", called=bool(message.tool_calls))
            choices.append(answers.ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=reason))
        head = _head("chatcmpl", "chat.completion", model)
        return answers.ChatCompletion(**head, choices=choices, usage=usage)

    def chunks(self, order: ChatRequest, model: ServedModel) -> "ChatChunks":
        return ChatChunks(order, model)


class ChatChunks:
    """A streamed answer to a conversation."""

    def __init__(self, order: ChatRequest, model: ServedModel) -> None:
        self._head = _head("chatcmpl", "chat.completion.chunk", model) | ({"usage": None} if order.includes_usage else {})
        self._logprobs = bool(order.logprobs)
        self._speeches = [Speech(calls=order.told_tools is not None) for _ in range(order.num_texts)]

    def opening(self, num_texts: int) -> Iterator[answers.ChatChunk]:
        for index in range(num_texts):
            yield self._chunk(index, answers.Delta(role="assistant", content=""), None, None)

    def of(self, number: int, offset: int, piece: Piece) -> Iterator[answers.ChatChunk]:
        speech = self._speeches[number]
        deltas = [answers.delta_of(part) for part in speech.feed(piece.text, last=piece.finish_reason is not None)]
        if piece.logprobs and not deltas:
            deltas = [answers.Delta(content="")]  # the text waits until it is clear what it is
        logprobs = answers.chat_logprobs(piece.logprobs, wanted=self._logprobs)
        for delta in deltas:
            yield self._chunk(number, delta, logprobs, None)
            logprobs = answers.chat_logprobs((), wanted=self._logprobs)
        if piece.finish_reason:
            reason = _finish_reason(piece.finish_reason, called=speech.num_called > 0)
            yield self._chunk(number, answers.Delta(), None, reason)

    def closing(self, usage: Usage) -> answers.ChatChunk:
        return answers.ChatChunk(**self._head | {"choices": [], "usage": usage})

    def _chunk(self, index: int, delta: answers.Delta, logprobs: Any, finish_reason: Any) -> answers.ChatChunk:
        choice = answers.ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return answers.ChatChunk(**self._head, choices=[choice])


class CompletionForm:
    """/v1/completions."""

    def read(self, body: bytes) -> CompletionRequest:
        return CompletionRequest.model_validate_json(body)

    def asked(self, order: CompletionRequest, desk: Desk) -> Asked:
        told = [self._prompt(prompt, desk) for prompt in order.prompts]
        prompts = [ids for ids, _, _ in told]
        echoes = [Echo(text, num_unsaid, order.max_tokens == 0) if order.echo else None for _, text, num_unsaid in told]
        wanted = None if order.max_tokens is None else max(1, order.max_tokens)
        return Asked(prompts, echoes, *desk.output_limit(wanted, _COMPLETION_TOKENS, prompts, "prompt"))

    def _prompt(self, prompt: str | list[int], desk: Desk) -> tuple[list[int], str, int]:
        """Its ids, its text, and how many of the ids stand before the text."""
        if isinstance(prompt, str):
            desk.check_size(len(prompt), "prompt")
            return prompt_ids(desk.encoder, prompt), prompt, 1
        desk.check_ids(prompt, "prompt")
        return prompt, desk.encoder.decode(prompt), 0

    def sampling(self, order: CompletionRequest, max_tokens: int, number: int) -> Sampling:
        return _sampling(order, max_tokens, number, order.logprobs, prompt_logprobs=bool(order.echo))

    def whole(self, order: CompletionRequest, model: ServedModel, texts: Sequence[Text], usage: Usage) -> answers.Completion:
        wanted = order.logprobs is not None
        choices = [
            answers.CompletionChoice(
                index=index,
                text=text.text,
                logprobs=answers.completion_logprobs(text.logprobs, 0, wanted=wanted),
                finish_reason=text.finish_reason,
            )
            for index, text in enumerate(texts)
        ]
        return answers.Completion(**_head("cmpl", "text_completion", model), choices=choices, usage=usage)

    def chunks(self, order: CompletionRequest, model: ServedModel) -> "CompletionChunks":
        return CompletionChunks(order, model)


class CompletionChunks:
    """A streamed text."""

    def __init__(self, order: CompletionRequest, model: ServedModel) -> None:
        self._head = _head("cmpl", "text_completion", model) | ({"usage": None} if order.includes_usage else {})
        self._logprobs = order.logprobs is not None

    def opening(self, _num_texts: int) -> Iterator[answers.Completion]:
        return iter(())

    def of(self, number: int, offset: int, piece: Piece) -> Iterator[answers.Completion]:
        logprobs = answers.completion_logprobs(piece.logprobs, offset, wanted=self._logprobs)
        choice = answers.CompletionChoice(index=number, text=piece.text, logprobs=logprobs, finish_reason=piece.finish_reason)
        yield answers.Completion(**self._head, choices=[choice])

    def closing(self, usage: Usage) -> answers.Completion:
        return answers.Completion(**self._head | {"choices": [], "usage": usage})


def _finish_reason(reason: FinishReason, *, called: bool) -> answers.ChatFinishReason:
    return "tool_calls" if called and reason == "stop" else reason


def newest_turns(messages: Sequence[Message], is_short: Callable[[Sequence[Message]], bool]) -> Sequence[Message]:
    """A conversation without its oldest turns, as few as will do. The system message and the last question always stay."""
    head = [messages[0]] if messages[0].role == "system" else []
    starts = [place for place, message in enumerate(messages) if message.role == "user" and place > len(head)]
    if not starts or is_short(messages):
        return messages
    place = bisect_left(starts, True, key=lambda start: is_short([*head, *messages[start:]]))
    return [*head, *messages[starts[min(place, len(starts) - 1)] :]]


def _sampling(
    order: SamplingFields, max_tokens: int, number: int, top_logprobs: int | None, *, prompt_logprobs: bool = False
) -> Sampling:
    seed = secrets.randbits(62) if order.seed is None else order.seed
    bias = (order.logit_bias or {}).items()
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if order.temperature is None else order.temperature,
        top_p=1.0 if order.top_p is None else order.top_p,
        presence_penalty=order.presence_penalty or 0.0,
        frequency_penalty=order.frequency_penalty or 0.0,
        logit_bias=tuple((int(token), value) for token, value in bias),
        seed=seed + number,
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _head(prefix: str, kind: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": model.fingerprint,
    }
