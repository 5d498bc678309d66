"""The requests of OpenAI's API that are served, as values that hold every rule. The served OpenAPI document is made from them.

A field that would change the answer and is not served is refused unless it says what we do anyway; the few that change
nothing (`user`, `metadata`, `verbosity` and the like) are read and let be, and so is every field that is null.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.tokens.chat import Message, check_conversation

MAX_TEXTS = 16
"""Texts of one request: prompts times n."""

Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
TokenKey = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0)]
Ids = Annotated[list[TokenId], Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


class StreamOptions(_Model):
    """How a stream is told."""

    include_usage: bool = False
    """Send one more chunk before the end that holds the usage and no choices."""
    include_obfuscation: bool = False
    """Without effect: streams are not padded."""


class SamplingFields(_Model):
    """What both kinds of requests have."""

    model: str
    """The name that /v1/models tells."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens to write for each text. More than the server or the context allows is cut, and the answer's note says so."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    """0: always the most probable token; 1 (unset): the model's own distribution."""
    top_p: Probability | None = None
    """Sample from the most probable tokens that hold this share of the probability; unset: 1."""
    n: Annotated[int, Field(ge=1, le=MAX_TEXTS)] | None = None
    """Texts for each prompt; unset: 1. The i-th is drawn with seed + i."""
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    """Up to sixteen texts at which the answer ends; no part of one is ever in the answer."""
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    """The same seed and the same request give the same answer; unset: a new one each time."""
    stream: bool | None = None
    """Send the answer as it is written, as server-sent events that end with [DONE]."""
    stream_options: StreamOptions | None = None
    """How a stream is told; only with stream."""
    presence_penalty: Penalty | None = None
    """Taken off the logit of each token that the answer already has."""
    frequency_penalty: Penalty | None = None
    """The same, for each time that the answer has it."""
    logit_bias: Annotated[dict[TokenKey, Annotated[float, Field(ge=-100.0, le=100.0)]], Field(max_length=1024)] | None = None
    """Ids of tokens, and what is added to the logit of each."""
    user: str | None = None
    """Without effect."""
    metadata: dict[str, str] | None = None
    """Without effect."""
    store: bool | None = None
    """Without effect: nothing is stored."""
    service_tier: str | None = None
    """Without effect."""
    safety_identifier: str | None = None
    """Without effect."""
    prompt_cache_key: str | None = None
    """Without effect: the last prompt is always remembered."""
    prompt_cache_retention: str | None = None
    """Without effect."""
    top_k: Literal[-1, 0] | None = None
    """Other servers' field. Not served: -1, 0 or unset."""
    min_p: Annotated[float, Field(ge=0.0, le=0.0)] | None = None
    """Other servers' field. Not served: 0 or unset."""
    repetition_penalty: Annotated[float, Field(ge=1.0, le=1.0)] | None = None
    """Other servers' field. Not served: 1 or unset."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        """Whether a stream tells its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="before")
    @classmethod
    def _null_asks_for_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name in cls.model_fields}

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options belongs to a stream: set stream to true, or leave it out")
        return self


class CompletionRequest(SamplingFields):
    """Continue a text."""

    prompt: str | Annotated[list[str] | list[TokenId] | list[Ids], Field(min_length=1)]
    """A text, several texts, or the ids of one or of several. A text begins a new document."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens to write for each text; unset: 16. 0 only with echo. More than is allowed is cut, and a note says so."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """Tell each token's log-probability and those of so many most probable ones."""
    echo: bool | None = None
    """Tell each prompt again before what follows it; with logprobs, also those of the prompt's tokens."""
    best_of: Literal[1] | None = None
    """Not served: 1 or unset."""
    suffix: Literal[""] | None = None
    """Not served."""

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @property
    def num_texts(self) -> int:
        """Texts that are asked for."""
        return len(self.prompts) * (self.n or 1)

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if self.num_texts > MAX_TEXTS:
            raise ValueError(f"{self.num_texts} texts are asked for (prompts times n); {MAX_TEXTS} is the limit of a request")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 asks for nothing; set echo to true, or ask for 1 or more")
        return self


