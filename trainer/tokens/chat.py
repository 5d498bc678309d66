"""Messages of a conversation, and the one way in which they become text and ids.

    <|im_start|>system
    You are helpful.<|im_end|>
    <|im_start|>user
    What is an elk?<|im_end|>
    <|im_start|>assistant
    <think>
    a large deer
    </think>

    A large northern deer.<|im_end|>

The form is Qwen3's and MiniMind's. `chat_template.jinja` beside this file says the same for Hugging Face's
`apply_chat_template`; a property test holds both to the same ids. Content is stripped of blank space at both ends, so that an
answer's first token never grows together with the line end before it. What looks like a special token in content is made text
by an invisible blank. Reasoning that stands in an answer's content, `<think>...</think>` before the answer proper, is taken
apart as Qwen3's template does.
Reasoning stays in every turn, since a turn that is trained on must look as it did when it was written.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from trainer.tokens.tokenizer import IM_END, IM_START, INVISIBLE, SPECIAL_TOKENS, TextEncoder

Role = Literal["system", "user", "assistant", "tool"]
Tools = Sequence[dict[str, Any]]

THINK, END_THINK = SPECIAL_TOKENS.index("<think>"), SPECIAL_TOKENS.index("</think>")
TOOL_CALL, END_TOOL_CALL = SPECIAL_TOKENS.index("<tool_call>"), SPECIAL_TOKENS.index("</tool_call>")
TOOL_RESPONSE, END_TOOL_RESPONSE = SPECIAL_TOKENS.index("<tool_response>"), SPECIAL_TOKENS.index("</tool_response>")

TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_MIDDLE = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within the tool call tags:\n"
)
TOOLS_FORM = '\n{"name": <function-name>, "arguments": <args-json-object>}\n'

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(_Part):
    """A function that the assistant calls. Also read in OpenAI's form, `{id, type, function: {name, arguments}}`."""

    name: str
    arguments: dict[str, Any] | str
    """An object, or one as JSON text, which is then shown as it is written."""

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, value: Any) -> Any:
        return value["function"] if isinstance(value, dict) and isinstance(value.get("function"), dict) else value

    @field_validator("arguments")
    @classmethod
    def _is_object(cls, value: dict[str, Any] | str) -> dict[str, Any] | str:
        if isinstance(value, str) and not isinstance(_json(value), dict):
            raise ValueError("must be a JSON object")
        return value

    @property
    def text(self) -> str:
        """As it stands in the text."""
        arguments = self.arguments if isinstance(self.arguments, str) else _dumped(self.arguments)
        return f'{{"name": {_dumped(self.name)}, "arguments": {arguments}}}'


class Message(_Part):
    """One turn of a conversation."""

    role: Role
    content: str = ""
    """What is said; null counts as nothing. Also read as OpenAI's list of text parts, which are joined."""
    reasoning_content: str | None = None
    """assistant: what it thought before it answered."""
    tools: tuple[dict[str, Any], ...] | None = None
    """system: the functions that may be called; a list, or one as JSON text."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """assistant: the functions that it calls; a list, or one as JSON text."""
    tool_call_id: str | None = None
    """tool: which call it answers; the text does not show it."""
    name: str | None = None
    """OpenAI's name of a participant; the text does not show it."""

    @model_validator(mode="before")
    @classmethod
    def _take_reasoning_apart(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("role") != "assistant" or value.get("reasoning_content") is not None:
            return value
        content = cls._join_parts(value.get("content"))
        if not isinstance(content, str):
            return value
        reasoning, answer = split_reasoning(content)
        return value if reasoning is None else value | {"reasoning_content": reasoning, "content": answer}

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return "" if value is None else value
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
        ):
            raise ValueError('a list holds {"type": "text", "text": "..."} alone: only text is read')
        return "".join(part["text"] for part in value)

    @field_validator("tools", "tool_calls", mode="before")
    @classmethod
    def _read_json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.strip():
            return None
        read = _json(value)
        if not isinstance(read, list):
            raise ValueError("must be a list, or one as JSON text")
        return read

    @model_validator(mode="after")
    def _fields_fit_the_role(self) -> Self:
        for field, role in (("tools", "system"), ("tool_calls", "assistant"), ("reasoning_content", "assistant")):
            if getattr(self, field) and self.role != role:
                raise ValueError(f"{field} belongs to role {role}, not {self.role}")
        return self


def split_reasoning(content: str) -> tuple[str | None, str]:
    """What stands before the first `</think>`, less a leading `<think>`, and what follows; None without such an end."""
    before, end, after = content.strip().partition(SPECIAL_TOKENS[END_THINK])
    return (before.removeprefix(SPECIAL_TOKENS[THINK]), after) if end else (None, content)


def check_markup(message: Message) -> None:
    """Raises ValueError where content holds marks that a field of its own should hold: trained on, they would be mere text."""
    names = {
        "assistant": ((THINK, END_THINK, "reasoning_content"), (TOOL_CALL, END_TOOL_CALL, "tool_calls")),
        "tool": ((TOOL_RESPONSE, END_TOOL_RESPONSE, "content without them"),),
    }
    for start, end, field in names.get(message.role, ()):
        for token in (start, end):
            if SPECIAL_TOKENS[token] in message.content:
                raise ValueError(
                    f"content of role {message.role} holds {SPECIAL_TOKENS[token]}, which only the template may write; "
                    f"give what it encloses as {field}"
                )


