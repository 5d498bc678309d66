"""The two kinds of requests: how each becomes prompts, and how pieces become its answers. No I/O."""

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel

from trainer.inference.engine import FinishReason
from trainer.inference.generation import prompt_ids
from trainer.inference.sampling import Sampling
from trainer.inference.serving import answers
from trainer.inference.serving.answers import Text, Usage
from trainer.inference.serving.desk import Desk, ServedModel
from trainer.inference.serving.failures import ApiError
from trainer.inference.serving.requests import ChatRequest, CompletionRequest, SamplingFields
from trainer.inference.speech import Speech
from trainer.inference.writing import Piece
from trainer.tokens.chat import render_chat

_COMPLETION_TOKENS = 16
"""OpenAI's default of max_tokens for /v1/completions; for a chat it is whatever the limits allow."""


class Chunks(Protocol):
    """Makes the events of one stream."""

    def opening(self, num_texts: int) -> Iterator[BaseModel]: ...

    def of(self, number: int, offset: int, piece: Piece) -> Iterator[BaseModel]: ...

    def closing(self, usage: Usage) -> BaseModel: ...


class Form(Protocol):
    """A kind of request."""

    def read(self, body: bytes) -> Any:
        """The request in a body. Raises pydantic's ValidationError."""

    def prompts(self, order: Any, desk: Desk) -> tuple[list[list[int]], int]:
        """Ids of each prompt, and how many tokens may follow. Raises ApiError."""

    def sampling(self, order: Any, max_tokens: int, number: int) -> Sampling:
        """How the number-th text of each prompt is drawn."""

    def whole(self, order: Any, model: ServedModel, texts: Sequence[Text], usage: Usage) -> BaseModel:
        """The answer that is sent at once."""

    def chunks(self, order: Any, model: ServedModel) -> Chunks:
        """The answer that is streamed."""


class ChatForm:
    """/v1/chat/completions."""

    def read(self, body: bytes) -> ChatRequest:
        return ChatRequest.model_validate_json(body)

    def prompts(self, order: ChatRequest, desk: Desk) -> tuple[list[list[int]], int]:
        rendered = render_chat(order.conversation, order.told_tools, add_generation_prompt=True)
        desk.check_size(len(rendered.text), "messages")
        prompts = [rendered.encode(desk.encoder).ids]
        wanted = order.max_completion_tokens or order.max_tokens
        return prompts, desk.output_limit(wanted, desk.limits.max_output_tokens, prompts, "messages")

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

    def prompts(self, order: CompletionRequest, desk: Desk) -> tuple[list[list[int]], int]:
        prompts = []
        for prompt in order.prompts:
            if isinstance(prompt, str):
                desk.check_size(len(prompt), "prompt")
                prompts.append(prompt_ids(desk.encoder, prompt))
            elif max(prompt) >= desk.model.vocab_size:
                message = f"id {max(prompt)} is beyond this model's {desk.model.vocab_size} ids"
                raise ApiError(400, message, "invalid_value", "prompt")
            else:
                prompts.append(prompt)
        return prompts, desk.output_limit(order.max_tokens, _COMPLETION_TOKENS, prompts, "prompt")

    def sampling(self, order: CompletionRequest, max_tokens: int, number: int) -> Sampling:
        return _sampling(order, max_tokens, number, order.logprobs)

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


def _sampling(order: SamplingFields, max_tokens: int, number: int, top_logprobs: int | None) -> Sampling:
    seed = secrets.randbits(62) if order.seed is None else order.seed
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if order.temperature is None else order.temperature,
        top_p=1.0 if order.top_p is None else order.top_p,
        seed=seed + number,
        top_logprobs=top_logprobs,
    )


def _head(prefix: str, kind: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": model.fingerprint,
    }
