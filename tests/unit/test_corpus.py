"""Raw text of every kind to clean documents, and what happens to bad text."""

import gzip
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import CorpusSection, SourceSection
from trainer.corpus.normalising import fingerprint, is_held_out, normalise
from trainer.corpus.preparing import prepare
from trainer.corpus.reading import BadLine, Document, files_of, read_source
from trainer.corpus.store import read_documents
from trainer.errors import CorpusError


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)


def read(path: Path | str, max_chars: int = 1000, cut_text_chars: int = 500) -> list[Document | BadLine]:
    limits = CorpusSection(max_chars=max_chars, cut_text_chars=cut_text_chars)
    return list(read_source(SourceSection(name="s", path=str(path)), limits))


def texts(path: Path | str) -> list[str]:
    items = read(path)
    assert all(isinstance(item, Document) for item in items), items
    return [item.text for item in items if isinstance(item, Document)]


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines("one", "two"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines("three")))
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "c.jsonl.zst").write_bytes(compress(lines("four")) + compress(lines("five")))  # two frames
    (tmp_path / "d.txt").write_text("\ufeffsix\nlines", encoding="utf-8")
    (tmp_path / "e.md").write_text("seven")
    (tmp_path / "f.rst.gz").write_bytes(gzip.compress(b"eight"))
    (tmp_path / "g.png").write_bytes(b"\x89PNG")
    folder = ["one", "two", "three", "four", "five", "six\nlines", "seven", "eight"]
    assert texts(tmp_path) == folder
    assert texts(tmp_path / "*.jsonl*") == folder[:5]
    assert texts(tmp_path / "d.txt") == folder[5:6]
    assert all(isinstance(item, Document) for item in read("box:chinese-poetry.jsonl.zst", 100_000))


def test_links_do_not_bring_a_file_twice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("once")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "also.txt").symlink_to(tmp_path / "real" / "a.txt")
    assert len(files_of(SourceSection(name="s", path=str(tmp_path)))) == 1


def bad(path: Path, max_chars: int = 1000) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in read(path, max_chars) if isinstance(item, BadLine)]


