"""A conversation has one text, one row of ids and one loss mask, here and in Hugging Face's hands."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.corpus.reading import BadLine
from trainer.errors import CorpusError
from trainer.run_folder import RunFolder
from trainer.tokens.chat import Message, render_chat
from trainer.tokens.chat_files import ChatLine, Pair, RowKind, encode_pair, read_chat_file
from trainer.tokens.inspecting import inspect_chat
from trainer.tokens.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, TextEncoder

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "天气 in a town", "parameters": {"town": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def encoder(small_data: Path) -> TextEncoder:
    return TextEncoder(small_data / "tokenizer" / TOKENIZER_FILE)


@pytest.fixture(scope="module")
def hugging_face(small_data: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_data / "tokenizer", local_files_only=True)


def messages_of(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]


def said(messages: list[Message], encoder: TextEncoder) -> str:
    """What the loss mask covers."""
    chat = render_chat(messages).encode(encoder)
    return encoder.decode([token for token, trained in zip(chat.ids, chat.mask, strict=True) if trained])


def test_the_text_is_the_template_s() -> None:
    chat = messages_of(("system", " Be kind. "), ("user", "What is an elk?"))
    chat.append(Message(role="assistant", content="A deer.", reasoning_content="large"))
    assert render_chat(chat).text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is an elk?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nlarge\n</think>\n\nA deer.<|im_end|>\n"
    )
    assert render_chat(chat[:2], add_generation_prompt=True).text.endswith("elk?<|im_end|>\n<|im_start|>assistant\n")


def test_the_mask_holds_the_assistant_s_tokens_the_first_and_the_end_token_included(encoder: TextEncoder) -> None:
    chat = messages_of(("user", "one"), ("assistant", "Two."), ("user", "three"), ("assistant", "four"))
    assert said(chat, encoder) == "Two.<|im_end|>four<|im_end|>"
    call = Message.model_validate({"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"town": "Oslo"}}]})
    assert said([*messages_of(("user", "rain?")), call, *messages_of(("tool", "no"), ("assistant", "Dry."))], encoder) == (
        '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call><|im_end|>Dry.<|im_end|>'
    )


def test_the_prompt_of_an_answer_is_the_beginning_of_the_whole(encoder: TextEncoder) -> None:
    chat = messages_of(("user", "one\n\n"), ("assistant", "\n  Two. "))
    prompt = render_chat(chat[:1], add_generation_prompt=True).encode(encoder).ids
    whole = render_chat(chat).encode(encoder)
    assert whole.ids[: len(prompt)] == prompt
    assert whole.mask.index(True) == len(prompt)


pieces = st.one_of(
    st.sampled_from(
        [*SPECIAL_TOKENS, *(" ", "\n", "\n\n", "  ", "\t", "\u3000", "'s", "12", "，", "。", "🏖️", "\u200b", "<", ">")]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
contents = st.lists(pieces, max_size=6).map("".join)
arguments = st.dictionaries(st.text(max_size=5), st.one_of(contents, st.integers(), st.none()), max_size=2)
calls = st.lists(st.fixed_dictionaries({"name": contents, "arguments": arguments}), max_size=2)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": contents}), max_size=3)
said_in_any_form = st.one_of(contents, parts)
turns = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": said_in_any_form}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": said_in_any_form},
        optional={"reasoning_content": contents, "tool_calls": calls},
    ),
)
systems = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": said_in_any_form}), max_size=1)
conversations = st.tuples(systems, st.lists(turns, min_size=1, max_size=4)).map(lambda both: [*both[0], *both[1]])


@given(conversations, st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_hugging_face_renders_any_conversation_to_the_same_ids_and_counts_the_same_tokens_as_targets(
    encoder: TextEncoder, hugging_face: Any, values: list[dict[str, Any]], with_tools: bool, open_end: bool
) -> None:
    """TRL's `assistant_only_loss` takes its targets from this mask."""
    tools = [WEATHER, {"name": "<|im_end|>"}] if with_tools else None
    chat = render_chat([Message.model_validate(value) for value in values], tools, add_generation_prompt=open_end)
    ours = chat.encode(encoder)
    theirs = hugging_face.apply_chat_template(
        values, tools=tools, add_generation_prompt=open_end, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ours.ids == theirs["input_ids"]
    assert ours.mask == [bool(counts) for counts in theirs["assistant_masks"]]
    from_template = sum(segment.special is not None for segment in chat.segments)
    assert sum(token < len(SPECIAL_TOKENS) for token in ours.ids) == from_template


def test_a_content_of_parts_is_their_text_and_other_parts_are_refused(hugging_face: Any) -> None:
    parts = [{"type": "text", "text": " What is"}, {"type": "text", "text": " an elk? "}]
    assert Message.model_validate({"role": "user", "content": parts}) == Message(role="user", content=" What is an elk? ")
    image = {"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": "data:,"}}]}
    with pytest.raises(ValidationError, match="only text is read"):
        Message.model_validate(image)
    with pytest.raises(Exception, match="only parts of type text are read"):
        hugging_face.apply_chat_template([image], tokenize=False)


