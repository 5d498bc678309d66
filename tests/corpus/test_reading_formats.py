"""Every kind of input is read: JSON lines, text, HTML, web archives, Parquet; compressed, piped in, from the hub's cache."""

import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.finding import files_of
from trainer.corpus.phases import Surroundings
from trainer.corpus.preparing import clean_shard, prepare
from trainer.corpus.reading import BadLine, Document, Item, Piece, PieceReader, Unwanted, read_source
from trainer.corpus.store import read_documents
from trainer.errors import CorpusError

PAGE = "<!doctype html><title>t</title><body><p>A page of text about mills.</p></body>"


def read(path: Path | str, **fields: Any) -> list[Item]:
    return list(read_source(SourceSection(name="s", path=str(path), **fields), CorpusSection(max_chars=5000)))


def texts(path: Path | str, **fields: Any) -> list[str]:
    items = read(path, **fields)
    assert all(isinstance(item, Document) for item in items), items
    return [item.text for item in items if isinstance(item, Document)]


def test_xz_is_read_like_its_content_and_a_cut_one_is_told(tmp_path: Path) -> None:
    data = b'{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(data) + b"\0" * 4 + lzma.compress(b'{"text": "three"}\n'))
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress("four — 四".encode()))
    assert texts(tmp_path) == ["one", "two", "three", "four — 四"]
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(data)[:-9])
    last = read(tmp_path / "a.jsonl.xz")[-1]
    assert isinstance(last, BadLine)
    assert (last.rule, last.reason[:36]) == ("read.damaged", "the file breaks off or is damaged: t")


def test_pages_of_html_are_documents_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.HTM.gz").write_bytes(gzip.compress(PAGE.encode()))
    items = read(tmp_path)
    assert [(item.text, item.line, item.is_html) for item in items if isinstance(item, Document)] == [(PAGE, 1, True)] * 2


def warc(*records: tuple[str, str, bytes], packed: bool = False) -> bytes:
    """Records (WARC type, content type, block) as a WARC file; packed: each in a gzip member, as crawlers write it."""
    out = io.BytesIO()
    for number, (kind, content_type, block) in enumerate(records):
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
            f"WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
        ).encode()
        record = head + block + b"\r\n\r\n"
        out.write(gzip.compress(record) if packed else record)
    return out.getvalue()


def response(content_type: str, body: bytes) -> tuple[str, str, bytes]:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return "response", "application/http; msgtype=response", head + body


RECORDS = (
    ("warcinfo", "application/warc-fields", b"software: none\r\n"),
    ("request", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n"),
    response("text/html; charset=utf-8", PAGE.encode()),
    response("image/png", b"\x89PNG\r\n\x1a\n\0\0"),
    response("text/plain", b"plain words"),
    response("text/html", b"x" * 30_000),
)


@pytest.mark.parametrize("packed", [False, True])
def test_a_web_archive_gives_its_pages_and_says_what_else_it_holds(packed: bool, tmp_path: Path) -> None:
    file = tmp_path / ("crawl.warc.gz" if packed else "crawl.warc")
    file.write_bytes(warc(*RECORDS, packed=packed))
    items = read(tmp_path)
    assert [item.line for item in items] == [3, 4, 5, 6]
    page, picture, plain, long = items
    assert isinstance(page, Document)
    assert (page.text, page.is_html) == (PAGE, True)
    assert isinstance(picture, Unwanted)
    assert (picture.rule, picture.reason) == ("read.media_type", "of type image/png")
    assert isinstance(plain, Document)
    assert (plain.text, plain.is_html) == ("plain words", False)
    assert isinstance(long, Unwanted)
    assert long.reason == "longer than corpus.max_chars 5000"


def test_a_wet_file_gives_its_texts(tmp_path: Path) -> None:
    blocks = [("conversion", "text/plain", text.encode()) for text in ("first page", "第二页")]
    (tmp_path / "crawl.warc.wet.gz").write_bytes(warc(RECORDS[0], *blocks, packed=True))
    assert texts(tmp_path) == ["first page", "第二页"]


def test_parquet_is_read_by_its_column_of_text(tmp_path: Path) -> None:
    columns = {"text": ["one", None, "x" * 6000, "四"], "other": [1, 2, 3, 4]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=2)
    items = read(tmp_path)
    assert [(type(item), item.line) for item in items] == [(Document, 1), (Unwanted, 2), (BadLine, 3), (Document, 4)]
    (other,) = read(tmp_path, text_field="other")
    assert isinstance(other, BadLine)
    assert other.reason == "no column other of text; there are text, other"
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-5])
    (damaged,) = read(tmp_path)
    assert isinstance(damaged, BadLine)
    assert damaged.rule == "read.damaged"


