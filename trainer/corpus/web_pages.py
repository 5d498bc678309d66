"""HTML files, and web archives (WARC with pages, WET with their text). The one place that imports fastwarc."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.opening import opened
from trainer.corpus.readings import BadLine, Document, Item, Unwanted, bounded_rest
from trainer.corpus.recoding import decoded
from trainer.errors import MissingDependencyError

MAX_PAGE_BYTES_PER_CHAR = 4

_HTML_TYPES = ("text/html", "application/xhtml+xml")


def read_html(source: SourceSection, file: Path, limits: CorpusSection) -> Iterator[Item]:
    """A file of HTML as one document."""
    with opened(file) as stream:
        data = bounded_rest(stream, limits.max_chars * MAX_PAGE_BYTES_PER_CHAR)
    if data is None:
        yield BadLine(source.name, str(file), 0, f"longer than corpus.max_chars {limits.max_chars}", "read.too_long")
        return
    yield _page(source, file, 1, data, None, limits)


def read_warc(source: SourceSection, file: Path, limits: CorpusSection) -> Iterator[Item]:
    """The responses of a WARC file and the texts of a WET file, by the number of their record."""
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ModuleNotFoundError:
        raise MissingDependencyError("fastwarc is not installed: pip install 'pretrain-run[corpus]'") from None
    max_bytes = limits.max_chars * MAX_PAGE_BYTES_PER_CHAR
    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    with opened(file) as stream:
        for number, record in enumerate(ArchiveIterator(stream, parse_http=True, stream_detect=False), start=1):
            if not record.record_type & kinds:
                continue
            media_type = (
                (record.http_content_type or record.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
            )
            if media_type not in (*_HTML_TYPES, "text/plain"):
                yield Unwanted(source.name, str(file), number, f"of type {media_type or 'unknown'}", "read.media_type")
                continue
            data = record.reader.read(max_bytes + 1)
            if len(data) > max_bytes:
                yield BadLine(
                    source.name, str(file), number, f"longer than corpus.max_chars {limits.max_chars}", "read.too_long"
                )
            else:
                charset = "utf-8" if record.record_type == WarcRecordType.conversion else record.http_charset
                yield _page(source, file, number, data, charset, limits, is_html=media_type in _HTML_TYPES)


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
    text = decoded(data, source.encoding, charset, is_html=is_html)
    if text is None:
        return Unwanted(source.name, str(file), number, "binary, or of no encoding that can be told", "read.binary")
    if len(text) > limits.max_chars:
        return BadLine(source.name, str(file), number, f"longer than corpus.max_chars {limits.max_chars}", "read.too_long")
    return Document(source.name, text, str(file), number, is_html=is_html)
