"""Conversations, pairs and prompts as rows: whole, masked, packed, split by question."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.data import SMALL, chat_of_box, load_config_values
from trainer.config_section import canonical_json
from trainer.config_tuning import ChatSection
from trainer.errors import CorpusError, ShardError
from trainer.tokens.chat_encoding import encode_chats
from trainer.tokens.chat_files import ChatLine, Conversation, Pair, encode_conversation, encode_pair, read_chat_file
from trainer.tokens.shards import IGNORED, TokenRows, TokensManifest, read_manifest
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder

ROW_TOKENS = SMALL["chat"]["row_tokens"]

Taught = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of a conversation, and its targets with IGNORED for those that do not count."""


def rows_of(folder: Path, split: str) -> TokenRows:
    return TokenRows(folder, read_manifest(folder), split)  # type: ignore[arg-type]


def pieces_of(rows: TokenRows) -> list[list[Taught]]:
    """Each row's conversations, read back."""
    inputs, targets, documents = rows.read(np.arange(len(rows)))
    result = []
    for row in range(len(rows)):
        result.append([])
        for number in range(1, documents[row].max() + 1):
            at = documents[row] == number
            result[-1].append((tuple(inputs[row][at].tolist()), tuple(targets[row][at].tolist())))
        assert (targets[row][documents[row] == 0] == IGNORED).all()
    return result


def wanted(data: Path, source: str) -> list[list[Taught]]:
    encoder = TextEncoder(data / "tokenizer" / TOKENIZER_FILE)
    result = []
    for item in read_chat_file(source, data / "raw-chat" / f"{source}.jsonl"):
        assert isinstance(item, ChatLine)
        chats = encode_pair(item.row, encoder) if isinstance(item.row, Pair) else (encode_conversation(item.row, encoder),)
        taught = []
        for chat in chats:
            targets = [token if counts else IGNORED for token, counts in zip(chat.ids, chat.mask, strict=True)]
            taught.append((tuple(chat.ids[:-1]), tuple(targets[1:])))
        if sum(len(ids) for ids, _ in taught) <= ROW_TOKENS:
            result.append(taught)
    return result


def test_rows_of_conversations_hold_each_one_whole_with_its_answers_as_targets(small_data: Path) -> None:
    found = [
        piece for split in ("train", "held_out") for row in pieces_of(rows_of(small_data / "chat", split)) for piece in row
    ]
    assert sorted(found) == sorted(taught for (taught,) in wanted(small_data, "dialogs"))
    assert len(found) > 200


def test_both_answers_of_a_pair_stand_one_after_another_in_one_row(small_data: Path) -> None:
    found = []
    for split in ("train", "held_out"):
        for row in pieces_of(rows_of(small_data / "pairs", split)):
            assert len(row) % 2 == 0
            found += [row[place : place + 2] for place in range(0, len(row), 2)]
    assert sorted(found) == sorted(wanted(small_data, "sister") + wanted(small_data, "order"))


def test_the_manifest_counts_targets_and_what_was_left_out(small_data: Path) -> None:
    manifest = read_manifest(small_data / "chat")
    counts = manifest.counts["dialogs"]
    assert counts["read"] == 300 == counts["kept"] + counts["held_out"] + counts["duplicate"] + counts["too_long"]
    assert counts["held_out"] > 10
    targets = sum((rows_of(small_data / "chat", "train").read(np.array([row]))[1] != IGNORED).sum() for row in range(5))
    assert 0 < targets < 5 * ROW_TOKENS
    all_targets = rows_of(small_data / "chat", "train").read(np.arange(manifest.splits["train"].rows))[1]
    assert (all_targets != IGNORED).sum() == manifest.splits["train"].tokens


def encode(data: Path, section: ChatSection, folder: Path, row_tokens: int = ROW_TOKENS) -> tuple[TokensManifest, bool]:
    vocab_size = load_config_values(SMALL).model.vocab_size
    return encode_chats(section, row_tokens, "conversations", vocab_size, data / "tokenizer", folder)


def test_the_same_rows_are_found_again_and_other_ones_refused(small_data: Path, tmp_path: Path) -> None:
    section = chat_of_box(tmp_path)
    first, made = encode(small_data, section, tmp_path / "chat")
    assert made
    assert read_manifest(small_data / "chat") == first, "the same input gives the same bytes"
    assert encode(small_data, section, tmp_path / "chat") == (first, False)
    with pytest.raises(ShardError, match="rows of 160 tokens, but the config says 64"):
        encode(small_data, section, tmp_path / "chat", 64)
    file = tmp_path / "raw-chat" / "dialogs.jsonl"
    file.write_text(file.read_text() * 2)
    with pytest.raises(ShardError, match="made from other sources"):
        encode(small_data, section, tmp_path / "chat")
    file.unlink()
    assert encode(small_data, section, tmp_path / "chat") == (first, False), "raw files may go once they are encoded"


