"""An answer is taken apart as the chat template put it together, however its text comes."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainer.inference.serving.answers import Text, Usage
from trainer.inference.serving.desk import ServedModel
from trainer.inference.serving.forms import ChatForm
from trainer.inference.serving.requests import ChatRequest
from trainer.inference.speech import Called, Part, Said, Speech, Thought, parts_of
from trainer.inference.writing import Piece
from trainer.tokens.chat import Message, render_chat

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Wien"}}\n</tool_call>'
ANSWER = f"<think>\nWhere is it?\n</think>\n\nLet me see.\n{CALL}\n{CALL.replace('Wien', 'Rom')}"


def joined(parts: list[Part]) -> tuple[str, str, list[tuple[int, str, str]]]:
    """Thoughts, words and calls of an answer."""
    return (
        "".join(part.text for part in parts if isinstance(part, Thought)),
        "".join(part.text for part in parts if isinstance(part, Said)),
        [(part.number, part.name, part.arguments) for part in parts if isinstance(part, Called)],
    )


def cut(text: str, places: list[int], *, calls: bool) -> list[Part]:
    speech = Speech(calls=calls)
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    parts = [part for start, end in pairwise(borders) for part in speech.feed(text[start:end])]
    return [*parts, *speech.feed("", last=True)]


def test_thought_words_and_calls_come_apart() -> None:
    calls = [(0, "weather", '{"city": "Wien"}'), (1, "weather", '{"city": "Rom"}')]
    assert joined(list(parts_of(ANSWER, calls=True))) == ("Where is it?", "Let me see.", calls)
    thought, said, none = joined(list(parts_of(ANSWER, calls=False)))
    assert (thought, none) == ("Where is it?", [])
    assert said == ANSWER.partition("</think>\n\n")[2]  # without functions their marks are text


def test_what_is_no_call_and_what_never_ends_stays_text() -> None:
    for text in (
        "<tool_call>\nnot json\n</tool_call>",
        '<tool_call>\n{"name": 1, "arguments": {}}\n</tool_call>',
        "<tool_call>\n{",
    ):
        assert joined(list(parts_of(f"So: {text}", calls=True))) == ("", f"So:{text}", [])
    assert joined(list(parts_of("<think>\nhm", calls=True))) == ("hm", "", [])
    assert joined(list(parts_of("  a < b <thin", calls=True))) == ("", "  a < b <thin", [])


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", CALL, "\n", " a", "<t", "b "]), max_size=9),
    st.lists(st.integers(0, 1000), max_size=12),
    st.booleans(),
)
def test_parts_do_not_depend_on_where_the_text_is_cut(pieces: list[str], places: list[int], calls: bool) -> None:
    text = "".join(pieces)
    assert joined(cut(text, places, calls=calls)) == joined(list(parts_of(text, calls=calls)))


@given(st.text("ab \n{}", max_size=12), st.text("ab \n{}", max_size=12), st.integers(0, 2))
def test_an_answer_that_was_rendered_is_read_back(reasoning: str, content: str, num_calls: int) -> None:
    calls = [{"name": f"f{number}", "arguments": {"x": content}} for number in range(num_calls)]
    message = Message.model_validate(
        {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": calls or None}
    )
    segments = render_chat([Message(role="user", content="?"), message]).segments
    text = "".join(segment.text for segment in segments if segment.trained).removesuffix("<|im_end|>")
    wanted = [(number, f"f{number}", json.dumps({"x": content})) for number in range(num_calls)]
    assert joined(list(parts_of(text, calls=True))) == (reasoning.strip(), content.strip(), wanted)


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "?"}], **fields})


def test_the_api_tells_calls_and_thoughts_apart_whole_and_in_a_stream() -> None:
    model, form = ServedModel("m", "f", 0, 64, 512, 1000), ChatForm()
    text = Text()
    text.text, text.finish_reason = ANSWER, "stop"
    usage = Usage.of(1, 2)
    (choice,) = form.whole(request(tools=TOOLS), model, [text], usage).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.reasoning_content == "Where is it?"
    assert choice.message.content == "Let me see."
    told = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    assert told == [("weather", '{"city": "Wien"}'), ("weather", '{"city": "Rom"}')]
    chunks = form.chunks(request(tools=TOOLS, stream=True), model)
    deltas, reasons = [], []
    for place, char in enumerate(ANSWER):
        piece = Piece(char, (), place + 1, "stop" if place == len(ANSWER) - 1 else None)
        for chunk in chunks.of(0, place, piece):
            deltas.append(chunk.choices[0].delta)  # type: ignore[attr-defined]
            reasons.append(chunk.choices[0].finish_reason)  # type: ignore[attr-defined]
    assert "".join(delta.reasoning_content or "" for delta in deltas) == "Where is it?"
    assert "".join(delta.content or "" for delta in deltas) == "Let me see."
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.function.arguments) for call in calls] == [(0, '{"city": "Wien"}'), (1, '{"city": "Rom"}')]
    assert len({call.id for call in calls}) == 2
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]


def test_an_answer_without_calls_and_thoughts_has_no_such_fields() -> None:
    text = Text()
    text.text, text.finish_reason = "Yes.", "stop"
    body = ChatForm().whole(request(), ServedModel("m", "f", 0, 64, 512, 1000), [text], Usage.of(1, 2))
    assert body.model_dump(exclude_unset=True)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
    }
