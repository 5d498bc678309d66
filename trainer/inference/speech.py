"""An assistant's text taken apart as it comes: what it thinks, what it says, which functions it calls.

It reads back what the chat template writes (`trainer.tokens.chat`). A call that never ends, or is no object of name and
arguments, stays text: nothing that the model wrote is lost. Blank space around marks goes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trainer.tokens.chat import END_THINK, END_TOOL_CALL, THINK, TOOL_CALL
from trainer.tokens.tokenizer import SPECIAL_TOKENS

_THINK, _END_THINK = SPECIAL_TOKENS[THINK], SPECIAL_TOKENS[END_THINK]
_CALL, _END_CALL = SPECIAL_TOKENS[TOOL_CALL], SPECIAL_TOKENS[END_TOOL_CALL]


@dataclass(frozen=True, slots=True)
class Thought:
    """A stretch of what comes before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A stretch of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A function that is called."""

    number: int
    """Its place among the answer's calls."""
    name: str
    arguments: str
    """A JSON object, as text."""


Part = Thought | Said | Called


class Speech:
    """Takes text in as it comes, gives parts out as soon as it is clear what they are."""

    def __init__(self, *, calls: bool) -> None:
        """`calls`: whether there are functions to call; without, their marks are text as any other."""
        self._calls = calls
        self._held = ""
        self._place: Literal["start", "thought", "said", "call"] = "start"
        self._at_border = False
        """Blank space that comes now stands behind a mark."""
        self.num_called = 0

    def feed(self, text: str, *, last: bool = False) -> list[Part]:
        """The parts that are clear now; with `last`, all that is left."""
        self._held += text
        parts: list[Part] = []
        while (found := self._next(last=last)) is not None:
            parts += found
        return parts

    def _next(self, *, last: bool) -> list[Part] | None:
        """What can be told now, empty where only the place changed; None: wait for more."""
        if self._at_border:
            self._held = self._held.lstrip()
            self._at_border = not self._held
        if self._place == "start":
            return self._begin(last=last)
        if self._place == "call":
            return self._call(last=last)
        if not self._held:
            return None
        if self._place == "thought":
            return self._until(_END_THINK, "said", Thought, last=last)
        if self._calls:
            return self._until(_CALL, "call", Said, last=last)
        text, self._held = self._held, ""
        return [Said(text)]

    def _begin(self, *, last: bool) -> list[Part] | None:
        begun = self._held.lstrip()
        if begun.startswith(_THINK):
            self._place, self._held, self._at_border = "thought", begun.removeprefix(_THINK), True
        elif last or not _THINK.startswith(begun):
            self._place = "said"
        else:
            return None
        return []

    def _until(
        self, mark: str, then: Literal["said", "call"], kind: type[Thought] | type[Said], *, last: bool
    ) -> list[Part] | None:
        before, found, behind = self._held.partition(mark)
        if found:
            self._place, self._held, self._at_border = then, behind, True
            return [kind(text)] if (text := before.rstrip()) else []
        settled = self._held if last else _settled(self._held, mark)
        self._held = self._held[len(settled) :]
        return [kind(settled)] if settled else None

    def _call(self, *, last: bool) -> list[Part] | None:
        inside, found, behind = self._held.partition(_END_CALL)
        if not found and not last:
            return None
        self._place, self._held, self._at_border = "said", behind, True
        called = _read(inside, self.num_called) if found else None
        if called is None:
            return [Said(f"{_CALL}\n{inside}{found}")]
        self.num_called += 1
        return [called]


def parts_of(text: str, *, calls: bool) -> Iterator[Part]:
    """The parts of a whole text."""
    yield from Speech(calls=calls).feed(text, last=True)


def _settled(text: str, mark: str) -> str:
    """What of a text cannot belong to a mark that may follow, nor to the blank space in front of it."""
    begun = next((length for length in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:length])), 0)
    return text[: len(text) - begun].rstrip()


def _read(text: str, number: int) -> Called | None:
    """A call, if it is one."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), dict):
        return None
    return Called(number, call["name"], json.dumps(call["arguments"], ensure_ascii=False))
