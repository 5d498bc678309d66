"""Packing keeps its promises at its edges: nothing to pack, rows that fit exactly, several shards, many documents."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.tokens import packing
from trainer.tokens.packing import PIECE, Rows, pack_best_fit, pack_concat

Pack = Callable[[np.ndarray, int], Rows]
both = pytest.mark.parametrize("pack", [pack_best_fit, pack_concat])


def shards_of(lengths_by_shard: list[list[int]]) -> np.ndarray:
    """Whole documents as `encoding` hands them over: in each shard they stand one behind another from index 1."""
    tables = []
    for shard, lengths in enumerate(lengths_by_shard):
        table = np.empty(len(lengths), PIECE)
        table["shard"], table["length"] = shard, lengths
        table["start"] = 1 + np.cumsum([0, *lengths])[:-1]
        tables.append(table)
    return np.concatenate(tables)


def tokens_of(pieces: np.ndarray) -> list[tuple[int, int]]:
    """Every (shard, index) that the pieces hold."""
    return [(shard, at) for shard, start, length in pieces.tolist() for at in range(start, start + length)]


def lengths_of_rows(rows: Rows) -> list[int]:
    lengths = rows.pieces["length"]
    return [int(lengths[rows.row_starts[row] : rows.row_starts[row + 1]].sum()) for row in range(len(rows))]


@both
@given(
    lengths_by_shard=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=4),
    row_tokens=st.integers(8, 40),
)
@settings(max_examples=100, deadline=None)
def test_every_token_of_every_shard_is_taken_exactly_once(
    pack: Pack, lengths_by_shard: list[list[int]], row_tokens: int
) -> None:
    documents = shards_of(lengths_by_shard)
    rows = pack(documents, row_tokens)
    assert sorted(tokens_of(rows.pieces)) == sorted(tokens_of(documents))
    assert all(0 < length <= row_tokens for length in lengths_of_rows(rows))


@both
def test_nothing_to_pack_gives_no_rows(pack: Pack) -> None:
    rows = pack(np.empty(0, PIECE), 8)
    assert len(rows) == 0
    assert len(rows.pieces) == 0


@both
def test_documents_as_long_as_a_row_stay_whole_and_in_order(pack: Pack) -> None:
    documents = shards_of([[8, 8, 8]])
    rows = pack(documents, 8)
    assert np.array_equal(rows.pieces, documents)
    assert rows.row_starts.tolist() == [0, 1, 2, 3]


@both
def test_a_document_of_many_rows_is_cut_into_consecutive_full_rows(pack: Pack) -> None:
    rows = pack(shards_of([[8 * 5 + 3]]), 8)
    assert lengths_of_rows(rows) == [8, 8, 8, 8, 8, 3]
    assert rows.pieces["start"].tolist() == [1, 9, 17, 25, 33, 41]


@both
def test_the_same_documents_give_the_same_rows(pack: Pack) -> None:
    documents = shards_of([np.random.default_rng(3).integers(1, 90, 500).tolist()])
    one, other = pack(documents, 32), pack(documents.copy(), 32)
    assert one.pieces.tobytes() == other.pieces.tobytes()
    assert one.row_starts.tobytes() == other.row_starts.tobytes()


@both
def test_packing_leaves_its_input_as_it_was(pack: Pack) -> None:
    documents = shards_of([[50, 3, 9, 20]])
    before = documents.copy()
    pack(documents, 8)
    assert np.array_equal(documents, before)


def test_best_fit_takes_the_place_that_leaves_the_least_room() -> None:
    rows = pack_best_fit(shards_of([[7, 5, 3, 1]]), 8)
    assert len(rows) == 2
    by_row = [rows.pieces["length"][first:last].tolist() for first, last in zip(rows.row_starts, rows.row_starts[1:])]  # noqa: B905
    assert sorted(map(sorted, by_row)) == [[1, 7], [3, 5]]


@given(st.lists(st.integers(1, 32), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_best_fit_leaves_at_most_one_row_half_empty(lengths: list[int]) -> None:
    rows = lengths_of_rows(pack_best_fit(shards_of([lengths]), 32))
    assert sum(length <= 16 for length in rows) <= 1  # what is in the second such row would have gone into the first


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(8, 40))
@settings(max_examples=100, deadline=None)
def test_concat_wastes_nothing_but_the_end_of_its_last_row(lengths: list[int], row_tokens: int) -> None:
    rows = pack_concat(shards_of([lengths]), row_tokens)
    assert len(rows) == -(-sum(lengths) // row_tokens)
    assert all(length == row_tokens for length in lengths_of_rows(rows)[:-1])
    assert tokens_of(rows.pieces) == tokens_of(shards_of([lengths]))  # in the documents' order


def test_packing_in_blocks_keeps_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = shards_of([np.random.default_rng(5).integers(1, 70, 100).tolist()])
    monkeypatch.setattr(packing, "_BLOCK_DOCUMENTS", 7)
    rows = pack_best_fit(documents, 32)
    assert sorted(tokens_of(rows.pieces)) == sorted(tokens_of(documents))
    assert max(lengths_of_rows(rows)) <= 32


def test_rows_of_several_packings_are_joined_one_behind_another() -> None:
    parts = [pack_concat(shards_of([lengths]), 8) for lengths in ([5, 9], [30], [1])]
    joined = Rows.joined(parts)
    assert lengths_of_rows(joined) == [length for part in parts for length in lengths_of_rows(part)]
    assert len(Rows.joined([])) == 0


def test_a_piece_takes_sixteen_bytes_on_the_disk_whatever_the_machine() -> None:
    assert PIECE.itemsize == 16
    assert np.array([(1, 2, 3)], PIECE).tobytes() == b"\1\0\0\0" + b"\2" + b"\0" * 7 + b"\3\0\0\0"
