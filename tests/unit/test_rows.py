"""Documents to rows: packing, shards on the disk, rows read back."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import TokensSection
from trainer.corpus.store import read_manifest as read_corpus
from trainer.corpus.store import read_part
from trainer.errors import ShardError
from trainer.tokens.encoding import encode_corpus
from trainer.tokens.packing import PIECE, Rows, pack_best_fit, pack_concat
from trainer.tokens.shards import IGNORED, TokenRows, dtype_for, read_manifest, verify_files
from trainer.tokens.tokenizer import END_OF_TEXT, TOKENIZER_FILE, TextEncoder


def documents_of(lengths: list[int]) -> np.ndarray:
    documents = np.empty(len(lengths), PIECE)
    documents["shard"], documents["length"] = 0, lengths
    documents["start"] = 1 + np.cumsum([0, *lengths[:-1]])
    return documents


def row_lengths(rows: Rows) -> np.ndarray:
    return np.add.reduceat(rows.pieces["length"].astype(np.int64), rows.row_starts[:-1])


@pytest.mark.parametrize("pack", [pack_best_fit, pack_concat])
@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=80), row_tokens=st.integers(8, 64))
@settings(max_examples=150, deadline=None)
def test_every_token_is_in_exactly_one_piece_and_no_row_is_too_long(pack, lengths: list[int], row_tokens: int) -> None:  # type: ignore[no-untyped-def]
    documents = documents_of(lengths)
    rows = pack(documents, row_tokens)
    assert rows.row_starts[0] == 0
    assert rows.row_starts[-1] == len(rows.pieces)
    assert row_lengths(rows).max() <= row_tokens
    in_place = np.sort(rows.pieces, order="start")
    assert in_place["start"][0] == 1
    ends = in_place["start"] + in_place["length"]
    assert np.array_equal(in_place["start"][1:], ends[:-1])
    assert ends[-1] == 1 + sum(lengths)
    assert set(documents["start"]) <= set(in_place["start"])  # no piece spans two documents


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=80))
@settings(max_examples=100, deadline=None)
def test_best_fit_cuts_only_what_is_longer_than_a_row(lengths: list[int]) -> None:
    rows = pack_best_fit(documents_of(lengths), 32)
    assert len(rows.pieces) == sum(-(-length // 32) for length in lengths)
    rests = sum(length % 32 for length in lengths)
    full = sum(length // 32 for length in lengths)
    assert len(rows) <= full + max(1, 2 * -(-rests // 32))


def test_concat_fills_every_row_but_the_last() -> None:
    rows = pack_concat(documents_of([5, 100, 3, 41]), 32)
    assert row_lengths(rows).tolist() == [32, 32, 32, 32, 21]


def test_real_documents_pack_without_much_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 1.2, 20_000).astype(int).clip(2).tolist()
    assert sum(lengths) / (len(pack_best_fit(documents_of(lengths), 256)) * 256) > 0.99


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_rows_read_back_are_the_encoded_documents(packing: str, split: str, small_data: Path, tmp_path: Path) -> None:
    folder = encode(small_data, tmp_path / "tokens", packing=packing)
    manifest = read_manifest(folder)
    rows = TokenRows(folder, manifest, split)  # type: ignore[arg-type]
    inputs, targets, documents = rows.read(np.arange(len(rows)))
    encoder = TextEncoder(small_data / "tokenizer" / TOKENIZER_FILE)
    corpus = read_corpus(small_data / "corpus")
    wanted = []
    for shard_number, part in enumerate(corpus.parts_of(split)):  # type: ignore[arg-type]
        start = 1
        for text in read_part(small_data / "corpus", part):
            ids = [*encoder.encode(text), END_OF_TEXT]
            wanted += [(shard_number, start + offset, token) for offset, token in enumerate(ids)]
            start += len(ids)
    got = []
    for row in range(len(rows)):
        at = 0
        first, last = rows.rows.row_starts[row], rows.rows.row_starts[row + 1]
        for number, (shard, start, length) in enumerate(rows.rows.pieces[first:last].tolist(), start=1):
            got += [(shard, start + offset, int(targets[row, at + offset])) for offset in range(length)]
            assert (documents[row, at : at + length] == number).all()
            assert np.array_equal(inputs[row, at + 1 : at + length], targets[row, at : at + length - 1])
            at += length
        assert (targets[row, at:] == IGNORED).all()
        assert (documents[row, at:] == 0).all()
    assert sorted(got) == wanted
    padded = rows.read(np.arange(2), num_rows=5)
    assert padded[1].shape == (5, 64)
    assert (padded[1][2:] == IGNORED).all()


def encode(data: Path, folder: Path, *, packing: str = "best_fit", workers: int = 1) -> Path:
    section = TokensSection(row_tokens=64, packing=packing, workers=workers)  # type: ignore[arg-type]
    encode_corpus(section, 512, data / "corpus", data / "tokenizer", folder, lambda *_: None)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_first_input_of_a_document_is_the_end_of_text_before_it(small_data: Path) -> None:
    manifest = read_manifest(small_data / "tokens")
    rows = TokenRows(small_data / "tokens", manifest, "train")
    inputs, _, documents = rows.read(np.arange(len(rows)))
    starts = np.diff(documents, axis=1, prepend=0) > 0
    pieces = rows.rows.pieces["start"]
    assert starts.sum() == len(pieces)
    share = (inputs[starts] == END_OF_TEXT).mean()
    cut = 1 - sum(shard.documents for shard in manifest.shards if shard.split == "train") / len(pieces)
    assert share == pytest.approx(1 - cut)


def test_bytes_on_the_disk_do_not_depend_on_the_number_of_processes(small_data: Path, tmp_path: Path) -> None:
    wanted = contents(encode(small_data, tmp_path / "1", workers=1))
    for workers in (2, 3):
        assert contents(encode(small_data, tmp_path / str(workers), workers=workers)) == wanted


def test_an_interrupted_encoding_goes_on_with_the_parts_that_are_missing(small_data: Path, tmp_path: Path) -> None:
    wanted = contents(encode(small_data, tmp_path / "whole"))

    class Killed(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        raise Killed

    section = TokensSection(row_tokens=64, workers=1)
    folder = tmp_path / "cut"
    with pytest.raises(Killed):
        encode_corpus(section, 512, small_data / "corpus", small_data / "tokenizer", folder, stop)
    assert not folder.exists()
    (note,) = (tmp_path / "cut.partial").rglob("*.done")
    done = note.with_suffix(".tokens")
    stamp = done.stat().st_mtime_ns
    encode_corpus(section, 512, small_data / "corpus", small_data / "tokenizer", folder, lambda *_: None)
    assert contents(folder) == wanted
    assert (folder / done.relative_to(tmp_path / "cut.partial")).stat().st_mtime_ns == stamp


def test_damage_is_named(small_data: Path, tmp_path: Path) -> None:
    for name, damage in (
        ("train/poetry-00000.tokens", lambda file: os.truncate(file, 10)),
        ("train/poetry-00000.ends", lambda file: file.unlink()),
        ("held_out.rows", lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x01")),
    ):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(small_data / "tokens", folder)
        damage(folder / name)
        with pytest.raises(ShardError, match=rf"{folder / name}: .*; remove {folder} and run `trainer encode` again"):
            verify_files(folder, read_manifest(folder), hashes=True)
    manifest = json.loads((small_data / "tokens" / "manifest.json").read_text())
    assert manifest["format"] == 1
    with pytest.raises(ShardError, match="no token shards here; run `trainer encode` first"):
        read_manifest(tmp_path / "nowhere")


def test_ids_above_65535_take_four_bytes() -> None:
    assert dtype_for(1 << 16) == "<u2"
    assert dtype_for((1 << 16) + 1) == "<u4"