def test_another_key_than_text_is_read_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "one", "text": 2}\n')
    assert texts(tmp_path, text_field="content") == ["one"]


def test_a_named_format_takes_files_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "part-0").write_text('{"text": "one"}\n')
    assert texts(tmp_path, format="jsonl") == ["one"]
    (tmp_path / "part-0").write_text("a line\n")
    assert texts(tmp_path / "part-*", format="text") == ["a line\n"]


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_ranges_of_a_file_give_each_line_once_wherever_they_are_cut(step: int, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": "x" * (number * 7 % 90)}) + "\n" for number in range(40)) + "\n\nnot json")
    source, limits = SourceSection(name="s", path=str(file)), CorpusSection(max_chars=80)
    whole = [(item.line, getattr(item, "text", "")) for item in PieceReader(source, Piece(file), limits)]
    found, first_line = [], 0
    size = file.stat().st_size
    for start in range(0, size, step):
        reader = PieceReader(source, Piece(file, start, min(start + step, size)), limits)
        found += [(first_line + item.line, getattr(item, "text", "")) for item in reader]
        first_line += reader.num_lines
    assert found == whole
    assert first_line == 43


def test_what_is_piped_in_is_prepared(tmp_path: Path) -> None:
    data = "".join(json.dumps({"text": f"document number {number}"}) + "\n" for number in range(50)).encode()
    config = CorpusSection(sources=(SourceSection(name="pipe", path="-"),), min_chars=3)
    with pytest.raises(CorpusError, match="source pipe: nothing was piped in; give a path, or pipe text in"):
        prepare(config, tmp_path / "corpus")
    prepare(config, tmp_path / "corpus", Surroundings(standard_input=io.BytesIO(data)))
    assert len(list(read_documents(tmp_path / "corpus", "train"))) > 40
    assert prepare(config, tmp_path / "corpus")[1] is False
    both = config.model_copy(update={"sources": (*config.sources, SourceSection(name="b", path=str(tmp_path / "corpus")))})
    with pytest.raises(CorpusError, match="made from other input"):  # a source beside the pipe is looked at
        prepare(both, tmp_path / "corpus")
    with pytest.raises(CorpusError, match="standard input cannot be shared out to shards"):
        clean_shard(config, tmp_path / "other", 0, 2)


def hub_cache(folder: Path) -> Path:
    """A data set as the hub's cache holds it: blobs by hash, and a snapshot of links."""
    repo = folder / "datasets--someone--poems"
    commit = "0" * 39 + "1"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "5f3a").write_text('{"text": "from the hub"}\n')
    (repo / "snapshots" / commit / "data").mkdir(parents=True)
    (repo / "snapshots" / commit / "data" / "train.jsonl").symlink_to("../../../blobs/5f3a")
    (repo / "snapshots" / commit / "README.md").write_text("about the poems")
    return folder


def test_a_data_set_of_the_hub_is_read_from_its_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_cache(tmp_path)))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert texts("hf:someone/poems/data/*.jsonl") == ["from the hub"]
    assert sorted(texts("hf:someone/poems")) == ["about the poems", "from the hub"]
    wanted = r"data set someone/tales cannot be had .* `hf download --repo-type dataset someone/tales --local-dir FOLDER`"
    with pytest.raises(CorpusError, match=wanted):
        files_of(SourceSection(name="s", path="hf:someone/tales"))
    with pytest.raises(CorpusError, match="write hf:OWNER/NAME"):
        files_of(SourceSection(name="s", path="hf:tales"))


def test_frames_of_zstandard_may_follow_each_other(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.txt.zst").write_bytes(compress(b"one ") + compress(b"two"))
    assert texts(tmp_path) == ["one two"]


CHINESE = "水磨坊在河边，灯光在石头之间行走，没有人数过桥下慢慢的船。\n" * 20


@pytest.mark.parametrize("encoding", ["gb18030", "big5hkscs", "utf-16", "utf-8-sig"])
def test_chinese_of_any_age_is_read_from_text_html_and_archives(encoding: str, tmp_path: Path) -> None:
    text = CHINESE if encoding != "big5hkscs" else "水磨坊在河邊，燈光在石頭之間行走，沒有人數過橋下慢慢的船。\n" * 20
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (tmp_path / "b.html").write_bytes(f"<p>{text}".encode(encoding))
    (tmp_path / "c.warc").write_bytes(warc(response("text/html", f"<p>{text}".encode(encoding))))
    assert texts(tmp_path) == [text, f"<p>{text}", f"<p>{text}"]
    if encoding == "gb18030":
        assert texts(tmp_path / "a.txt", encoding="gbk") == [text]
