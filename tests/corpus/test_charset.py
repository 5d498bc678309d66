"""Bytes become text in the encoding that they are in, or a reason."""

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.box import manuals, poems
from trainer.corpus.steps.charset import Decoded, decode
from trainer.corpus.steps.draft import Dropped

SOME_POEMS = random.Random(3).sample(poems(), 400)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "big5hkscs"])
def test_every_poem_is_read_in_its_own_encoding(encoding: str) -> None:
    read = 0
    for poem in SOME_POEMS:
        try:
            data = poem.encode(encoding)
        except UnicodeEncodeError:
            continue  # Big5 has no simplified characters
        decoded = decode(data)
        assert isinstance(decoded, Decoded), (decoded, poem)
        assert decoded.text == poem, decoded.encoding
        read += 1
    assert read >= 80


def test_western_text_is_the_last_resort() -> None:
    text = manuals()[0][:2000] + " — naïve café “quoted” £5"
    assert decode(text.encode("cp1252")) == Decoded(text, "cp1252")


def test_a_declaration_is_believed_where_it_fits() -> None:
    page = '<html><head><meta charset="Shift_JIS"></head><body>これは日本語の文章です。</body></html>'
    assert decode(page.encode("cp932")) == Decoded(page, "cp932")
    assert decode(page.encode("utf-8")) == Decoded(page, "utf-8"), "declared otherwise, and still UTF-8"
    korean = "한국어로 쓴 글입니다."
    assert decode(korean.encode("cp949"), declared="euc-kr") == Decoded(korean, "cp949")
    chinese = f'<meta http-equiv="Content-Type" content="text/html; charset=big5">{SOME_POEMS[0]}'
    assert decode(chinese.encode("gb18030")) == Decoded(chinese, "gb18030"), "a template's declaration"


def test_a_character_cut_at_the_end_and_a_damaged_one_do_not_cost_the_document() -> None:
    text = "床前明月光，疑是地上霜。" * 300
    assert decode(text.encode()[:-1]) == Decoded(text[:-1], "utf-8")
    assert decode(text.encode("gb18030")[:-1]) == Decoded(text[:-1], "gb18030")
    data = bytearray(text.encode())
    data[301] = 0xFF
    damaged = decode(bytes(data))
    assert isinstance(damaged, Decoded)
    assert damaged.encoding == "utf-8"
    assert 1 <= damaged.damaged <= 3


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        b"%PDF-1.7\n%...",
        gzip.compress(b"text", mtime=0),
        b"\x7fELF" + b"\0" * 99,
        bytes(999),
        b"\x01\x02" * 99,
    ],
)
def test_binary_content_is_a_reason(data: bytes) -> None:
    fate = decode(data)
    assert isinstance(fate, Dropped)
    assert fate.rule == "charset.binary"


def test_random_bytes_are_never_taken_for_text() -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert isinstance(decode(rng.randbytes(400)), Dropped)


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_no_bytes_crash_it(data: bytes) -> None:
    assert isinstance(decode(data), Decoded | Dropped)
