"""Documents to rows of T tokens. Pure: lengths in, pieces out.

A piece is a range of consecutive target tokens of one document; a row is one or more pieces, together at most T long. Every
token of every document is in exactly one piece.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIECE = np.dtype([("shard", "<i4"), ("start", "<i8"), ("length", "<i4")])
"""A piece: which shard, where in it, how many tokens."""

_BLOCK_DOCUMENTS = 1 << 20
"""Best fit looks at this many documents at once, which bounds its memory at about 200 MB."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as ranges of a table of pieces: row r holds pieces[row_starts[r] : row_starts[r + 1]]."""

    pieces: NDArray[np.void]
    row_starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    @staticmethod
    def joined(parts: "list[Rows]") -> "Rows":
        """Rows of several packings, one after another."""
        pieces = np.concatenate([part.pieces for part in parts]) if parts else np.empty(0, PIECE)
        starts, offset = [np.zeros(1, np.int64)], 0
        for part in parts:
            starts.append(part.row_starts[1:] + offset)
            offset += len(part.pieces)
        return Rows(pieces, np.concatenate(starts))


def pack_best_fit(documents: NDArray[np.void], row_tokens: int) -> Rows:
    """Pack so that a document is cut only where it is longer than a row.

    `documents` are whole documents as pieces. Full rows are cut off the long ones; what remains goes, longest first, where it
    leaves the least room (best-fit decreasing: at most 11/9 of the best number of rows, Johnson 1974). O(n log T).
    """
    blocks = range(0, len(documents), _BLOCK_DOCUMENTS)
    return Rows.joined([_pack_block(documents[start : start + _BLOCK_DOCUMENTS], row_tokens) for start in blocks])


def _pack_block(documents: NDArray[np.void], row_tokens: int) -> Rows:
    pieces = _cut(documents, row_tokens)
    by_length = np.argsort(-pieces["length"].astype(np.int64), kind="stable")
    row_of_piece = np.empty(len(pieces), np.int64)
    num_rows = 0
    rooms: list[int] = []  # the distinct free lengths of open rows, sorted
    open_rows: dict[int, list[int]] = {}
    for index, length in zip(by_length.tolist(), pieces["length"][by_length].tolist(), strict=True):
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        else:
            room, row = row_tokens, num_rows
            num_rows += 1
        row_of_piece[index] = row
        left = room - length
        if left:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(row)
    in_order = np.argsort(row_of_piece, kind="stable")
    row_starts = np.searchsorted(row_of_piece[in_order], np.arange(num_rows + 1)).astype(np.int64)
    return Rows(pieces[in_order], row_starts)


def pack_concat(documents: NDArray[np.void], row_tokens: int) -> Rows:
    """Fill every row to the last token, cutting documents wherever a row ends."""
    if len(documents) == 0:
        return Rows.joined([])
    ends = np.cumsum(documents["length"].astype(np.int64))
    total = int(ends[-1]) if len(ends) else 0
    row_ends = np.arange(row_tokens, total + row_tokens, row_tokens).clip(max=total)
    piece_ends = np.union1d(ends, row_ends)
    piece_starts = np.concatenate([np.zeros(1, np.int64), piece_ends[:-1]])
    document = np.searchsorted(ends, piece_starts, side="right")
    pieces = np.empty(len(piece_ends), PIECE)
    pieces["shard"] = documents["shard"][document]
    begins = ends - documents["length"]
    pieces["start"] = documents["start"][document] + (piece_starts - begins[document])
    pieces["length"] = piece_ends - piece_starts
    row_starts = np.searchsorted(piece_starts, np.concatenate([np.zeros(1, np.int64), row_ends])).astype(np.int64)
    return Rows(pieces, row_starts)


def _cut(documents: NDArray[np.void], row_tokens: int) -> NDArray[np.void]:
    """Each document as pieces of `row_tokens` and a rest."""
    lengths = documents["length"].astype(np.int64)
    counts = -(-lengths // row_tokens)
    pieces = np.repeat(documents, counts)
    nth = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces["start"] += nth * row_tokens
    pieces["length"] = np.minimum(row_tokens, np.repeat(lengths, counts) - nth * row_tokens)
    return pieces
