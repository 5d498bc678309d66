"""The tokenizer: deterministic, lossless, MiniMind's ids, the same ids by tiktoken and by Hugging Face."""

import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from trainer.config import CorpusSection, SourceSection
from trainer.corpus.reading import Document, read_source
from trainer.errors import TokenizerError
from trainer.tokens.tokenizer import (
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    TextEncoder,
    check_vocabulary,
    readable,
    save_tokenizer,
    train_tokenizer,
)


def box_texts(count: int) -> list[str]:
    texts = []
    for name in ("python-docs", "wordnet-glosses", "chinese-poetry"):
        source = SourceSection(name=name, path=f"box:{name}.jsonl.zst")
        documents = islice(read_source(source, CorpusSection()), count)
        texts += [document.text[:20_000] for document in documents if isinstance(document, Document)]
    return texts


TEXTS = box_texts(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, 1500, 2), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder(folder / TOKENIZER_FILE)


def test_trained_twice_it_is_byte_identical(folder: Path, tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(iter(TEXTS), 1500, 2), tmp_path)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_special_tokens_have_minimind_s_ids(encoder: TextEncoder) -> None:
    assert len(SPECIAL_TOKENS) == 36
    names = [encoder.decode_bytes([number]).decode() for number in range(36)]
    assert names == list(SPECIAL_TOKENS)
    assert names[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert names[21:27] == ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(encoder: TextEncoder, text: str) -> None:
    assert encoder.decode(encoder.encode(text)) == text


def test_every_byte_has_its_own_id_so_any_bytes_can_be_spelled(encoder: TextEncoder) -> None:
    by_piece = {encoder.decode_bytes([number]): number for number in range(36, 36 + 256)}
    assert set(by_piece) == {bytes([byte]) for byte in range(256)}
    data = random.Random(0).randbytes(1000)
    assert encoder.decode_bytes([by_piece[bytes([byte])] for byte in data]) == data


def fuzz_texts(count: int) -> list[str]:
    """Slices of real text, random Unicode, white space, CJK, emoji, things that look like special tokens."""
    source = random.Random(1)
    pieces = [
        " ",
        "\n",
        "\t",
        "\u3000",
        "\r\n",
        "  ",
        "'s",
        "'LL",
        "12",
        "3.14",
        "，",
        "。",
        "🏖️",
        "👩‍👩‍👧",
        "é",
        "ß",
        *SPECIAL_TOKENS[:4],
    ]
    texts = []
    for number in range(count):
        kind = number % 4
        if kind == 0:
            text = source.choice(TEXTS)
            start = source.randrange(len(text))
            texts.append(text[start : start + source.randrange(1, 200)])
        elif kind == 1:
            points = [source.choice((0x7F, 0x2FF, 0x9FFF, 0xFFFF, 0x10FFFF)) for _ in range(source.randrange(1, 40))]
            chars = [chr(source.randrange(1, limit)) for limit in points]
            texts.append("".join(char for char in chars if not 0xD800 <= ord(char) <= 0xDFFF))
        elif kind == 2:
            texts.append("".join(chr(source.randrange(0x4E00, 0x9FFF)) for _ in range(source.randrange(1, 60))))
        else:
            texts.append("".join(source.choice(pieces) for _ in range(source.randrange(1, 30))))
    return texts


def test_tiktoken_gives_the_ids_of_tokenizers(folder: Path, encoder: TextEncoder) -> None:
    slow = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    slow.encode_special_tokens = True  # what looks like a special token is text, as in a corpus
    texts = fuzz_texts(4000) + TEXTS
    assert sum(len(text.encode()) for text in texts) > 500_000
    for text, encoding in zip(texts, slow.encode_batch(texts, add_special_tokens=False), strict=True):
        assert encoder.encode(text) == encoding.ids, text
        assert encoder.decode(encoding.ids) == text


def test_hugging_face_loads_the_folder_and_gives_the_same_ids(folder: Path, encoder: TextEncoder) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in TEXTS[::10]:
        assert loaded(text)["input_ids"] == encoder.encode(text)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 0)
    assert loaded.convert_tokens_to_ids("<think>") == SPECIAL_TOKENS.index("<think>")


def test_bytes_per_id_add_up_to_the_text(encoder: TextEncoder) -> None:
    lengths = encoder.bytes_per_id()
    for text in TEXTS[::7]:
        assert sum(lengths[token] for token in encoder.encode(text)) == len(text.encode())
    assert lengths[:36] == [0] * 36


def test_a_small_corpus_gives_a_small_vocabulary(tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(["ab ab ab"], 6400, 2), tmp_path)
    encoder = TextEncoder(tmp_path / TOKENIZER_FILE)
    assert 36 + 256 < encoder.vocab_size < 310
    assert encoder.decode(encoder.encode("什么 ab")) == "什么 ab"


def test_errors_name_the_file_and_the_way_out(folder: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no tokenizer here; run `trainer tokenizer` first"):
        TextEncoder(tmp_path / "tokenizer.json")
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes((folder / TOKENIZER_FILE).read_bytes()[:1000])
    with pytest.raises(TokenizerError, match=r"damaged\.json: damaged"):
        TextEncoder(damaged)
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json"):
        TextEncoder(other)
    pieces = Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    pieces.pre_tokenizer = train_tokenizer(["a"], 300, 2).pre_tokenizer
    pieces.save(str(other))
    with pytest.raises(TokenizerError, match="is WordPiece over ByteLevel, but only byte-level BPE is read here"):
        TextEncoder(other)
    with pytest.raises(TokenizerError, match=r"has 1500 ids, but model\.vocab_size is 1000; set model\.vocab_size to 1500"):
        check_vocabulary(encoder, 1000)


def test_pieces_are_shown_readably() -> None:
    assert readable(b" the") == "␣the"
    assert readable("月".encode()) == "月"
    assert readable("月".encode()[:2]) == "<E6 9C>"
    assert readable(b"a\n\tb\x00") == "a⏎⇥b<00>"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
        lambda content: content["pre_tokenizer"].update(use_regex=False),
        lambda content: content.update(normalizer={"type": "Lowercase"}),
        lambda content: content["model"]["vocab"].update({"中": len(content["model"]["vocab"])}),
    ],
    ids=["prefix space", "other split", "normalizer", "piece that is not bytes"],
)
def test_a_tokenizer_that_tiktoken_would_read_otherwise_is_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    content = json.loads(train_tokenizer(["hello world, the quick brown fox"] * 9, 320, 2).to_str())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        TextEncoder(tmp_path / "tokenizer.json")
