"""HTML files, and web archives: WARC with pages, WET with their text."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.archives import read_records
from trainer.corpus.opening import opened
from trainer.corpus.readings import Document, Item, Unwanted, bounded_rest
from trainer.corpus.recoding import decoded
from trainer.corpus.steps.draft import Dropped

MAX_PAGE_BYTES_PER_CHAR = 4

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_KINDS = ("response", "conversion", "resource")
"""Records that hold what a reader saw."""


def read_html(source: SourceSection, file: Path, limits: CorpusSection) -> Iterator[Item]:
    """A file of HTML as one document."""
    with opened(file) as stream:
        data = bounded_rest(stream, limits.max_chars * MAX_PAGE_BYTES_PER_CHAR)
    if data is None:
        yield Unwanted(source.name, str(file), 1, f"longer than corpus.max_chars {limits.max_chars}", "read.too_long")
        return
    yield _page(source, file, 1, data, None, limits)


def read_warc(source: SourceSection, file: Path, limits: CorpusSection) -> Iterator[Item]:
    """The responses of a WARC file and the texts of a WET file, by the number of their record."""
    name = source.name
    with opened(file) as stream:
        for number, record in enumerate(read_records(stream, limits.max_chars * MAX_PAGE_BYTES_PER_CHAR), start=1):
            is_html = record.media_type in _HTML_TYPES
            if record.kind not in _KINDS:
                continue
            if not is_html and record.media_type != "text/plain":
                reason = f"of type {record.media_type or 'unknown'}"
                yield Unwanted(name, str(file), number, reason, "read.media_type")
            elif not record.is_whole:
                reason = f"longer than corpus.max_chars {limits.max_chars}"
                yield Unwanted(name, str(file), number, reason, "read.too_long")
            else:
                charset = "utf-8" if record.kind == "conversion" else record.charset
                yield _page(source, file, number, record.content, charset, limits, is_html=is_html)


def _page(
    source: SourceSection,
    file: Path,
    number: int,
    data: bytes,
    charset: str | None,
    limits: CorpusSection,
    *,
    is_html: bool = True,
) -> Item:
    text = decoded(data, source.encoding, charset)
    if isinstance(text, Dropped):
        return Unwanted(source.name, str(file), number, text.reason, text.rule)
    if len(text) > limits.max_chars:
        return Unwanted(source.name, str(file), number, f"longer than corpus.max_chars {limits.max_chars}", "read.too_long")
    return Document(source.name, text, str(file), number, is_html=is_html)
