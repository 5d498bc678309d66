"""Documents to rows: packing, shards on the disk, rows read back."""

from pathlib import Path

import numpy as np
import pytest

from trainer.config import TokensSection
from trainer.corpus.store import read_manifest as read_corpus
from trainer.corpus.store import read_part
from trainer.tokens.encoding import encode_corpus
from trainer.tokens.packing import PIECE, pack_best_fit
from trainer.tokens.shards import IGNORED, TokenRows, read_manifest
from trainer.tokens.tokenizer import END_OF_TEXT, TOKENIZER_FILE, TextEncoder


def documents_of(lengths: list[int]) -> np.ndarray:
    documents = np.empty(len(lengths), PIECE)
    documents["shard"], documents["length"] = 0, lengths
    documents["start"] = 1 + np.cumsum([0, *lengths[:-1]])
    return documents


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
