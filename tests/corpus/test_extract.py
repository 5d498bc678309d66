"""HTML pages become their text, and hostile ones a reason."""

import time

import pytest

from trainer.config_steps import HtmlSection
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.extract import extract_html, nesting

LIMITS = HtmlSection()
PAGE = """<!DOCTYPE html><html><head><title>t</title><script>track("{}")</script><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<div class="cookie-banner"><p>We use cookies.</p></div>
<main><h1>静夜思</h1>{}</main>
<footer>Copyright 2024 Example</footer></body></html>"""


def text_of(body: str) -> str:
    text = extract_html(PAGE.format("x", body), LIMITS)
    assert isinstance(text, str), text
    return text


def test_the_main_text_stays_and_what_surrounds_it_goes() -> None:
    text = text_of("<p>床前明月光，疑是地上霜。</p><p>A second paragraph that says more.</p>")
    assert "床前明月光，疑是地上霜。" in text
    assert "A second paragraph that says more." in text
    for gone in ("Home", "About us", "track", "cookies", "Copyright"):
        assert gone not in text


def test_code_keeps_its_indentation_and_its_blank_lines() -> None:
    code = "def f(x):\n    if x &lt; 1:\n        return 0\n\n    return x"
    assert "def f(x):\n    if x < 1:\n        return 0\n\n    return x" in text_of(
        f"<p>An example:</p><pre><code>{code}</code></pre>"
    )


def test_a_poem_keeps_its_lines() -> None:
    assert "床前明月光，\n疑是地上霜。\n举头望明月，" in text_of("<p>床前明月光，<br>疑是地上霜。<br/>举头望明月，</p>")


def test_single_full_width_marks_and_characters_in_elements_of_their_own_stay() -> None:
    assert "作者：李《静夜思》，唐" in text_of(
        "<p><a href='#'>作者</a>：<b>李</b>《<i>静夜思</i>》<b>，</b><span>唐</span></p>"
    )
    assert "if … elif … else" in text_of("<p><code>if</code> … <code>elif</code> &hellip; <code>else</code></p>")
    assert "heading" in text_of("<h2>A heading<a href='#h'>¶</a></h2>")
    assert "¶" not in text_of("<h2>A heading<a href='#h'>¶</a></h2>")


@pytest.mark.parametrize(
    ("page", "rule"),
    [
        ("<div>" * 100_000 + "deep", "html.too_deep"),
        ("<div>x" * 501 + "</div>" * 501, "html.too_deep"),
        ("<a>" + "<b>" * 2000 + "x", "html.too_deep"),
        ("<p>" + "x" * 10_000_000, "html.too_large"),
        ("<html><body><script>only()</script></body></html>", "html.no_text"),
        ("", "html.no_text"),
    ],
)
@pytest.mark.timeout(20)
def test_a_hostile_or_empty_page_is_a_reason_at_once(page: str, rule: str) -> None:
    started = time.process_time()
    fate = extract_html(page, LIMITS)
    assert isinstance(fate, Dropped)
    assert fate.rule == rule
    assert time.process_time() - started < 5


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "page", ["<p>" * 200_000, "<li><td>" * 50_000, "<" * 500_000, "&" * 500_000, "<!--" * 100_000, "\0" * 9999]
)
def test_broken_markup_never_crashes(page: str) -> None:
    assert isinstance(extract_html(page + "text", LIMITS), str | Dropped)


def test_depth_counts_what_nests_and_not_what_was_never_closed_by_habit() -> None:
    assert nesting("<div><span><b>x</b></span></div>" * 200, enough=5) == 3
    assert nesting("<p>one<p>two<li>three<br>" * 500, enough=5) == 0
    assert nesting("</div>" * 50 + "<div>" * 9, enough=5) == 6, "stops when it has seen enough"
