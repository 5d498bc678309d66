"""Records grouped by a key with bounded memory: spread over files by the key's high bits, then loaded file by file.

Keys are hashes, so that the files are of about one size. Where all records fit into the bound nothing is written.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.files import DISK, storage_errors

Records = NDArray[np.void]

SORT_FACTOR = 5
"""Memory for sorting a table, as a multiple of its size: the table, its order, the sorted copy, and what is made of it."""

MAX_FILES = 1024


def num_partitions(num_records: int, record_bytes: int, memory_bytes: int) -> int:
    """Files over which records must be spread so that sorting one of them stays within the memory."""
    needed = -(-num_records * record_bytes * SORT_FACTOR // memory_bytes)
    return min(MAX_FILES, max(1, needed))


def partitioned(chunks: Iterable[Records], key: str, span: int, count: int, folder: Path) -> Iterator[Records]:
    """All records in `count` groups by ranges of their key, which is below `span`. The order within a group is the given one.

    `folder` is made for the files and removed at the end.
    """
    if count == 1:
        kept = [chunk for chunk in chunks if len(chunk)]
        if kept:
            yield np.concatenate(kept) if len(kept) > 1 else kept[0]
        return
    width = -(-span // count)
    with storage_errors(folder):
        if folder.exists():
            DISK.remove(folder)
        DISK.make_folder(folder)
        dtype = _spread(chunks, key, width, folder)
        for number in range(count):
            path = folder / f"{number:04d}"
            if dtype is not None and path.exists():
                yield np.fromfile(path, dtype)
                DISK.remove(path)
        DISK.remove(folder)


def _spread(chunks: Iterable[Records], key: str, width: int, folder: Path) -> np.dtype[np.void] | None:
    """Append each record to its file. Returns the records' type; None if there were none."""
    dtype = None
    for chunk in chunks:
        dtype = chunk.dtype
        places = chunk[key] // np.uint64(width)
        order = np.argsort(places, kind="stable")
        borders = np.flatnonzero(np.diff(places[order])) + 1
        for group in np.split(order, borders):
            if len(group):
                with (folder / f"{int(places[group[0]]):04d}").open("ab") as file:
                    file.write(chunk[group].tobytes())
    return dtype


def group_starts(sorted_keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each run of equal keys begins."""
    if not len(sorted_keys):
        return np.empty(0, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(np.diff(sorted_keys)) + 1])
