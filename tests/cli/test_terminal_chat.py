"""`trainer chat` with questions from a pipe."""

import io
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.models import SMALL, model_of
from tests.support.serving import make_run
from trainer.cli import main
from trainer.config import GenerateSection
from trainer.errors import UsageError
from trainer.inference.chatting import Conversation, _harmless
from trainer.inference.engine import Engine
from trainer.inference.writing import Writer
from trainer.tokens.tokenizer import TextEncoder


@pytest.fixture(scope="module")
def config(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("chat"), small_data, generate={"max_tokens": 12, "temperature": 0.0})


def chat(
    config: Path, questions: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(questions))
    with pytest.raises(SystemExit) as ended:
        main(["chat", "--config", str(config), *options], {})
    assert ended.value.code == 0
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_each_line_is_answered_with_what_was_said_before_until_reset(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(questions: str, *options: str) -> str:
        return chat(config, questions, monkeypatch, capsys, *options)[0]

    first = answers("one\n")
    assert first.strip()
    assert answers("one\n\n  \n/exit\none\n") == first
    assert answers("one\n/reset\none\n") == first + first
    both = answers("one\none\n")
    assert both.startswith(first)
    assert both != first + first
    assert answers("one\n", "--system", "Be brief.") == answers("/system Be brief.\none\n") != first
    assert answers("one\n", "--max_tokens", "3") != first
    told = chat(config, "/what\n", monkeypatch, capsys)[1]
    assert "tiny" not in told
    assert told.count("/reset forgets the conversation") == 2


def test_beyond_the_length_that_was_trained_it_warns_once(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "trained on" not in chat(config, "one\n", monkeypatch, capsys)[1]
    told = chat(config, "one\n" * 6, monkeypatch, capsys)[1]
    assert told.count("a text has passed 64 tokens, the longest that this model was trained on") == 1


class Terminal:
    """A real terminal with `trainer chat` in it."""

    def __init__(self, command: list[str]) -> None:
        ours, theirs = pty.openpty()
        self._terminal, self.shown = ours, ""
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)

    def wait_for(self, text: str, typed: str = "", deadline_s: float = 100.0) -> None:
        """Until it shows a text that it has not shown before, for what is typed: a key that came amid a prompt may be lost."""
        end, seen, due = time.monotonic() + deadline_s, len(self.shown), 0.0
        while text not in self.shown[seen:]:
            assert time.monotonic() < end, self.shown
            assert self.process.poll() is None, self.shown
            if typed and time.monotonic() > due:
                self.type(typed)
                due = time.monotonic() + 3.0
            if select.select([self._terminal], [], [], 0.5)[0]:
                self.shown += os.read(self._terminal, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())


def test_ctrl_c_ends_an_answer_and_not_the_conversation(small_data: Path, tmp_path: Path) -> None:
    config = make_run(tmp_path, small_data, generate={"max_tokens": 1900, "temperature": 1.0})
    # the child takes the terminal as its own, so that Ctrl-C typed there reaches it
    child = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from trainer.cli import main; main()"
    terminal = Terminal([sys.executable, "-c", child, "chat", "--config", str(config)])
    terminal.wait_for("> ")
    for _ in range(2):
        terminal.type("one\n")
        terminal.wait_for("one\r\n")
        terminal.wait_for("trainer: Ctrl-C ends an answer; /exit or Ctrl-D ends the conversation\r\n> ", "\x03")
    terminal.wait_for("/exit or Ctrl-D ends the conversation\r\n> ", "\x03")
    terminal.type("/exit\n")
    assert terminal.process.wait(60) == 0, terminal.shown
    assert "Traceback" not in terminal.shown


def conversation(small_data: Path, context: int, **settings: float) -> Conversation:
    encoder = TextEncoder(small_data / "tokenizer" / "tokenizer.json")
    writer = Writer(Engine(model_of(SMALL), 1, context, encoder.vocab_size), encoder)
    return Conversation(writer, encoder, GenerateSection(**{"max_tokens": 16, "temperature": 0.0} | settings), "Be brief.")


def test_the_oldest_turns_go_when_the_context_is_full_and_the_system_message_stays(small_data: Path) -> None:
    talk = conversation(small_data, 160)
    for number in range(8):
        assert isinstance("".join(talk.ask(f"question {number}")), str)
    roles = [message.role for message in talk._messages]
    assert roles[0] == "system"
    assert len(roles) < 17
    assert talk._messages[-2].content == "question 7"
    with pytest.raises(
        UsageError, match=r"the question has \d+ tokens; serve\.context_tokens 160 less generate\.max_tokens 16"
    ):
        list(talk.ask("dog " * 100))
    assert "".join(talk.ask("and on")) is not None


def test_an_answer_that_is_broken_off_frees_the_slot_and_stays_as_far_as_it_came(small_data: Path) -> None:
    talk = conversation(small_data, 160, max_tokens=40)
    pieces = talk.ask("one")
    begun = next(pieces) + next(pieces)
    pieces.close()
    assert talk._writer.engine.is_idle
    assert talk._messages[-1].content == begun


def test_a_model_cannot_steer_the_terminal() -> None:
    assert _harmless("a\x1b[2Jb\x9bc\x07\td\n春") == "a�[2Jb�c�\td\n春"
