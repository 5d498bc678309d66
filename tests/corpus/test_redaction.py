"""Personal data and secrets are found, look-alikes stay, and hostile text takes linear time."""

import re
import string
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.backtracking import widest_attempt
from tests.corpus.redaction_truth import ALL, samples, score
from trainer.config_steps import RedactionSection
from trainer.corpus.steps import find_numbers, find_secrets, redaction
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.find_numbers import is_card_number, is_identity_number
from trainer.corpus.steps.redaction import Redact, find, redacted
from trainer.corpus.steps.spans import Span, replaced, without_overlaps

PATTERNS = (*find_numbers.PATTERNS, *find_secrets.PATTERNS, redaction.URL)


@pytest.mark.parametrize("seed", [11, 12])
def test_all_formats_are_found_and_hard_negatives_stay(seed: int) -> None:
    for kind, entry in score(samples(seed=seed, each=60)).items():
        assert entry.recall >= 0.99, (kind, entry.examples)
        assert entry.precision >= 0.98, (kind, entry.examples)


def test_a_text_keeps_its_sentence_and_tells_what_stood_there() -> None:
    text = "联系人：张三，手机１３８１２３４５６７８，邮箱 zhang@example.com；主页 https://a.example.org/~zhang?id=7。"
    section = RedactionSection(replace=("email", "phone"), urls="host")
    clean, counts = redacted(text, section)
    assert clean == "联系人：张三，手机<PHONE>，邮箱 <EMAIL>；主页 https://a.example.org/。"
    assert counts == Counter(phone=1, email=1, url=1)
    assert redacted(text, RedactionSection(urls="replace"))[0].endswith("主页 <URL>。")


def test_of_an_address_of_the_web_no_secret_and_no_ip_address_stays() -> None:
    text = "See https://u:p4ssw0rd@203.119.26.1:8080/a?token=ghp_0123456789abcdefghijklmnopqrstuvwxyz&m=a@b.org (or not)."
    section = RedactionSection(replace=("ip", "secret", "email"), urls="host")
    assert redacted(text, section) == ("See https://<IP>/ (or not).", Counter(url=1))


def test_what_is_not_named_stays_and_a_clean_document_is_the_same_object() -> None:
    document = Draft("Write to a@b.org or call +14155552671.")
    assert Redact(RedactionSection())(document) is document
    changed = Redact(RedactionSection(replace=("email",)))(document)
    assert changed == Draft("Write to <EMAIL> or call +14155552671.", changes=(("redaction.email", 1),))


def test_a_document_is_dropped_with_the_kind_that_it_holds() -> None:
    fate = Redact(RedactionSection(drop=("identity",)))(Draft("身份证号 11010519491231002X"))
    assert fate == Dropped("redaction.identity", "holds 1 of kind identity, which redaction.drop names")


def test_private_addresses_are_redacted_only_on_request() -> None:
    text = "from 10.1.2.3 and fe80::1 to 203.119.26.1"
    assert redacted(text, RedactionSection(replace=("ip",)))[0] == "from 10.1.2.3 and fe80::1 to <IP>"
    assert redacted(text, RedactionSection(replace=("ip",), private_addresses=True))[0] == "from <IP> and <IP> to <IP>"


def test_an_error_in_the_check_digit_makes_another_number() -> None:
    assert is_identity_number("11010519491231002X")
    assert not is_identity_number("110105194912310021")
    assert not is_identity_number("11010519491331002X"), "month 13"
    assert not is_identity_number("99010519491231002X"), "no such province"
    assert is_card_number("4111 1111 1111 1111")
    assert not is_card_number("4111 1111 1111 1112")
    assert not is_card_number("4111 111111111111"), "no card is grouped so"


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.pattern[:24])
def test_no_pattern_can_look_far_from_where_it_starts(pattern: re.Pattern[str]) -> None:
    # n characters cost at most n times that; the widest are three pieces of a JSON Web Token with room for a long one
    assert widest_attempt(pattern.pattern, pattern.flags) < 80_000


def test_a_pattern_that_can_give_back_is_told_from_one_that_cannot() -> None:
    assert widest_attempt("a(?:b|cd){0,3}") == 13
    assert widest_attempt("[a-z]{0,9}1") == 19, "what is given back is no digit: each try fails at once"
    assert widest_attempt("[a-z]{0,9}(?![0-9a-z])") == 19
    assert widest_attempt("[a-z]{0,9}[0-9a-z]{0,9}[.]") > 200, "each of ten ways to share letters may be tried"
    assert widest_attempt(r"(?=([a-z]{0,9}))\1[0-9a-z]{0,9}[.]") < 60, "a lookahead is left for good"
    assert widest_attempt("([a-z]{1,9}){1,9}1") > 10**8
    with pytest.raises(ValueError, match="no upper limit"):
        widest_attempt("a*b")


@pytest.mark.parametrize("pattern", ["a{0,3}+b", "(?>a|b)c", "(?=(x?+))"])
def test_syntax_that_old_interpreters_match_wrongly_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="not matched rightly by every Python"):
        widest_attempt(pattern)


BOMBS = [
    "1" * 60_000,
    "1 " * 30_000,
    "1." * 30_000,
    "+1-" * 20_000,
    "(010" * 15_000,
    "1:" * 30_000,
    "::" * 30_000,
    "a@" * 30_000,
    "a." * 30_000 + "@" + "a." * 30_000,
    "sk-" * 20_000,
    "eyJ" * 20_000,
    "eyJaaaaaaaaa." * 5_000,
    "-----BEGIN " * 6_000,
    "-----BEGIN PRIVATE KEY-----" * 3_000,
    "token=" * 10_000,
    "token" * 12_000 + "=" + "A1" * 30_000,
    "http://" * 9_000,
    "http://" + "a" * 60_000,
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:12])
@pytest.mark.timeout(20)
def test_hostile_text_ends_soon(bomb: str) -> None:
    # 60,000 characters take about 0.1 s; anything quadratic takes minutes and meets the deadline of this test
    find(bomb, RedactionSection(replace=ALL.replace, phone_regions=("CN", "US"), urls="host"))


@given(st.text(alphabet=string.printable + "电话１２＠", max_size=300))
@settings(max_examples=300, deadline=None)
def test_spans_are_in_order_and_apart_and_the_rest_of_the_text_stays(text: str) -> None:
    spans = find(text, RedactionSection(replace=ALL.replace, urls="replace"))
    assert all(first.end <= second.start for first, second in pairwise(spans))
    kept = replaced(text, spans, lambda span: "")
    assert len(kept) == len(text) - sum(span.end - span.start for span in spans)


def test_of_spans_that_overlap_the_surest_stays() -> None:
    first, second, third = Span(5, 9, "a"), Span(0, 6, "b"), Span(8, 12, "c")
    assert without_overlaps([first, second, third]) == [first]
    assert without_overlaps([second, first, third]) == [second, third]
