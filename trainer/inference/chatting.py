"""`trainer chat`: a conversation in the terminal, or one question a line from a pipe."""

import re
import signal
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TextIO

from trainer.config import Config, GenerateSection
from trainer.errors import UsageError
from trainer.inference.opening import open_model
from trainer.inference.opening import tell_on_stderr as _tell
from trainer.inference.sampling import Sampling
from trainer.inference.writing import Writer
from trainer.tokens.chat import END_THINK, THINK, Message, render_chat
from trainer.tokens.tokenizer import SPECIAL_TOKENS, TextEncoder

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_THINK, _END_THINK = SPECIAL_TOKENS[THINK], SPECIAL_TOKENS[END_THINK]

HELP = "/reset forgets the conversation, /system TEXT also sets the system message, Ctrl-C ends an answer, /exit or Ctrl-D all"


class Conversation:
    """Messages so far, and the model that answers them."""

    def __init__(self, writer: Writer, encoder: TextEncoder, settings: GenerateSection, system: str | None) -> None:
        self._writer, self._encoder, self._settings = writer, encoder, settings
        self._messages: list[Message] = []
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Forget everything but the system message; `system` replaces that."""
        kept = [Message(role="system", content=system)] if system else [m for m in self._messages if m.role == "system"]
        self._messages = kept

    def ask(self, question: str) -> Generator[str]:
        """The answer, as it is written. It joins the conversation, also as much of it as there is when the caller stops.

        Where the conversation outgrows the context, its oldest turns go. Raises UsageError if the question alone does.
        """
        self._messages.append(Message(role="user", content=question))
        settings = self._settings
        prompt = self._prompt(settings.max_tokens)
        seed = settings.seed + len(self._messages)
        text = self._writer.add(
            prompt,
            Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p, seed=seed),
        )
        answer = ""
        try:
            while not self._writer.engine.is_idle:
                for _, piece in self._writer.step():
                    answer += piece.text
                    yield piece.text
        finally:
            self._writer.cancel(text)
            self._messages.append(_message(answer))

    def _prompt(self, max_tokens: int) -> list[int]:
        room = self._writer.engine.max_positions - max_tokens
        while True:
            ids = render_chat(self._messages, add_generation_prompt=True).encode(self._encoder).ids
            if len(ids) <= room:
                return ids
            first_turn = 1 if self._messages[0].role == "system" else 0
            if len(self._messages) - first_turn <= 1:
                self._messages.pop()
                raise UsageError(
                    f"the question has {len(ids)} tokens; serve.context_tokens {self._writer.engine.max_positions} less "
                    f"generate.max_tokens {max_tokens} leave {max(0, room)}"
                )
            del self._messages[first_turn : first_turn + 2]


def chat(config: Config, checkpoint: Path | None, system: str | None, lines: TextIO, out: TextIO) -> None:
    """Talk until the input ends. Answers go to `out`, all else to stderr. Raises what `open_model` raises."""
    waiting: list[str] = []
    opened = open_model(config, 1, checkpoint, waiting.append)
    conversation = Conversation(opened.writer, opened.encoder, config.generate, system)
    terminal = _is_terminal(lines)
    if terminal:
        import readline  # noqa: F401  # editing and history of lines for input()

        signal.signal(signal.SIGINT, signal.default_int_handler)  # of an answer, and not of the conversation
    _tell(f"{config.name} of {opened.stage}, step {opened.step}. {HELP}.")
    going_on = True
    while going_on:
        try:
            line = _read(lines, terminal=terminal)
            going_on = line is not None and _take(conversation, line.strip(), out)
            while waiting:  # told behind the answer, and not amid it
                _tell(waiting.pop())
        except KeyboardInterrupt:
            print(file=out, flush=True)
            _tell("Ctrl-C ends an answer; /exit or Ctrl-D ends the conversation")


def _take(conversation: Conversation, line: str, out: TextIO) -> bool:
    """Do what a line asks for. Returns whether the conversation goes on."""
    if line == "/exit":
        return False
    if line == "/reset":
        conversation.reset()
        _tell("forgotten")
    elif line.startswith("/system "):
        conversation.reset(line.removeprefix("/system "))
        _tell("system message set")
    elif line.startswith("/"):
        _tell(HELP)
    elif line:
        _answer(conversation, line, out)
    return True


def _answer(conversation: Conversation, question: str, out: TextIO) -> None:
    try:
        with closing(conversation.ask(question)) as pieces:
            for text in pieces:
                print(_harmless(text), end="", file=out, flush=True)
        print(file=out, flush=True)
    except UsageError as error:
        _tell(str(error))


def _read(source: TextIO, *, terminal: bool) -> str | None:
    """The next line, None at the end; a terminal gets a prompt and can edit it."""
    try:
        line = input("> ") + "\n" if terminal else source.readline()
    except EOFError:
        return None
    return line or None


def _is_terminal(source: TextIO) -> bool:
    return source is sys.stdin and source.isatty()


def _message(answer: str) -> Message:
    """An answer as a turn: what stands between the marks of thinking is its reasoning, as the template will write it again."""
    if not answer.lstrip().startswith(_THINK):
        return Message(role="assistant", content=answer)
    reasoning, _, content = answer.lstrip().removeprefix(_THINK).partition(_END_THINK)
    return Message(role="assistant", content=content, reasoning_content=reasoning)


def _harmless(text: str) -> str:
    """A model's text without control characters, which could steer the terminal; line ends and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
