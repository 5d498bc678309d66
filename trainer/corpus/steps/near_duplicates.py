"""MinHash signatures of documents, and the bands by which near-duplicates meet. Pure.

    text -> shingles (64-bit keys) -> signature (112 numbers) -> bands (14 keys)
    two documents with an equal band are candidates; `similarity` of their signatures estimates the Jaccard index of their shingles

Shingles are runs of 5 words, in Chinese of 3 characters; case, punctuation and blanks do not count. 14 bands of 8 numbers are FineWeb's
choice (arXiv 2406.17557, section 3.4): documents that share 75% of their shingles become candidates with probability 0.77, those
that share 85% with 0.99. The standard deviation of an estimate is at most 0.047 with 112 numbers. Which document is kept,
and in how much memory, is not decided here.
"""

import re
import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import MissingDependencyError

BANDS, ROWS = 14, 8
NUM_HASHES = BANDS * ROWS
SHINGLE_WORDS = 5
SHINGLE_CHARS = 3
ALGORITHM = "rensa-r-2/112/42/w5/c3"
"""What signatures can be compared: kept with them, so that those of another version are never mixed in."""
_SEED = 42
_RENSA_VERSION = 2

_WORD = re.compile(r"[^\W_]+")
_NO_LETTER = re.compile(r"[\W_]+")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BY_CHARACTERS = frozenset(("zh", "ja", "th", "lo", "my", "km", "yue", "wuu", "lzh", "bo"))
"""Languages written without blanks between words."""

Signature = npt.NDArray[np.uint32]
Bands = npt.NDArray[np.uint64]


def signature(text: str, language: str) -> Signature:
    """112 numbers of 32 bits; the same text in the same language gives the same on every machine. O(n).

    A text shorter than a shingle is one shingle. Raises MissingDependencyError.
    """
    keys = shingles(text, language)
    rows = _rensa().digest_matrix_from_flat_token_hashes(keys, [0, len(keys)], num_perm=NUM_HASHES, seed=_SEED).to_rows()
    return np.asarray(rows[0], dtype=np.uint32)


def bands(signature: Signature) -> Bands:
    """14 keys of 64 bits. Equal keys at the same place make two documents candidates; keys of different places never meet."""
    rows = signature.reshape(BANDS, ROWS).astype(np.uint64)
    keys = np.arange(1, BANDS + 1, dtype=np.uint64) * _MIX
    for column in range(ROWS):
        keys = _mixed(keys, rows[:, column])
    return keys


def similarity(first: Signature, second: Signature) -> float:
    """Estimated Jaccard index of the two documents' shingles, 0 to 1."""
    return float(np.mean(first == second))


def shingles(text: str, language: str) -> npt.NDArray[np.uint64]:
    """The different shingles of a text as sorted 64-bit keys; at least one."""
    text = text.lower()
    if language in _BY_CHARACTERS:
        letters = _NO_LETTER.sub("", text)
        numbers = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        size = SHINGLE_CHARS
    else:
        number_of: dict[str, int] = {}
        words = _WORD.findall(text)
        for word in words:
            if word not in number_of:
                number_of[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        numbers = np.fromiter(map(number_of.__getitem__, words), dtype=np.uint64, count=len(words))
        size = SHINGLE_WORDS
    size = max(1, min(size, len(numbers)))
    if not len(numbers):
        return np.zeros(1, dtype=np.uint64)
    keys = np.zeros(len(numbers) - size + 1, dtype=np.uint64)
    for offset in range(size):
        keys = _mixed(keys, numbers[offset : len(numbers) - size + 1 + offset])
    return np.unique(keys)


def _mixed(keys: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    keys = (keys ^ (numbers + np.uint64(1))) * _MIX
    return keys ^ (keys >> np.uint64(32))


@cache
def _rensa() -> Any:
    try:
        from rensa import RMinHash
    except ImportError:
        raise MissingDependencyError("near-duplicates need rensa: pip install 'pretrain-run[corpus]'") from None
    if RMinHash.ALGORITHM_VERSION != _RENSA_VERSION:
        raise MissingDependencyError(
            f"rensa's algorithm is {RMinHash.ALGORITHM_VERSION}, signatures are made by {_RENSA_VERSION}: "
            "pip install 'pretrain-run[corpus]'"
        )
    return RMinHash
