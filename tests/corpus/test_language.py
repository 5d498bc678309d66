"""Mojibake is put right and nothing else; languages are found without a network."""

import socket
from typing import Any

import pytest

from tests.corpus.box import manuals, poems
from trainer.config_steps import LanguageSection
from trainer.corpus.steps import language
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.language import Identify, identify
from trainer.corpus.steps.repair import Repair, repaired

SENTENCES = {
    "en": "The permutation is computed element by element, so that no library may change it between two versions.",
    "de": "Die Prüfung der Eingaben geschieht vor dem Lauf, damit später niemand mehr nachsehen muss.",
    "fr": "Le fichier est écrit sous un nom provisoire, puis renommé, de sorte qu'il est entier ou absent.",
    "ru": "Каждый шаг записывается в журнал, поэтому после сбоя работа продолжается с последнего места.",
    "zh": "清洗后的语料按文档的散列值划分为训练集和验证集，因此文档永远不会移动。",
    "ja": "清書された文書は、ハッシュ値によって学習用と検証用に分けられるので、移動することはありません。",
    "ko": "정리된 말뭉치는 문서의 해시값에 따라 학습용과 검증용으로 나뉘므로 문서가 옮겨지지 않습니다.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_enough_for_its_language(code: str) -> None:
    found = identify(SENTENCES[code])
    assert found.code == code
    assert found.confidence > 0.65


def test_every_poem_is_chinese_and_every_manual_english() -> None:
    assert {identify(poem).code for poem in poems()[::20]} == {"zh"}
    assert {identify(page).code for page in manuals()[::5]} == {"en"}


def test_classical_text_in_old_characters_is_chinese_and_not_japanese() -> None:
    assert identify("子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？」").code == "zh"


def test_no_letters_are_no_language() -> None:
    assert identify("12345 --- !!! 。。。") == language.Language("und", 0.0)
    assert identify("") == language.Language("und", 0.0)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    language._model.cache_clear()
    assert identify(SENTENCES["de"]).code == "de"


def test_documents_in_other_languages_are_dropped_with_what_they_are_in() -> None:
    step = Identify(LanguageSection(identify=True, keep=("zh", "en")))
    assert step(Draft(SENTENCES["zh"], "en")) == Draft(SENTENCES["zh"], "zh")
    fate = step(Draft(SENTENCES["fr"], "en"))
    assert isinstance(fate, Dropped)
    assert fate.rule == "language.other"
    assert fate.reason.startswith("language is fr with confidence")
    assert fate.reason.endswith("kept are zh, en")


def test_what_is_unsure_is_unknown_and_stays_where_all_are_kept() -> None:
    assert Identify(LanguageSection(identify=True, min_confidence=1.0))(Draft("Hello there", "en")) == Draft(
        "Hello there", "und"
    )


@pytest.mark.parametrize("text", ["schön — “quoted” naïve café", "你好，世界。", "Привет, мир", "£5 é à ü"])
def test_mojibake_is_put_right(text: str) -> None:
    damaged = text.encode("utf-8").decode("cp1252", errors="replace")
    if "\ufffd" in damaged:  # bytes that Windows-1252 has no character for; browsers take them for control characters
        damaged = "".join(
            bytes([byte]).decode("cp1252") if byte not in b"\x81\x8d\x8f\x90\x9d" else chr(byte) for byte in text.encode()
        )
    assert repaired(f"first line\n{damaged}\nlast line") == (f"first line\n{text}\nlast line", 1)


def test_good_text_is_left_as_it_is() -> None:
    for text in (*poems()[::50], *manuals()[::10]):
        assert repaired(text) == (text, 0)
    text = "“Quotes” and ﬁne ligatures, ＡＢＣ　full width；\n    code = 'x'  # indented\n\tTab &amp; entity"
    assert repaired(text) == (text, 0)


def test_the_step_counts_the_lines_that_it_changed() -> None:
    document = Draft("clean", "en")
    assert Repair()(document) is document
    assert Repair()(Draft("cafÃ©\nok\nnaÃ¯ve", "en")) == Draft("café\nok\nnaïve", "en", (("repair.mojibake", 2),))
