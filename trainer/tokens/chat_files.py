"""Conversations, preference pairs and prompts from JSON lines, in MiniMind's forms.

    {"conversations": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"chosen": [...], "rejected": [...]}       equal up to their last message, which is the assistant's

Reading streams. A line that breaks a rule becomes a `BadLine` that names file, line, field and rule, for the caller to count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trainer.config_messages import plain
from trainer.corpus.opening import DAMAGE, unreadable
from trainer.corpus.reading import BadLine, bounded_lines, opened
from trainer.tokens.chat import ChatIds, Message, check_conversation, check_markup, render_chat
from trainer.tokens.tokenizer import TextEncoder

MAX_LINE_BYTES = 16 << 20
"""A longer line is a bad one: a runaway line must not fill the memory."""

RowKind = Literal["conversations", "pairs", "prompts"]


class _Row(BaseModel):
    # keys of a row beside the ones read here, such as an id, are nobody's mistake
    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="after")
    def _marks_have_their_fields(self) -> Self:
        for name in type(self).model_fields:
            for place, message in enumerate(getattr(self, name)):
                try:
                    check_markup(message)
                except ValueError as error:
                    raise ValueError(f"{name}[{place}]: {error}") from None
        return self


class Conversation(_Row):
    """A line of conversations: the assistant's turns are what is learned."""

    conversations: tuple[Message, ...]

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        check_conversation(self.conversations)
        if not any(_answers(message) for message in self.conversations):
            raise ValueError("conversations: holds no answer of the assistant, so there is nothing to learn")
        return self


class Pair(_Row):
    """A line of preferences: two answers to the same conversation, the better one and the worse one."""

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]

    @model_validator(mode="after")
    def _compares(self) -> Self:
        for name, messages in (("chosen", self.chosen), ("rejected", self.rejected)):
            check_conversation(messages)
            if not _answers(messages[-1]):
                raise ValueError(f"{name}: its last message must be an answer of the assistant")
        if self.chosen[:-1] != self.rejected[:-1]:
            raise ValueError("chosen and rejected must be equal up to their last message")
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are equal, so there is nothing to prefer")
        return self


class Prompt(_Row):
    """A line of conversations of which the assistant's answer at the end, if there is one, is to be written anew."""

    conversations: tuple[Message, ...]

    @property
    def asked(self) -> tuple[Message, ...]:
        """What stands before the answer."""
        messages = self.conversations
        return messages[:-1] if messages[-1].role == "assistant" else messages

    @property
    def expected(self) -> Message:
        """The answer that is left out; empty where there is none."""
        last = self.conversations[-1]
        return last if last.role == "assistant" else Message(role="assistant")

    @model_validator(mode="after")
    def _asks(self) -> Self:
        check_conversation(self.conversations)
        if not any(message.role in ("user", "tool") for message in self.asked):
            raise ValueError("conversations: holds no question before the last answer, so there is nothing to answer")
        return self


Row = Conversation | Pair | Prompt


@dataclass(frozen=True, slots=True)
class ChatLine:
    """One row and where it stands."""

    row: Row
    file: str
    line: int


def read_chat_file(source: str, file: Path, kind: RowKind | None = None) -> Iterator[ChatLine | BadLine]:
    """All rows of a .jsonl file, also .gz or .zst, in their order. Without a kind, a row that names `chosen` is a pair."""
    try:
        with opened(file) as stream:
            for number, line in enumerate(bounded_lines(stream, MAX_LINE_BYTES), start=1):
                if isinstance(line, str):
                    yield BadLine(source, str(file), number, line)
                elif line.strip():
                    model: type[Row] = Conversation
                    if kind == "pairs" or (kind is None and b'"chosen"' in line):
                        model = Pair
                    elif kind == "prompts":
                        model = Prompt
                    try:
                        yield ChatLine(model.model_validate_json(line), str(file), number)
                    except ValidationError as error:
                        yield BadLine(source, str(file), number, _explained(error))
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(file, error, f"chat: source {source}") from None
        yield BadLine(source, str(file), 0, f"the file breaks off or is damaged: {error}")


def encode_conversation(row: Conversation, encoder: TextEncoder) -> ChatIds:
    """Ids of a conversation; every answer of the assistant counts."""
    return render_chat(row.conversations).encode(encoder)


def encode_prompt(row: Prompt, encoder: TextEncoder) -> ChatIds:
    """Ids of what is asked and of the answer that is left out; that one counts, so it shows where the prompt ends."""
    return _last_answer((*row.asked, row.expected), encoder)


def encode_pair(row: Pair, encoder: TextEncoder) -> tuple[ChatIds, ChatIds]:
    """Ids of chosen and rejected; only the last answer counts, in which they differ."""
    return _last_answer(row.chosen, encoder), _last_answer(row.rejected, encoder)


def _last_answer(messages: Sequence[Message], encoder: TextEncoder) -> ChatIds:
    whole = render_chat(messages).encode(encoder)
    start = len(whole.ids) - len(render_chat(messages[-1:]).encode(encoder).ids)
    return ChatIds(whole.ids, [trained and place >= start for place, trained in enumerate(whole.mask)])


def _answers(message: Message) -> bool:
    return message.role == "assistant" and bool(message.content.strip() or message.tool_calls)


def _explained(error: ValidationError) -> str:
    """The first broken rule with its field, as in `conversations[1].role: must be ...`."""
    first = error.errors()[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    rule = plain(first)
    return f"{field}: {rule}" if field else rule