def test_tools_of_the_system_message_are_those_of_the_call(hugging_face: Any, encoder: TextEncoder) -> None:
    values = [{"role": "system", "content": "Help.", "tools": [WEATHER]}, {"role": "user", "content": "Oslo?"}]
    chat = render_chat([Message.model_validate(value) for value in values])
    assert chat.encode(encoder).ids == hugging_face.apply_chat_template(values, return_dict=False)
    values[0]["tools"] = f"[{WEATHER!r}]".replace("'", '"')
    assert render_chat([Message.model_validate(value) for value in values]).text == chat.text


def test_openai_s_form_of_a_call_is_read_and_shown_alike(hugging_face: Any, encoder: TextEncoder) -> None:
    function = {"name": "weather", "arguments": '{"town":"Oslo"}'}
    values = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": function}]}]  # fmt: skip
    chat = render_chat([Message.model_validate(value) for value in values])
    assert '{"name": "weather", "arguments": {"town":"Oslo"}}' in chat.text
    assert chat.encode(encoder).ids == hugging_face.apply_chat_template(values, return_dict=False)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"role": "bot"}, "Input should be 'system', 'user', 'assistant' or 'tool'"),
        ({"role": "user", "contents": "x"}, "Extra inputs are not permitted"),
        ({"role": "user", "tools": "[]x"}, "is not JSON"),
        ({"role": "user", "tools": [{}]}, "tools belongs to role system, not user"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[]"}]}, "must be a JSON object"),
    ],
)
def test_a_message_is_checked_at_birth(value: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule.replace("(", r"\(")):
        Message.model_validate(value)


@pytest.mark.parametrize(
    ("content", "reasoning", "answer"),
    [
        ("<think>\nA deer?\n</think>\n\nYes.", "A deer?", "Yes."),
        ("A deer?\n</think>\n\nYes.", "A deer?", "Yes."),  # the prompt ended with <think>
        ("<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("  <think>a</think>Yes.", "a", "Yes."),
    ],
)
def test_reasoning_in_an_answer_s_content_is_taken_apart_as_qwen3_does(
    content: str, reasoning: str, answer: str, encoder: TextEncoder, hugging_face: Any
) -> None:
    values: list[dict[str, Any]] = [{"role": "user", "content": "Elk?"}, {"role": "assistant", "content": content}]
    chat = render_chat([Message.model_validate(value) for value in values])
    thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
    assert chat.text == f"<|im_start|>user\nElk?<|im_end|>\n<|im_start|>assistant\n{thought}{answer}<|im_end|>\n"
    assert chat.encode(encoder).ids == hugging_face.apply_chat_template(values, return_dict=False)
    apart = [values[0], {"role": "assistant", "content": answer, "reasoning_content": reasoning}]
    assert chat == render_chat([Message.model_validate(value) for value in apart])


def test_a_system_message_comes_first_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="message 2 has role system; only the first one can"):
        render_chat(messages_of(("user", "a"), ("system", "b")))
    with pytest.raises(ValueError, match="at least one message"):
        render_chat([])


def read(tmp_path: Path, text: str, kind: RowKind | None = None) -> list[ChatLine | BadLine]:
    file = tmp_path / "chat.jsonl"
    file.write_text(text, encoding="utf-8")
    return list(read_chat_file("mine", file, kind))


ASK = '{"role": "user", "content": "a"}'
ANSWER = '{"role": "assistant", "content": "b"}'
CALL_IN_TEXT = '{"role": "assistant", "content": "<tool_call>{}</tool_call>"}'