class TextPart(BaseModel):
    """A part of a message's content. Other fields, such as marks for a cache, are let be."""

    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)

    type: Literal["text"]
    """Only text is served."""
    text: str
    """What is said."""


class CallFunction(BaseModel):
    """What is called."""

    name: str
    arguments: str
    """A JSON object, as text."""


class Call(BaseModel):
    """A function that the assistant called."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CallFunction


class ChatMessage(BaseModel):
    """One turn of a conversation. Other fields, which clients send back from earlier answers, are let be."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """developer means system."""
    content: str | list[TextPart] | None = None
    """What is said."""
    reasoning_content: str | None = None
    """assistant: what it thought before it answered."""
    tool_calls: list[Call] | None = None
    """assistant: the functions that it called."""
    tool_call_id: str | None = None
    """tool: which call it answers."""

    def as_message(self) -> Message:
        """The message for the chat template. Raises ValidationError."""
        parts = self.content if isinstance(self.content, list) else [TextPart(type="text", text=self.content or "")]
        # some clients send a call without arguments back as an empty text
        calls = [{"name": call.function.name, "arguments": call.function.arguments or "{}"} for call in self.tool_calls or ()]
        values: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": "".join(part.text for part in parts),
            "reasoning_content": self.reasoning_content,
            "tool_calls": calls or None,
        }
        return Message.model_validate(values)


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool that the model may use."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: Function


class ResponseFormat(_Model):
    """The form of the answer."""

    type: Literal["text"]
    """Only text is served."""


class ChatRequest(SamplingFields):
    """Answer a conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    """The conversation so far. Models here know one system message, at the start: later ones are joined to it."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    """Tell each token's log-probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """With logprobs: also those of so many most probable tokens."""
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    """Functions that the chat template tells the model of; its calls come back as tool_calls."""
    tool_choice: Literal["auto", "none"] | None = None
    """none: tell the model of no tools."""
    parallel_tool_calls: bool | None = None
    """Without effect: the model decides."""
    response_format: ResponseFormat | None = None
    """Only {"type": "text"} is served."""
    reasoning_effort: str | None = None
    """Without effect: the model thinks as it was trained to."""
    verbosity: str | None = None
    """Without effect."""
    modalities: Annotated[list[Literal["text"]], Field(min_length=1)] | None = None
    """Only text is served."""
    truncation: Literal["auto", "disabled"] | None = None
    """auto: leave the oldest turns out where the conversation outgrows the context; unset: refuse it. A field of OpenAI's
    Responses API, not of its chat completions."""

    @property
    def num_texts(self) -> int:
        """Texts that are asked for."""
        return self.n or 1

    @property
    def conversation(self) -> list[Message]:
        """The messages for the chat template; they were checked when the request was made."""
        messages = [message.as_message() for message in self.messages]
        system = [message for message in messages if message.role == "system"]
        if not system or system == messages[:1]:
            return messages
        joined = Message(role="system", content="\n\n".join(message.content for message in system))
        return [joined, *(message for message in messages if message.role != "system")]

    @property
    def told_tools(self) -> list[dict[str, Any]] | None:
        """The tools for the chat template."""
        if self.tool_choice == "none" or not self.tools:
            return None
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _no_call_can_be_forced(cls, value: Any) -> Any:
        if value not in (None, "auto", "none"):
            raise ValueError('no call can be forced here; send "auto", ask for the call in a message, and check the answer')
        return value

    @field_validator("response_format", mode="before")
    @classmethod
    def _no_form_can_be_forced(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") in ("json_object", "json_schema"):
            raise ValueError("no form can be forced here; leave it out, ask for JSON in a message, and check the answer")
        return value

    @model_validator(mode="after")
    def _can_be_rendered(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: set logprobs to true, or leave it out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        for place, message in enumerate(self.messages):
            try:
                message.as_message()
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, ("messages", place, *first["loc"])))
                raise ValueError(f"{field}: {first['msg'].removeprefix('Value error, ')}") from None
        try:
            check_conversation(self.conversation)
        except ValueError as error:
            raise ValueError(f"messages: {error}") from None
        return self
