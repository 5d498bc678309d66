"""Gopher's, C4's and FineWeb's rules drop what their papers describe and keep prose."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.box import box, manuals
from trainer.config_steps import C4Section, FineWebSection, GopherSection, QualitySection, RepetitionSection
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.judging import first_broken, repetition
from trainer.corpus.steps.quality_english import english_lines, judge_english

PROSE = """The permutation is a small network, computed element by element, so no array of that size is ever held in memory.
It depends on the seed and on the epoch alone, and that is what makes a resumed run take the same rows in the same order.

When a process is lost, the others stop after the same step, write the state that they have, and leave with a code of their own.
The agent then starts all of them again, and each one reads the newest checkpoint whose hashes match what the manifest says.

Nothing in a checkpoint depends on the number of processes. A run that was saved by eight may go on with three, or with one.
The rows that it takes are still the ones that it would have taken. This was tested by killing processes at random moments.

A reader who wants to know more should begin with the order of the rows, which is forty lines long and has no state at all."""

GOPHER = QualitySection(english="gopher")
FINEWEB = QualitySection(english="fineweb")


def rule_of(text: str, section: QualitySection = GOPHER) -> str | None:
    fate = judge_english(text, section)
    return fate.rule if fate else None


@pytest.mark.parametrize("preset", ["none", "gopher", "c4", "fineweb"])
def test_prose_passes_every_preset_unchanged(preset: Any) -> None:
    section = QualitySection(english=preset)
    text, removed = english_lines(PROSE, section)
    assert (text, dict(removed)) == (PROSE, {})
    assert judge_english(text, section) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short to learn anything from it.", "gopher.words"),
        ("a i o u x " * 40, "gopher.mean_word_length"),
        ("internationalization " * 60, "gopher.mean_word_length"),
        (PROSE.replace("the ", "# the # "), "gopher.symbols"),
        (
            "\n".join(f"- the item called {n} of that list is here to be looked through" for n in range(20)),
            "gopher.bullet_lines",
        ),
        ("\n".join(f"the beginning of number {n} is here and to be read..." for n in range(20)), "gopher.ellipsis_lines"),
        ("the 123 of 4567 and 891 to 2345 " * 20, "gopher.alphabetic_words"),
        ("colorless green ideas sleep furiously tonight " * 12, "gopher.stop_words"),
    ],
)
def test_each_of_gophers_rules_drops_what_it_is_for(text: str, rule: str) -> None:
    assert rule_of(text) == rule


@given(st.lists(st.sampled_from("abcde"), max_size=60), st.sampled_from([((2, 0.4), (9, 0.1)), ((4, 0.3),), ()]))
@settings(max_examples=300, deadline=None)
def test_looking_at_short_runs_first_hides_no_long_repetition(words: list[str], tops: Any) -> None:
    text = " ".join(words)
    repeats = ((3, 0.5), (4, 0.45), (5, 0.2), (7, 0.3))

    def broken(top: Any, repeat: Any) -> str | None:
        rules = off(RepetitionSection).model_copy(update={"max_top_ngrams": top, "max_duplicate_ngrams": repeat})
        fate = first_broken(repetition(text, words, rules, "r"))
        return fate.rule if fate else None

    one_by_one = [broken((top,), ()) for top in tops] + [broken((), (repeat,)) for repeat in repeats]
    assert broken(tops, repeats) == next(filter(None, one_by_one), None)


def test_a_reason_holds_the_value_and_its_threshold() -> None:
    assert judge_english("word " * 10, GOPHER) == Dropped("gopher.words", "number of words 10 is below 50")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n".join(["The same line of words stands here again and to no end."] * 8 + [PROSE]), "repetition.duplicate_lines"),
        ("\n\n".join([PROSE, *["A short paragraph."] * 4]), "repetition.duplicate_paragraphs"),
        (PROSE.replace("\n", " ") + " buy now" * 40, "repetition.top_2_gram"),
        (PROSE.replace("\n", " ") + PROSE.replace("\n", "  "), "repetition.duplicate_5_grams"),
    ],
)
def test_repetition_is_found_in_lines_paragraphs_and_words(text: str, rule: str) -> None:
    assert rule_of(text) == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE + "\nLorem ipsum dolor sit amet.", "c4.lorem_ipsum"),
        (PROSE + "\nif (x) { return; } is what it says.", "c4.curly_bracket"),
        ("One sentence of words. Another one is here.", "c4.sentences"),
    ],
)
def test_c4_drops_filler_code_and_stubs(text: str, rule: str) -> None:
    assert rule_of(text, QualitySection(english="c4")) == rule


def test_c4_removes_lines_and_counts_them_by_rule() -> None:
    lines = {
        "c4.terminal_punctuation": "Home | About | Contact us today",
        "c4.words_per_line": "Read more.",
        "c4.javascript": "Please enable JavaScript in your browser to see this page.",
        "c4.policy": "By going on you accept our Privacy Policy and more.",
        "c4.long_word": "x" * 1001 + " is one word.",
    }
    text, removed = english_lines("\n".join([*lines.values(), PROSE]), QualitySection(english="c4"))
    assert text == PROSE
    assert dict(removed) == dict.fromkeys(lines, 1)
    assert (
        english_lines("A fact.[12] It is known[citation needed] well.", QualitySection(english="c4"))[0]
        == "A fact. It is known well."
    )


def test_fineweb_leaves_lines_without_a_full_stop_and_judges_their_share() -> None:
    text = "A line of words without its full stop\n" + PROSE
    assert english_lines(text, FINEWEB)[0] == text
    listing = "\n".join(f"This is the entry number {n} that one has to be sold and the price of it {n * 7}" for n in range(30))
    assert rule_of(PROSE + "\n" + listing * 2, QualitySection(english="fineweb", repetition=off(RepetitionSection))) is not None
    only = QualitySection(english="fineweb", gopher=off(GopherSection), repetition=off(RepetitionSection), c4=off(C4Section))
    assert rule_of(listing, only) == "fineweb.punctuated_lines"
    assert rule_of("Yes.\nNo.\nWell then.\n" + PROSE[:120], only) == "fineweb.short_lines"


def off(section: type[Any]) -> Any:
    """Every rule of a section turned off."""
    values: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        values[name] = (
            () if field.annotation not in (bool,) and name.endswith("ngrams") else False if field.annotation is bool else None
        )
    return section(**values)


@pytest.mark.parametrize("section", [GopherSection, RepetitionSection, C4Section, FineWebSection])
def test_every_rule_can_be_turned_off(section: type[Any]) -> None:
    everything_off = QualitySection(
        english="fineweb",
        gopher=off(GopherSection),
        repetition=off(RepetitionSection),
        c4=off(C4Section),
        fineweb=off(FineWebSection),
    )
    for text in ("", "x", "{ lorem ipsum }", "same\n" * 99):
        assert judge_english(text, everything_off) is None
        assert english_lines(text, everything_off)[0] == text


def test_code_in_a_manual_is_neither_removed_nor_held_against_it() -> None:
    code = "```python\ndef f(x):\n    return {x: 1}\n```"
    text = f"{PROSE}\n\n{code}\n\n    for (i = 0; i < 3; i++) {{ }}\n\n{PROSE[:300]}."
    kept, removed = english_lines(text, QualitySection(english="c4"))
    assert code in kept
    assert "    for (i = 0; i < 3; i++) { }" in kept
    assert "c4.terminal_punctuation" not in removed
    assert judge_english(kept, QualitySection(english="c4")) is None
    assert rule_of(kept, QualitySection(english="c4", keep_code=False)) == "c4.curly_bracket"


def test_most_real_documents_pass_gophers_rules() -> None:
    glosses = box("wordnet-glosses")[::10]
    assert sum(rule_of(text) is not None for text in glosses) <= 0.01 * len(glosses)
    pages = manuals()[::5]
    assert sum(rule_of(text) is not None for text in pages) <= 0.25 * len(pages), "reference pages repeat themselves"
