"""Elements of HTML and SVG as text that is safe by construction: what is not `Markup` is escaped."""

import html
import re

# Browsers replace or drop these, and a lone surrogate has no UTF-8 at all; a model's text can hold both.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Plain text as markup, also inside a quoted attribute. Characters that no page can show become U+FFFD."""
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", text), quote=True))


def join(*parts: str) -> Markup:
    """Parts in a row; those that are not Markup are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """`<name ...>children</name>`. `class_` stands for class, `text_anchor` for text-anchor; None: left out."""
    inside = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if value is not None
    )
    return Markup(f"<{name}{inside}>{join(*children)}</{name}>")


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{value:.1f}".removesuffix(".0")
