"""What the sections of the report are made of."""

import html
import re
from collections.abc import Sequence

from trainer.tracking.markup import Markup, element

_TURN = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)(?:<\|im_end\|>\n?|$)", re.DOTALL)
_HEADING = re.compile(r'<h2 id="([^"]*)">(.*?)</h2>')


def section(heading: str, *content: str) -> Markup:
    """A section of the page under its heading."""
    key = heading.lower().replace(" ", "-")
    return element("section", element("h2", heading, id=key), *content, aria_labelledby=key)


def contents(sections: str) -> Markup:
    """Links to the headings in some markup."""
    links = (
        element("li", element("a", Markup(text), href=f"#{html.unescape(key)}")) for key, text in _HEADING.findall(sections)
    )
    return element("nav", element("ul", *links), class_="contents", aria_label="Contents")


def missing(text: str, command: str | None = None) -> Markup:
    """In place of what a run does not have yet, and the command that makes it."""
    way_out = (" ", element("code", command), " does it.") if command else ()
    return element("p", text, *way_out, class_="missing")


def figure(heading: str, *content: str, class_: str | None = None) -> Markup:
    """A chart with its caption."""
    return element("figure", element("figcaption", heading), *content, class_=class_)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], class_: str, name: str) -> Markup:
    """A table that scrolls sideways where it is too wide; the first cell of a row is its heading."""
    header = element("tr", *(element("th", text, scope="col") for text in head))
    body = (element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows)
    return scrolling(name, element("table", element("thead", header), element("tbody", *body), class_=class_))


def scrolling(name: str, *content: str) -> Markup:
    """A part that scrolls by itself, which the keyboard reaches, under a name for those who hear the page."""
    return element("div", *content, class_="scroll", tabindex="0", role="region", aria_label=name)


def conversation(rendered: str) -> list[Markup]:
    """The turns of a conversation as the chat template renders it, up to where the assistant answers."""
    turns = [(role, text.strip()) for role, text in _TURN.findall(rendered)]
    shown = [(role, text) for role, text in turns if text] or [("", rendered)]
    return [
        element("p", element("span", role, class_="role") if role else "", element("q", text, dir="auto"), class_="turn")
        for role, text in shown
    ]


def answer_card(label: str, answer: str, class_: str = "") -> Markup:
    """An answer, and whose it is."""
    said = element("blockquote", answer, dir="auto") if answer.strip() else element("p", "(an empty answer)", class_="quiet")
    return element("figure", said, element("figcaption", label), class_=f"sample {class_}".rstrip())