def test_bad_lines_are_told_with_their_place_and_the_good_ones_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        lines("good")
        + b'{"text": 5}\n{"txt": "x"}\n[1]\nnot json\n{"text": "\xff\xfe"}\n\n'
        + lines("long" * 400)
        + b'{"text": "' + b"x" * 7000 + b'"}\n'
        + lines("good again")
    )  # fmt: skip
    found = bad(file)
    assert [line for line, _ in found] == [2, 3, 4, 5, 6, 8, 9]
    wanted = ['expected {"text": "..."}'] * 3 + ["not JSON", "not UTF-8", "longer than corpus.max_chars 1000", "line longer"]
    assert all(reason.startswith(words) for (_, reason), words in zip(found, wanted, strict=True))
    assert [item.text for item in read(file) if isinstance(item, Document)] == ["good", "good again"]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_file_that_breaks_off_is_told(suffix: str, tmp_path: Path) -> None:
    data = lines(*(os.urandom(300).hex() for _ in range(300)))
    packed = gzip.compress(data) if suffix == "gz" else zstandard.ZstdCompressor().compress(data)
    file = tmp_path / f"a.jsonl.{suffix}"
    file.write_bytes(packed[: len(packed) // 2])
    reasons = [reason for _, reason in bad(file)]
    assert reasons
    assert "breaks off or is damaged" in reasons[-1]


def test_a_long_text_file_becomes_documents_that_are_cut_at_blank_lines_and_lose_nothing(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {number}\n" * 7 + "\n" for number in range(60)]
    (tmp_path / "a.txt").write_text("".join(paragraphs))
    documents = [item for item in read(tmp_path / "a.txt") if isinstance(item, Document)]
    assert "".join(document.text for document in documents) == "".join(paragraphs)
    assert len(documents) == 10
    assert all(500 <= len(document.text) < 700 and document.text.endswith("\n\n") for document in documents[:-1])
    text = (tmp_path / "a.txt").read_text().splitlines()
    assert all(document.text.splitlines()[0] == text[document.line - 1] for document in documents)
    (tmp_path / "b.txt").write_text("one line\n" * 300)
    assert [len(item.text) for item in read(tmp_path / "b.txt") if isinstance(item, Document)] == [1008, 1008, 684]


def test_text_of_an_encoding_that_cannot_be_told_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"first\nsecond\n\x81\x8d\x9d\xff")
    assert bad(tmp_path / "a.txt") == [(3, "not UTF-8")]


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_normal_form_is_reached_at_once_and_holds_no_control_characters(text: str) -> None:
    normal = normalise(text)
    assert normalise(normal) == normal
    assert not any(ord(char) < 32 and char not in "\n\t" for char in normal)
    normal.encode()


def test_normal_form_keeps_code_poems_and_full_width_marks() -> None:
    assert normalise("def f():\r\n    return 1  \r\n\n\n\n\n\nend") == "def f():\n    return 1\n\n\nend"
    assert normalise("床前明月光，\n疑是地上霜。\u3000\n") == "床前明月光，\n疑是地上霜。"
    assert normalise("e\u0301") == "é"


def corpus(folder: Path, files: dict[str, list[str]], **fields: Any) -> CorpusSection:
    sources = []
    for name, documents in files.items():
        (folder / f"{name}.jsonl").write_bytes(lines(*documents))
        sources.append(SourceSection(name=name, path=str(folder / f"{name}.jsonl")))
    return CorpusSection(sources=tuple(sources), **{"held_out": 0.2, "min_chars": 3, **fields})


DOCUMENTS = [f"document number {number}" for number in range(500)]


def split_of(section: CorpusSection, folder: Path) -> tuple[set[str], set[str]]:
    prepare(section, folder)
    train = {document.text for document in read_documents(folder, "train")}
    return train, {document.text for document in read_documents(folder, "held_out")}


def test_adding_files_never_moves_a_document_across_splits(tmp_path: Path) -> None:
    train, held_out = split_of(corpus(tmp_path, {"a": DOCUMENTS[:300]}), tmp_path / "1")
    more_train, more_held_out = split_of(corpus(tmp_path, {"b": DOCUMENTS[250:], "a": DOCUMENTS[:300]}), tmp_path / "2")
    assert train <= more_train
    assert held_out <= more_held_out
    assert not more_train & more_held_out
    assert len(more_train | more_held_out) == 500
    assert 0.13 < len(more_held_out) / 500 < 0.27
    assert all(is_held_out(fingerprint(text), 0.2) == (text in held_out) for text in train | held_out)


def test_of_equal_documents_the_first_stays_and_all_are_counted(tmp_path: Path) -> None:
    section = corpus(tmp_path, {"a": ["same text", "only a", "x"], "b": ["same text  ", "only b", "same\ttext", "only b"]})
    manifest, made = prepare(section, tmp_path / "corpus")
    assert made
    a, b = manifest.counts["a"], manifest.counts["b"]
    assert (a["read"], a["kept"] + a["held_out"], a["too_short"], a["duplicate"]) == (3, 2, 1, 0)
    assert (b["read"], b["kept"] + b["held_out"], b["duplicate"]) == (4, 2, 2)


def test_made_twice_it_is_byte_identical_and_in_parts(tmp_path: Path) -> None:
    section = corpus(tmp_path, {"a": DOCUMENTS}, part_bytes=2000)
    for name in ("1", "2"):
        prepare(section, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len([file for file in files if file.parent.name == "train"]) > 3
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_done_is_found_and_changed_input_is_refused(tmp_path: Path) -> None:
    section = corpus(tmp_path, {"a": DOCUMENTS})
    prepare(section, tmp_path / "corpus")
    assert prepare(section, tmp_path / "corpus")[1] is False
    (tmp_path / "a.jsonl").write_bytes(lines(*DOCUMENTS, "one more"))
    with pytest.raises(CorpusError, match=r"made from other input \(.*a\.jsonl changed since\); choose another run_dir"):
        prepare(section, tmp_path / "corpus")


def test_nothing_left_and_too_many_bad_lines_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="corpus: nothing to train on: source "):
        prepare(corpus(tmp_path, {"a": ["x", "y"]}), tmp_path / "corpus")
    section = corpus(tmp_path, {"a": DOCUMENTS}, max_bad_lines=2)
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b"1\n2\n3\n")
    with pytest.raises(CorpusError, match=r"corpus\.max_bad_lines 2 is passed; the first bad line is .*a\.jsonl:501"):
        prepare(section, tmp_path / "corpus")
    with pytest.raises(CorpusError, match=r"corpus\.sources: empty"):
        prepare(CorpusSection(), tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_link_is_read_as_the_kind_that_its_own_name_says(tmp_path: Path) -> None:
    """Hugging Face's cache, git-annex and Bazel link `data.jsonl` to a file that is named by its hash."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "5f3a").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "data.jsonl").symlink_to(tmp_path / "blobs" / "5f3a")
    assert [item.text for item in read(tmp_path / "snapshot") if isinstance(item, Document)] == ["one", "two"]


@given(st.text(alphabet=st.sampled_from("ea\u0301\u0308\u0327\x00\x0b\ufeff \n\t\u1100\u1161\u11a8"), max_size=12))
@settings(max_examples=300, deadline=None)
def test_normal_form_is_reached_at_once_though_a_control_character_parts_a_letter_from_its_accent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_one_runaway_line_in_a_small_zstandard_file_fills_neither_memory_nor_time(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(zstandard.ZstdCompressor().compress(b"x" * (32 << 20)))  # about 1 kB on the disk
    tracemalloc.start()
    started = time.process_time()
    (item,) = read(file)
    spent_s = time.process_time() - started
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(item, BadLine)
    assert item.reason.startswith("line longer than")
    assert spent_s < 2.0
    assert peak_bytes < 48 << 20


@pytest.mark.parametrize("cut", [1, 3, 4, 5])
def test_a_zstandard_file_that_lacks_its_last_bytes_is_told(cut: int, tmp_path: Path) -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(json.dumps({"text": "one"}).encode() + b"\n")
    (tmp_path / "a.jsonl.zst").write_bytes(packed + packed[:-cut])
    assert "breaks off or is damaged" in read(tmp_path / "a.jsonl.zst")[-1].reason  # type: ignore[union-attr]
