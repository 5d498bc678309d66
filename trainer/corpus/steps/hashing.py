"""64-bit keys of runs of words or characters, the same on every machine and in every process. Pure.

Python's own hash differs from process to process; this one is CRC-32 for each word, mixed by multiplications.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits look drawn by lot: 2^64 over the golden ratio


def word_numbers(words: Sequence[str]) -> Keys:
    """A number for each word, the same on every machine."""
    number_of: dict[str, int] = {}
    for word in words:
        if word not in number_of:
            number_of[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
    return np.fromiter(map(number_of.__getitem__, words), dtype=np.uint64, count=len(words))


def rolling_keys(numbers: Keys, size: int) -> Keys:
    """A 64-bit key for the `size` numbers from each place."""
    keys = np.zeros(len(numbers) - size + 1, dtype=np.uint64)
    for offset in range(size):
        keys = mixed(keys, numbers[offset : len(numbers) - size + 1 + offset])
    return keys


def mixed(keys: Keys, numbers: Keys) -> Keys:
    """The keys with one more number each; the order of the numbers counts."""
    keys = (keys ^ (numbers + np.uint64(1))) * MIX
    return keys ^ (keys >> np.uint64(32))


class Runs:
    """Keys of longer and longer runs of the same numbers, made from the ones before; ask for lengths in ascending order."""

    def __init__(self, numbers: Keys) -> None:
        self._numbers = numbers
        self._keys = np.zeros(len(numbers), dtype=np.uint64)
        self._size = 0

    def keys(self, size: int) -> Keys:
        """`rolling_keys(numbers, size)`; empty where there are fewer numbers."""
        if size > len(self._numbers):
            return self._keys[:0]
        if size < self._size:
            return rolling_keys(self._numbers, size)
        places = len(self._numbers) - size + 1
        keys = self._keys[:places]
        for offset in range(self._size, size):
            keys = mixed(keys, self._numbers[offset : places + offset])
        self._keys, self._size = keys, size
        return keys