def test_an_edit_that_keeps_the_size_is_refused_and_rows_that_know_sizes_alone_are_found(
    small_data: Path, tmp_path: Path
) -> None:
    section = chat_of_box(tmp_path)
    first, _ = encode(small_data, section, tmp_path / "chat")
    file = tmp_path / "raw-chat" / "dialogs.jsonl"
    text = file.read_text()
    older = tmp_path / "older"
    shutil.copytree(tmp_path / "chat", older)
    settings = {"held_out": section.held_out, "files": [["dialogs", "dialogs.jsonl", file.stat().st_size]]}
    origin = hashlib.sha256(canonical_json(settings)).hexdigest()
    (older / "manifest.json").write_text((older / "manifest.json").read_text().replace(first.origin_sha256, origin))
    assert encode(small_data, section, older)[1] is False
    file.write_text(text.replace("mean", "MEAN", 1))
    with pytest.raises(ShardError, match="made from other sources"):
        encode(small_data, section, tmp_path / "chat")


def test_a_question_is_held_out_with_all_its_answers(small_data: Path, tmp_path: Path) -> None:
    section = chat_of_box(tmp_path)
    file = tmp_path / "raw-chat" / "dialogs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()[:60]]
    for line in list(lines):
        question, _ = line["conversations"]
        lines += [{"conversations": [question, {"role": "assistant", "content": answer}]} for answer in ("Yes.", "No.")]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    encode(small_data, section, tmp_path / "chat")
    splits = [{ids[: ids.index(2)] for row in pieces_of(rows_of(tmp_path / "chat", split)) for ids, _ in row}
              for split in ("train", "held_out")]  # fmt: skip
    assert splits[1]
    assert not splits[0] & splits[1]


def test_too_many_bad_lines_end_with_the_first_one_named(small_data: Path, tmp_path: Path) -> None:
    section = chat_of_box(tmp_path).model_copy(update={"max_bad_lines": 1})
    file = tmp_path / "raw-chat" / "dialogs.jsonl"
    file.write_text('{"conversations": [{"role": "x"}]}\n' * 3)
    with pytest.raises(CorpusError, match=r"chat\.max_bad_lines 1 is passed; the first bad line is .*dialogs\.jsonl:1: conv"):
        encode(small_data, section, tmp_path / "chat")
    assert not list(tmp_path.glob("chat*"))


def test_a_conversation_row_teaches_something() -> None:
    with pytest.raises(ValueError, match="holds no answer"):
        Conversation.model_validate({"conversations": [{"role": "user", "content": "x"}, {"role": "assistant"}]})


def test_prompts_have_a_row_each_and_the_answer_that_is_left_out_behind_them(small_data: Path, tmp_path: Path) -> None:
    ask, answer = {"role": "user", "content": "What is an elk?"}, {"role": "assistant", "content": "A large deer."}
    lines = [
        [ask, answer],
        [{"role": "user", "content": "And a river?"}],  # nothing to leave out
        [ask, answer, {"role": "user", "content": "Where?"}, {"role": "assistant", "content": ""}],  # MiniMind's rlaif
        [answer],  # asks nothing
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"conversations": line}) + "\n" for line in lines), encoding="utf-8")
    section = ChatSection.model_validate({"prompts": [{"name": "a", "path": str(file)}], "held_out": 0.001})
    tokenizer = small_data / "tokenizer"
    manifest, _ = encode_chats(section, ROW_TOKENS, "prompts", 512, tokenizer, tmp_path / "prompts")
    assert manifest.counts["a"] == {"read": 3, "kept": 3, "held_out": 0, "duplicate": 0, "too_long": 0, "bad": 1}
    rows = pieces_of(rows_of(tmp_path / "prompts", "train"))
    assert len(rows) == 3
    encoder = TextEncoder(tokenizer / TOKENIZER_FILE)
    left_out = set()
    for ((_, targets),) in rows:
        left_out.add(encoder.decode([each for each in targets if each != IGNORED]))
    assert left_out == {"A large deer.<|im_end|>", "<|im_end|>"}