def check_conversation(messages: Sequence[Message]) -> None:
    """Raises ValueError if the turns cannot be a conversation: none at all, a system message that is not the first."""
    if not messages:
        raise ValueError("must hold at least one message")
    for place, message in enumerate(messages):
        if message.role == "system" and place:
            raise ValueError(f"message {place + 1} has role system; only the first one can")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text, or one special token."""

    text: str
    special: int | None
    """The special token's id; `text` is then its name."""
    trained: bool
    """Whether the assistant says it, so that a loss counts it."""


@dataclass(frozen=True, slots=True)
class ChatIds:
    """A conversation as ids, and for each id whether it counts as a target."""

    ids: list[int]
    mask: list[bool]


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as it stands before the model."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole text, special tokens by their names."""
        return "".join(segment.text for segment in self.segments)

    def encode(self, encoder: TextEncoder) -> ChatIds:
        """Ids and loss mask. A special id comes only from the template, never from content."""
        ids: list[int] = []
        mask: list[bool] = []
        for special, trained, text in _runs(self.segments):
            new = encoder.encode(text) if special is None else [special]
            ids += new
            mask += [trained] * len(new)
        return ChatIds(ids, mask)


def render_chat(
    messages: Sequence[Message], tools: Tools | None = None, *, add_generation_prompt: bool = False
) -> RenderedChat:
    """A conversation as text and special tokens, with the assistant's part marked: from its first token to its end token.

    `tools` are those of the first message unless given here. With `add_generation_prompt` the text ends where the
    assistant's next answer begins.
    """
    check_conversation(messages)
    segments: list[Segment] = []
    first = messages[0]
    tools = tools or first.tools
    if tools:
        segments += _system_with_tools(first.content if first.role == "system" else "", tools)
        messages = messages[1:] if first.role == "system" else messages
    for place, message in enumerate(messages):
        if message.role == "assistant":
            segments += _assistant(message)
        elif message.role == "tool":
            follows = place > 0 and messages[place - 1].role == "tool"
            goes_on = place + 1 < len(messages) and messages[place + 1].role == "tool"
            segments += _tool(message, opens=not follows, closes=not goes_on)
        else:
            segments += [_special(IM_START), _text(f"{message.role}\n{_plain(message.content)}"), _special(IM_END), _text("\n")]
    if add_generation_prompt:
        segments += [_special(IM_START), _text("assistant\n")]
    return RenderedChat(tuple(segments))


def _system_with_tools(content: str, tools: Tools) -> Iterable[Segment]:
    own = _plain(content)
    listed = "".join(f"\n{_plain(_dumped(tool))}" for tool in tools)
    yield _special(IM_START)
    yield _text("system\n" + (f"{own}\n\n" if own else "") + TOOLS_HEAD + listed + TOOLS_MIDDLE)
    yield _special(TOOL_CALL)
    yield _text(TOOLS_FORM)
    yield _special(END_TOOL_CALL)
    yield _special(IM_END)
    yield _text("\n")


def _assistant(message: Message) -> Iterable[Segment]:
    yield _special(IM_START)
    yield _text("assistant\n")
    content, reasoning = _plain(message.content), _plain(message.reasoning_content or "")
    if reasoning:
        yield _special(THINK, trained=True)
        yield _text(f"\n{reasoning}\n", trained=True)
        yield _special(END_THINK, trained=True)
        yield _text("\n\n", trained=True)
    yield _text(content, trained=True)
    for place, call in enumerate(message.tool_calls or ()):
        if content or place:
            yield _text("\n", trained=True)
        yield _special(TOOL_CALL, trained=True)
        yield _text(f"\n{_plain(call.text)}\n", trained=True)
        yield _special(END_TOOL_CALL, trained=True)
    yield _special(IM_END, trained=True)
    yield _text("\n")


def _tool(message: Message, *, opens: bool, closes: bool) -> Iterable[Segment]:
    if opens:
        yield _special(IM_START)
        yield _text("user")
    yield _text("\n")
    yield _special(TOOL_RESPONSE)
    yield _text(f"\n{_plain(message.content)}\n")
    yield _special(END_TOOL_RESPONSE)
    if closes:
        yield _special(IM_END)
        yield _text("\n")


def _special(token: int, *, trained: bool = False) -> Segment:
    return Segment(SPECIAL_TOKENS[token], token, trained)


def _text(text: str, *, trained: bool = False) -> Segment:
    return Segment(text, None, trained)


def _runs(segments: Iterable[Segment]) -> Iterable[tuple[int | None, bool, str]]:
    """Neighbouring texts joined, as a tokenizer that reads the whole sees them; special tokens alone."""
    waiting, trained = "", False
    for segment in segments:
        if waiting and (segment.special is not None or segment.trained != trained):
            yield None, trained, waiting
            waiting = ""
        if segment.special is not None:
            yield segment.special, segment.trained, segment.text
        else:
            waiting, trained = waiting + segment.text, segment.trained
    if waiting:
        yield None, trained, waiting


def _plain(text: str) -> str:
    """Stripped, and free of special tokens: each name gets an invisible blank behind its first character."""
    return _SPECIAL.sub(lambda match: match[0][0] + INVISIBLE + match[0][1:], text.strip())


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
