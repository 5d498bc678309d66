"""Tasks of evaluation as JSON lines, and the one way in which an item becomes texts that a model scores.

    {"question": "...", "choices": ["...", "..."], "answer": 0}          kind choice; answer counts from 0
    {"chosen": [messages], "rejected": [messages]}                       kind preference (trainer.tokens.chat_files)

An item may carry `document`, the fingerprint of the training document that it was made from: a page of text, or in form chat
what stands before a conversation's last answer. It is left out where the run trains on that document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.config import Config, EvaluationTask
from trainer.config_messages import plain
from trainer.corpus.normalising import is_held_out
from trainer.corpus.reading import BOX, BadLine
from trainer.errors import TaskError
from trainer.tokens.chat import ChatIds, Message, render_chat
from trainer.tokens.chat_encoding import split_of
from trainer.tokens.chat_files import Pair, encode_pair, read_chat_file
from trainer.tokens.tokenizer import END_OF_TEXT, TextEncoder


class ChoiceItem(BaseModel):
    """A question with one right answer among several."""

    # keys beside these, such as an id, are nobody's mistake
    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str
    choices: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
    answer: Annotated[int, Field(ge=0)]
    document: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Self:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} is not one of the {len(self.choices)} choices, which count from 0")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("choices: two of them are equal; a question needs different ones")
        return self


@dataclass(frozen=True, slots=True)
class Continuation:
    """Ids that a model scores, given those before them."""

    context: list[int]
    ids: list[int]
    num_chars: int
    """Length of the scored text, in characters; an answer's end token has none. At least 1."""


@dataclass(frozen=True, slots=True)
class Question:
    """Continuations of which one is right."""

    options: tuple[Continuation, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task's questions, and how many of its items were left out because the run trains on their documents."""

    questions: tuple[Question, ...]
    left_out: int


def load_task(task: EvaluationTask, encoder: TextEncoder, config: Config) -> LoadedTask:
    """Read and encode a task. Raises TaskError naming file, line and rule."""
    file = task_file(task)
    if task.kind == "preference":
        questions = [_preference(pair, encoder) for pair in islice(_pairs(task, file, config), task.max_items)]
        return _loaded(task, file, questions, 0)
    used, left_out = used_items(task, file, config)
    return _loaded(task, file, [_choice(item, task, encoder) for item in used], left_out)


def used_items(task: EvaluationTask, file: Path, config: Config) -> tuple[list[ChoiceItem], int]:
    """A task's items that the run may be asked, and how many may not, for it trains on their documents."""
    items = read_choices(file)
    share = config.chat.held_out if task.form == "chat" else config.corpus.held_out
    used = [item for item in items if item.document is None or is_held_out(bytes.fromhex(item.document), share)]
    return used[: task.max_items], len(items) - len(used)


def _loaded(task: EvaluationTask, file: Path, questions: list[Question], left_out: int) -> LoadedTask:
    if not questions:
        why = f"; the run trains on the documents of all {left_out}" if left_out else ""
        raise TaskError(f"evaluate.tasks: {task.name}: {file} holds no item{why}")
    return LoadedTask(tuple(questions), left_out)


def task_file(task: EvaluationTask) -> Path:
    """The file of a task. `box:NAME` comes with the package: a task of its own, or the chat data's pairs. Raises TaskError."""
    if task.path.startswith(BOX):
        name = task.path.removeprefix(BOX)
        candidates = [
            Path(str(resources.files(package) / "box" / name)) for package in ("trainer.evaluation", "trainer.corpus")
        ]
    else:
        candidates = [Path(task.path)]
    for file in candidates:
        if file.is_file():
            return file
    raise TaskError(f"evaluate.tasks: {task.name}: no file at {task.path}; give a .jsonl file, or box:NAME")


def read_choices(file: Path) -> list[ChoiceItem]:
    """All items of a task file. Raises TaskError naming the first line that breaks a rule."""
    items = []
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                items.append(ChoiceItem.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"])
                rule = plain(first)
                raise TaskError(f"{file}:{number}: {field}: {rule}" if field else f"{file}:{number}: {rule}") from None
    return items


def _pairs(task: EvaluationTask, file: Path, config: Config) -> Iterator[Pair]:
    for line in read_chat_file(task.name, file, "pairs"):
        if isinstance(line, BadLine):
            raise TaskError(f"{line.file}:{line.line}: {line.reason}")
        assert isinstance(line.row, Pair)
        if task.split in ("all", split_of(line.row, config.chat.held_out)):
            yield line.row


def _preference(pair: Pair, encoder: TextEncoder) -> Question:
    """The chosen answer first: it is the right one."""
    answers = zip(encode_pair(pair, encoder), (pair.chosen[-1], pair.rejected[-1]), strict=True)
    return Question(tuple(_trained(chat, _num_chars(message)) for chat, message in answers), answer=0)


def _num_chars(answer: Message) -> int:
    """Characters of all that an answer scores: reasoning and calls of functions among them, its end token not."""
    *said, _end = [segment.text for segment in render_chat([answer]).segments if segment.trained]
    return len("".join(said))


def _choice(item: ChoiceItem, task: EvaluationTask, encoder: TextEncoder) -> Question:
    if task.form == "chat":
        asked = Message(role="user", content=item.question)
        chats = [render_chat([asked, Message(role="assistant", content=choice)]).encode(encoder) for choice in item.choices]
        options = [_trained(chat, len(choice)) for chat, choice in zip(chats, item.choices, strict=True)]
    else:
        options = [continuation(encoder, item.question, task.delimiter, choice) for choice in item.choices]
    return Question(tuple(options), item.answer)


def continuation(encoder: TextEncoder, question: str, delimiter: str, choice: str) -> Continuation:
    """A choice behind its question at the start of a document, cut into ids as lm-evaluation-harness cuts it.

    Blanks at the question's end go to the choice; both are encoded together, and what the question alone encodes to is context.
    Where a token would reach across the border, as it may without a delimiter, both are encoded apart: cut by count, the choice
    would lose its beginning, or all of itself.
    """
    context = question.rstrip()
    text = (question + delimiter + choice)[len(context) :]
    before, whole = encoder.encode(context), encoder.encode(context + text)
    head, ids = whole[: len(before)], whole[len(before) :]
    if encoder.decode_bytes(ids) != text.encode():
        head, ids = before, encoder.encode(text)
    return Continuation([END_OF_TEXT, *head], ids, len(choice))


def _trained(chat: ChatIds, num_chars: int) -> Continuation:
    """The last answer of a conversation, with its end token, given all before it."""
    start = len(chat.mask) - 1
    while start and not chat.mask[start]:
        start -= 1
    end = start + 1
    while start and chat.mask[start - 1]:
        start -= 1
    return Continuation(chat.ids[:start], chat.ids[start:end], num_chars)
