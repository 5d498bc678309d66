"""Main text of an HTML page, by resiliparse. Pure.

Code keeps its indentation and line breaks (`<pre>`), poems their lines (`<br>`). A page that is too large or nested too deep is
dropped with a reason before it is parsed: the time to extract grows with the square of the depth (1,000 levels 0.04 s, 20,000
levels 18 s; docs/lab.md).
"""

import re

from trainer.config_steps import HtmlSection
from trainer.corpus.steps.draft import Dropped
from trainer.errors import MissingDependencyError

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,30})")
_LEAVES = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
_LEAVES |= {
    "html",
    "head",
    "body",
    "p",
    "li",
    "dt",
    "dd",
    "tr",
    "td",
    "th",
    "thead",
    "tbody",
    "tfoot",
    "option",
    "optgroup",
    "rt",
}
"""Elements that do not nest, or end where the next one begins. Unclosed ones of these are no depth."""
_MARK = "\ufdd0"  # a code point that is never a character (Unicode 16.0, section 23.7)
_ALONE = re.compile(
    r">(?=(\s{0,64}))\1([\u0800-\ud7ff\uf900-\ufdcf\ufdf0-\uffef]|&(?!para;|#182;|#x[Bb]6;)#?[A-Za-z0-9]{2,10};)(?=\s{0,64}<)"
)
"""A character of three bytes that is all of a text node. resiliparse 2.0.1 takes it for an icon and drops it: every
《 between two links, every single Han character in bold. A mark beside it prevents that, and goes afterwards."""


def extract_html(html: str, limits: HtmlSection) -> str | Dropped:
    """The page's text, or why there is none: html.too_large, html.too_deep, html.no_text.

    Raises MissingDependencyError. Costs about 0.15 s per MB of HTML.
    """
    if len(html) > limits.max_chars:
        return Dropped("html.too_large", f"page of {len(html)} characters is above {limits.max_chars}")
    depth = nesting(html, limits.max_depth)
    if depth > limits.max_depth:
        return Dropped("html.too_deep", f"elements nested more than {limits.max_depth} deep")
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        raise MissingDependencyError("HTML needs resiliparse: pip install 'pretrain-run[corpus]'") from None
    marked = _ALONE.sub(rf">\1\2{_MARK}", html.replace(_MARK, "").replace("\0", ""))
    text = extract_plain_text(marked, main_content=limits.main_content, alt_texts=False).replace(_MARK, "")
    if not text.strip():
        return Dropped("html.no_text", f"no text is left of {len(html)} characters")
    return text


def nesting(html: str, enough: int) -> int:
    """How deep elements are nested, counted by tags alone; may stop as soon as it is above `enough`. O(n).

    Hardly ever less than the parser's own depth: an end tag that matches nothing open is no end here either.
    """
    if html.count("<") <= enough:
        return 0
    depth = deepest = 0
    open_counts: dict[str, int] = {}
    for match in _TAG.finditer(html):
        name = match[2].lower()
        if name in _LEAVES:
            continue
        if not match[1]:
            open_counts[name] = open_counts.get(name, 0) + 1
            depth += 1
            deepest = max(deepest, depth)
            if deepest > enough:
                break
        elif open_counts.get(name):
            open_counts[name] -= 1
            depth -= 1
    return deepest