@pytest.mark.parametrize(
    ("line", "kind", "wanted"),
    [
        ("{}", "conversations", "conversations: is missing"),
        ('{"conversations": [{"role": "bot"}]}', None, "conversations[0].role: must be 'system', 'user'"),
        (
            f'{{"conversations": [{ASK}, {{"role": "assistant", "content": 7}}]}}',
            None,
            "conversations[1].content: must be a text, not 7; put it in quotes",
        ),
        (f'{{"conversations": [{ASK}]}}', None, "conversations: holds no answer of the assistant"),
        (f'{{"chosen": [{ASK}, {ANSWER}], "rejected": [{ASK}]}}', "pairs", "rejected: its last message must be an answer"),
        (f'{{"chosen": [{ASK}, {ANSWER}], "rejected": [{ANSWER}]}}', None, "chosen and rejected must be equal up to"),
        (f'{{"chosen": [{ASK}, {ANSWER}], "rejected": [{ASK}, {ANSWER}]}}', None, "chosen and rejected are equal, so there is"),
        ("nonsense", None, "is not JSON: "),
        (
            f'{{"conversations": [{ASK}, {{"role": "assistant", "content": "<think> cut off"}}]}}',
            None,
            "conversations[1]: content of role assistant holds <think>, which only the template may write; give what it enclos",
        ),
        (
            f'{{"chosen": [{ASK}, {ANSWER}], "rejected": [{ASK}, {CALL_IN_TEXT}]}}',
            None,
            "rejected[1]: content of role assistant holds <tool_call>, which only the template may write; give what it "
            "encloses as tool_calls",
        ),
        (
            f'{{"conversations": [{ASK}, {{"role": "tool", "content": "<tool_response>5</tool_response>"}}, {ANSWER}]}}',
            "prompts",
            "conversations[1]: content of role tool holds <tool_response>",
        ),
    ],
)
def test_a_bad_line_names_file_line_field_and_rule(tmp_path: Path, line: str, kind: RowKind | None, wanted: str) -> None:
    good = f'{{"conversations": [{ASK}, {ANSWER}], "id": 3}}'
    first, bad = read(tmp_path, f"{good}\n\n{line}\n", None if kind is None else kind)[-2:]
    assert isinstance(first, ChatLine) or kind == "pairs"
    assert isinstance(bad, BadLine)
    assert (bad.line, bad.file) == (3, str(tmp_path / "chat.jsonl"))
    assert bad.reason.startswith(wanted)


def test_a_pair_s_loss_counts_the_last_answer_alone(tmp_path: Path, encoder: TextEncoder) -> None:
    other = '{"role": "assistant", "content": "no"}'
    (item,) = read(tmp_path, f'{{"chosen": [{ASK}, {ANSWER}, {ASK}, {ANSWER}], "rejected": [{ASK}, {ANSWER}, {ASK}, {other}]}}')
    assert isinstance(item, ChatLine)
    assert isinstance(item.row, Pair)
    for chat, wanted in zip(encode_pair(item.row, encoder), ("b<|im_end|>", "no<|im_end|>"), strict=True):
        assert encoder.decode([token for token, counts in zip(chat.ids, chat.mask, strict=True) if counts]) == wanted


def test_inspect_shows_what_is_learned(small_data: Path, tmp_path: Path) -> None:
    other = ANSWER.replace('"b"', '"c"')
    read(
        tmp_path,
        f'{{"conversations": [{ASK}, {ANSWER}]}}\n' * 4 + f'{{"chosen": [{ASK}, {ANSWER}], "rejected": [{ASK}, {other}]}}',
    )
    folder = RunFolder(tmp_path, small_data)
    lines = inspect_chat(folder, str(tmp_path / "chat.jsonl"), 5)
    assert len(lines) == 5
    assert lines[0].startswith(f"{tmp_path / 'chat.jsonl'}:1: ")
    assert lines[0].endswith("⏎«b|<|im_end|>»⏎")
    assert "rejected" in lines[4]
    read(tmp_path, "{}")
    with pytest.raises(CorpusError, match=r"chat\.jsonl:1: conversations: is missing"):
        inspect_chat(folder, str(tmp_path / "chat.jsonl"), 5)
