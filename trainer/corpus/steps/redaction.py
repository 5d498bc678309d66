"""Personal data and secrets: found, and replaced by placeholders. Pure, linear time.

    text --find--> spans, none within another --> <EMAIL>, <IP>, <PHONE>, <ID>, <CARD>, <SECRET>, <URL>

A placeholder keeps the sentence whole and says what stood there, so a model learns where an address stands, and not whose.
What is found and what is not: docs/corpus-rules.md; how often: docs/lab.md.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from trainer.config_steps import RedactionSection
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.find_numbers import (
    bank_cards,
    identity_numbers,
    ipv4_addresses,
    ipv6_addresses,
    phone_numbers,
    runs,
)
from trainer.corpus.steps.find_secrets import emails, secrets
from trainer.corpus.steps.spans import WIDE, Span, replaced, without_overlaps

PLACEHOLDERS = {
    "email": "<EMAIL>",
    "ip": "<IP>",
    "phone": "<PHONE>",
    "identity": "<ID>",
    "card": "<CARD>",
    "secret": "<SECRET>",
    "url": "<URL>",
}
URL = re.compile(r"(?:https?|ftp)://[^\s<>\"'“”‘’`{}|\\^，。；！？、（）《》【】\u3000]{1,2048}", re.IGNORECASE)
_URL_TAIL = ".,;:!?)]*_~"
_WIDE_CHARACTER = re.compile("[\uff01-\uff5e\u00a0\u3000]")


def find(text: str, section: RedactionSection) -> list[Span]:
    """What the section names, in order of the text, none within another. Where two kinds fit, the surer one stays.

    Full-width digits and signs count as their ASCII forms. O(n) in the text.
    """
    kinds: set[str] = {*section.replace, *section.drop}
    plain = text.translate(WIDE) if _WIDE_CHARACTER.search(text) else text
    return without_overlaps(_spans(plain, kinds, section))


def _spans(text: str, kinds: set[str], section: RedactionSection) -> Iterator[Span]:
    """The surest kinds first."""
    if section.urls != "keep" and "://" in text:
        yield from urls(text)  # first: with its path goes what stands in it
    if "secret" in kinds:
        yield from secrets(text)
    if "email" in kinds:
        yield from emails(text)
    numbers = runs(text) if kinds & {"identity", "card", "ip", "phone"} else []
    if "identity" in kinds:
        yield from identity_numbers(text, numbers)
    if "card" in kinds:
        yield from bank_cards(text, numbers)
    if "ip" in kinds:
        yield from ipv4_addresses(text, numbers, section.private_addresses)
        yield from ipv6_addresses(text, section.private_addresses)
    if "phone" in kinds:
        yield from phone_numbers(text, numbers, section.phone_regions)


def urls(text: str) -> Iterator[Span]:
    """Addresses of the web, without the punctuation of the sentence around them."""
    for match in URL.finditer(text):
        address = match[0]
        while address and address[-1] in _URL_TAIL and not (address[-1] == ")" and address.count("(") >= address.count(")")):
            address = address[:-1]
        if len(address) > address.find("://") + 3:
            yield Span(match.start(), match.start() + len(address), "url")


def redacted(text: str, section: RedactionSection) -> tuple[str, Counter[str]]:
    """The text with placeholders, and how many of each kind were put in."""
    spans = [span for span in find(text, section) if span.kind == "url" or span.kind in section.replace]
    counts = Counter(span.kind for span in spans)
    return replaced(text, spans, lambda span: _placeholder(text, span, section)), counts


def _placeholder(text: str, span: Span, section: RedactionSection) -> str:
    if span.kind == "url" and section.urls == "host":
        host = _host(text[span.start : span.end])
        return redacted(host, section.model_copy(update={"urls": "keep"}))[0]  # it may be an IP address
    return PLACEHOLDERS[span.kind]


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}/" if parts.hostname else PLACEHOLDERS["url"]
    except ValueError:  # such as [::1 without its end
        return PLACEHOLDERS["url"]


@dataclass(frozen=True, slots=True)
class Redact:
    """The step: replaces, and drops documents that hold what must not be there."""

    section: RedactionSection
    name: str = "redaction"

    def __call__(self, document: Draft) -> Draft | Dropped:
        if self.section.drop:
            found = Counter(span.kind for span in find(document.text, self.section) if span.kind in self.section.drop)
            if found:
                kind, count = found.most_common(1)[0]
                return Dropped(f"redaction.{kind}", f"holds {count} of kind {kind}, which redaction.drop names")
        text, counts = redacted(document.text, self.section)
        if not counts:
            return document
        changes = tuple((f"redaction.{kind}", count) for kind, count in sorted(counts.items()))
        return Draft(text, document.language, document.changes + changes)
