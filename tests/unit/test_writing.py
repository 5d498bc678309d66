"""Text from ids: stop strings of which no part gets out, whole characters, log-probabilities that belong to the text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models import SMALL, model_of
from trainer.inference.engine import Engine, FinishReason, Writing, Written
from trainer.inference.sampling import Sampling
from trainer.inference.writing import Piece, StopStrings, TextWriting, Writer
from trainer.tokens.tokenizer import IM_END, TextEncoder

LETTERS = "ab春"


@pytest.fixture(scope="module")
def encoder(small_data: Path) -> TextEncoder:
    return TextEncoder(small_data / "tokenizer" / "tokenizer.json")


@given(st.lists(st.text(LETTERS, max_size=4), max_size=12), st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_text_goes_through_up_to_the_first_stop_string_and_no_part_of_one_does(pieces: list[str], stops: list[str]) -> None:
    scanner, given_out, so_far = StopStrings(stops), "", ""
    for piece in pieces:
        so_far += piece
        given_out += scanner.feed(piece)
        if scanner.found:
            break
        # held back is the longest end that may still become a stop string, and no more
        begun = [length for stop in stops for length in range(1, len(stop)) if so_far.endswith(stop[:length])]
        assert given_out == so_far[: len(so_far) - max(begun, default=0)]
    else:
        assert given_out + scanner.rest() == "".join(pieces)
        return
    assert given_out == so_far[: min(place for stop in stops if (place := so_far.find(stop)) >= 0)]


def pieces_of(encoder: TextEncoder, text: str, stops: list[str], finish: FinishReason = "length") -> list[Piece]:
    """The pieces of a text that the engine writes id by id."""
    ids = encoder.encode(text) + ([IM_END] if finish == "stop" else [])
    writing = Writing((0,), Sampling(max_tokens=len(ids)), None, [0])  # type: ignore[arg-type]
    taker, pieces = TextWriting(writing, encoder, stops), []
    for index, token in enumerate(ids):
        writing.ids.append(token)
        reason = finish if index == len(ids) - 1 else None
        pieces.append(taker.take(Written(writing, token, reason, -float(index), ((token, -float(index)),))))
        if pieces[-1].finish_reason is not None:
            break
    return pieces


def test_a_character_comes_when_all_of_its_bytes_are_there(encoder: TextEncoder) -> None:
    pieces = pieces_of(encoder, "a 𠀀b", [])
    assert "".join(piece.text for piece in pieces) == "a 𠀀b"
    assert "�" not in "".join(piece.text for piece in pieces)
    assert any(piece.text == "" for piece in pieces)
    cut = encoder.encode("𠀀")[:-1]
    writing = Writing((0,), Sampling(max_tokens=len(cut)), None, [0, *cut])  # type: ignore[arg-type]
    taker = TextWriting(writing, encoder, [])
    texts = [taker.take(Written(writing, token, "length" if token is cut[-1] else None)).text for token in cut]
    assert texts[-1] == "�"


def test_a_held_back_beginning_is_given_out_at_the_end(encoder: TextEncoder) -> None:
    for finish in ("stop", "length"):
        pieces = pieces_of(encoder, "one two EN", ["END"], finish)  # type: ignore[arg-type]
        assert "".join(piece.text for piece in pieces) == "one two EN"
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [finish]


def test_logprobs_spell_the_text_and_end_before_a_stop_string(encoder: TextEncoder) -> None:
    whole = pieces_of(encoder, "one 春 two END three", [])
    assert b"".join(token.data for piece in whole for token in piece.logprobs).decode() == "one 春 two END three"
    pieces = pieces_of(encoder, "one 春 two END three", ["END"])
    assert "".join(piece.text for piece in pieces) == "one 春 two "
    assert pieces[-1].finish_reason == "stop"
    spelled = b"".join(token.data for piece in pieces for token in piece.logprobs).decode()
    assert "one 春 two ".startswith(spelled)
    assert spelled.startswith("one 春 two")


def test_a_stop_string_ends_a_text_in_the_engine_and_leaves_the_others(encoder: TextEncoder) -> None:
    model = model_of(SMALL)
    sampling = Sampling(max_tokens=40, temperature=0.0, end_ids=frozenset())

    def write(stops: list[str]) -> tuple[str, str, int]:
        writer = Writer(Engine(model, 2, 64, encoder.vocab_size), encoder)
        first, second = writer.add([0, 5], sampling, stops), writer.add([0, 9], sampling)
        texts, steps = {first: "", second: ""}, 0
        while not writer.engine.is_idle:
            for text, piece in writer.step():
                texts[text] += piece.text
                steps += text is first
        return texts[first], texts[second], steps

    plain, other, steps = write([])
    assert steps == 40
    stop = plain[20:23]
    stopped, other_again, steps = write([stop])
    assert stopped == plain[: plain.index(stop)]
    assert other_again == other
    assert steps < 40
