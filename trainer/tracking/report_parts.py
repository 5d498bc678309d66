"""What the sections of the report are made of."""

from collections.abc import Sequence

from trainer.tracking.markup import Markup, element


def section(heading: str, *content: str) -> Markup:
    """A section of the page under its heading."""
    key = heading.lower().replace(" ", "-")
    return element("section", element("h2", heading, id=key), *content, aria_labelledby=key)


def missing(text: str, command: str | None = None) -> Markup:
    """In place of what a run does not have yet, and the command that makes it."""
    way_out = (" ", element("code", command), " does it.") if command else ()
    return element("p", text, *way_out, class_="missing")


def figure(heading: str, *content: str, class_: str | None = None) -> Markup:
    """A chart with its caption."""
    return element("figure", element("figcaption", heading), *content, class_=class_)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], class_: str) -> Markup:
    """A table that scrolls sideways where it is too wide; the first cell of a row is its heading."""
    header = element("tr", *(element("th", text, scope="col") for text in head))
    body = (element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows)
    whole = element("table", element("thead", header), element("tbody", *body), class_=class_)
    return element("div", whole, class_="scroll")
