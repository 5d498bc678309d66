"""Input that was made to break a reader, and what runs under limits in a process of its own."""

import gzip
import lzma
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.deduplicating import NEAR, Units, find_duplicates
from trainer.corpus.preparing import prepare
from trainer.corpus.steps.near_duplicates import BANDS, NUM_HASHES
from trainer.corpus.work import INDEX, UnitFiles, UnitManifest

GIGABYTE = 1 << 30
_LARGEST = (1 << 64) - 1
MAX_CHARS = 1_000_000
_BLANK = (b" " * 1023 + b"\n") * 1024


def _one_line(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIGABYTE)  # zeros that take no room on the disk


def _gzip(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(_BLANK)


def _zstd(path: Path) -> None:
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as file:
        for _ in range(1 << 10):
            file.write(_BLANK)


def _xz(path: Path) -> None:
    with lzma.open(path, "wb", preset=0) as file:
        for _ in range(200):
            file.write(_BLANK)


def _xz_header(path: Path) -> None:
    data = b"text " * 1000
    small = lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}])
    # the size of the dictionary is one byte of the block header (12 bytes after the stream's own), whose checksum follows it
    header = bytearray(small[12:24])
    place = header.index(bytes([0x21, 0x01])) + 2
    header[place] = 38  # 2 GiB
    header[8:12] = zlib.crc32(bytes(header[:8])).to_bytes(4, "little")
    path.write_bytes(small[:12] + bytes(header) + small[24:])


def _warc_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: ")
        file.truncate(GIGABYTE)


def _warc_page(path: Path) -> None:
    packed = gzip.compress(b"<p>" + b"x" * (300 << 20), 1)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    length = len(head) + len(packed)
    start = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {length}\r\n\r\n"
    path.write_bytes(start.encode() + head + packed + b"\r\n\r\n")


def _deep_html(path: Path) -> None:
    path.write_text("<div>" * 150_000 + "text", encoding="utf-8")


def _long_html(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIGABYTE)


def _picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(1 << 20))


def _not_utf8(path: Path) -> None:
    path.write_bytes(b"a good line\n" + b"\x81\x8d\x9d\xff bad line\n" * 3 + "Ein Satz mit ü\n".encode())


def _deep_json(path: Path) -> None:
    path.write_bytes(b'{"text": ' + b"[" * 900_000 + b"\n")


CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "one line of JSON": ("a.jsonl", _one_line, "read.too_long"),
    "one line of text": ("a.txt", _one_line, "charset.binary"),
    "gzip bomb": ("a.jsonl.gz", _gzip, "read.bomb"),
    "zstd bomb": ("a.jsonl.zst", _zstd, "read.bomb"),
    "xz bomb": ("a.jsonl.xz", _xz, "read.bomb"),
    "xz that asks for 2 GiB": ("a.txt.xz", _xz_header, "read.damaged"),
    "endless WARC header": ("a.warc", _warc_header, "read.damaged"),
    "gzip bomb in a WARC": ("a.warc", _warc_page, "read.too_long"),
    "deep HTML": ("a.html", _deep_html, "html.too_deep"),
    "long HTML": ("a.html", _long_html, "read.too_long"),
    "binary file": ("a.txt", _picture, "charset.binary"),
    "no UTF-8": ("a.txt", _not_utf8, "read.not_utf8"),
    "deep JSON": ("a.jsonl", _deep_json, "read.not_json"),
}
"""Name of the file, who writes it, and the rule by which it is left out."""


def write_cases(folder: Path) -> None:
    """Every case in a folder of its own."""
    for number, (name, write, _) in enumerate(CASES.values()):
        path = folder / f"{number}" / name
        path.parent.mkdir()
        write(path)


def rules_of(folder: str) -> dict[str, dict[str, int]]:
    """Prepare all cases together with some good text. Returns how often each rule left something out of each."""
    good = Path(folder) / "good.jsonl"
    good.write_text("".join(f'{{"text": "good document number {number}"}}\n' for number in range(40)), encoding="utf-8")
    sources = [SourceSection(name=f"case-{number}", path=f"{folder}/{number}") for number in range(len(CASES))]
    config = CorpusSection(sources=(*sources, SourceSection(name="good", path=str(good))), max_chars=MAX_CHARS, workers=1)
    manifest, _ = prepare(config, Path(folder) / "corpus")
    assert manifest.counts["good"]["read"] == 40
    return {name: manifest.rules.get(f"case-{number}", {}) for number, name in enumerate(CASES)}


def find_in_tables(folder: str) -> dict[str, int]:
    """Find duplicates among 200,000 documents that exist as tables alone. Returns counts by kind."""
    chance = np.random.default_rng(7)
    per_unit, num_units = 20_000, 10
    equal = np.zeros(100, INDEX)
    equal["high"], equal["low"] = 5, np.arange(100)
    like, like_band = chance.integers(0, 1 << 32, (200, NUM_HASHES), dtype=np.uint32), np.arange(200, dtype=np.uint64)
    files, manifests = [], []
    for number in range(num_units):
        unit = Path(folder) / f"{number}"
        unit.mkdir()
        index = np.zeros(per_unit, INDEX)
        for half in ("high", "low"):
            index[half] = chance.integers(0, _LARGEST, per_unit, dtype=np.uint64)
        signatures = chance.integers(0, 1 << 32, (per_unit, NUM_HASHES), dtype=np.uint32)
        bands = chance.integers(0, _LARGEST, (per_unit, BANDS), dtype=np.uint64)
        index[:100], signatures[100:300], bands[100:300, 5] = equal, like, like_band
        for name, array in (("index", index), ("signatures", signatures), ("bands", bands)):
            (unit / f"{name}.bin").write_bytes(array.tobytes())
        files.append(UnitFiles(unit))
        empty: dict[str, Any] = dict.fromkeys(("pieces", "starts_file", "paths", "num_lines", "bad_lines"), ())
        manifests.append(UnitManifest(key="", number=number, source=0, read=per_unit, bad=0, kept=per_unit, **empty))
    values = {"near_duplicates": {"enabled": True}, "memory_bytes": 8 << 20}
    found = find_duplicates(CorpusSection.model_validate(values), Units.of(files, manifests), Path(folder)).records
    return {"equal": int((found["kind"] != NEAR).sum()), "near": int((found["kind"] == NEAR).sum())}
