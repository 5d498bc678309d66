"""The answers of OpenAI's API, whole and as chunks of a stream, made from the pieces that the engine gives.

Bodies are written with the fields that were set: a field that is null in OpenAI's answers is set to None here.
"""

import codecs
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from trainer.inference.engine import FinishReason
from trainer.inference.speech import Called, Part, Said, Thought, parts_of
from trainer.inference.writing import Piece, TokenLogprob

ChatFinishReason = FinishReason | Literal["tool_calls"]

LEAST_LOGPROB = -9999.0
"""OpenAI's figure for what is next to impossible; JSON knows no infinity."""


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @staticmethod
    def of(prompt_tokens: int, completion_tokens: int) -> "Usage":
        return Usage(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=prompt_tokens + completion_tokens
        )


class TopLogprob(BaseModel):
    """A probable token."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of the answer, and the most probable ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Tokens of an answer."""

    content: list[ChatLogprob]


class CompletionLogprobs(BaseModel):
    """Tokens of a text, in the older form."""

    tokens: list[str]
    """One that is no whole characters stands as `bytes:` and its bytes, as \\xe2."""
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    """The token itself is always among them."""
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """Continued texts; in a stream, what is new of one of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    note: str | None = None
    """What was done otherwise than asked for; not in OpenAI's answers."""


class CalledFunction(BaseModel):
    """A function's name and arguments."""

    name: str
    arguments: str
    """A JSON object, as text."""


class ToolCall(BaseModel):
    """A function that the assistant calls."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class DeltaToolCall(ToolCall):
    """The same in a chunk, whole in one."""

    index: int


class AnswerMessage(BaseModel):
    """What the assistant says; `content` is null where it only calls functions."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    """What it thought before."""
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


class ChatCompletion(BaseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    note: str | None = None
    """What was done otherwise than asked for; not in OpenAI's answers."""


class Delta(BaseModel):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[DeltaToolCall] | None = None


class ChunkChoice(BaseModel):
    """A chunk's part of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatChunk(BaseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_tokens: int
    """Longest prompt and answer together."""
    parameters: int
    """The model's size."""


class ModelList(BaseModel):
    """The served models: one."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """Whether the server can answer."""

    status: Literal["ok", "failed"]


class Text:
    """One text as it grows: what a whole answer needs of its pieces."""

    def __init__(self) -> None:
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None

    def add(self, piece: Piece) -> None:
        """Take in the next piece."""
        self.text += piece.text
        self.logprobs += piece.logprobs
        self.num_tokens, self.finish_reason = piece.num_tokens, piece.finish_reason


def answer_message(text: str, *, calls: bool) -> AnswerMessage:
    """A whole answer in its parts; a field that it has no part for is not there."""
    parts = list(parts_of(text, calls=calls))
    thought = "".join(part.text for part in parts if isinstance(part, Thought))
    said = "".join(part.text for part in parts if isinstance(part, Said))
    called = [tool_call(part) for part in parts if isinstance(part, Called)]
    values: dict[str, Any] = {"role": "assistant", "content": said if said or not called else None, "refusal": None}
    if thought:
        values["reasoning_content"] = thought
    if called:
        values["tool_calls"] = called
    return AnswerMessage(**values)


def tool_call(called: Called) -> ToolCall:
    """A call with an id of its own."""
    return ToolCall(id=_call_id(), type="function", function=CalledFunction(name=called.name, arguments=called.arguments))


def delta_of(part: Part) -> Delta:
    """A part as a chunk tells it."""
    if isinstance(part, Called):
        call = DeltaToolCall(index=part.number, **tool_call(part).model_dump())
        return Delta(tool_calls=[call])
    return Delta(reasoning_content=part.text) if isinstance(part, Thought) else Delta(content=part.text)


def chat_logprobs(tokens: Sequence[TokenLogprob], *, wanted: bool) -> ChatLogprobs | None:
    """Log-probabilities in the chat API's form."""
    if not wanted:
        return None
    content = [
        ChatLogprob(
            **_top(token.data, token.logprob).model_dump(), top_logprobs=[_top(each, value) for each, value in token.top]
        )
        for token in tokens
        if token.logprob is not None
    ]
    return ChatLogprobs(content=content)


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int, *, wanted: bool) -> CompletionLogprobs | None:
    """Log-probabilities in the older form; `offset` is where the first token begins in the text, in characters."""
    if not wanted:
        return None
    decoder, offsets = codecs.getincrementaldecoder("utf-8")(errors="replace"), []
    for token in tokens:  # a character of several tokens begins where its first one does
        offsets.append(offset)
        offset += len(decoder.decode(token.data))
    return CompletionLogprobs(
        tokens=[_shown(token.data) for token in tokens],
        token_logprobs=[None if token.logprob is None else max(token.logprob, LEAST_LOGPROB) for token in tokens],
        top_logprobs=[_tops(token) for token in tokens],
        text_offset=offsets,
    )


def as_json(body: BaseModel) -> bytes:
    """A body with the fields that were set."""
    return body.model_dump_json(exclude_unset=True).encode()


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _top(token: bytes, logprob: float) -> TopLogprob:
    values: dict[str, Any] = {"token": _shown(token), "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(token)}
    return TopLogprob(**values)


def _tops(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    return {_shown(each): max(value, LEAST_LOGPROB) for each, value in (*token.top, (token.data, token.logprob))}


def _shown(token: bytes) -> str:
    """A token's text; OpenAI's form where it is none, so that no two are shown alike."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
