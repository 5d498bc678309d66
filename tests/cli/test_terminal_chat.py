"""`trainer chat` with questions from a pipe."""

import io
import sys
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
