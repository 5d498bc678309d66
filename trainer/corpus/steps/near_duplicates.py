"""MinHash signatures of documents, and the bands by which near-duplicates meet. Pure.

    text -> shingles (64-bit keys) -> signature (112 numbers) -> bands (14 keys)

Two documents with an equal band are candidates; `similarity` of their signatures estimates the Jaccard index of their shingles.
Shingles are runs of 5 words, in Chinese of 3 characters and in texts of less than 256 of 2: one other character in a poem of 28
then costs 2 shingles of 27, and not 5 of 24. Case, punctuation and blanks do not count. 14 bands of 8 numbers are FineWeb's
choice (arXiv 2406.17557, section 3.4): documents that share 75% of their shingles become candidates with probability 0.77,
those that share 85% with 0.99. An estimate's standard deviation is at most 0.047. Which document is kept, and in how much
memory, is not decided here.
"""

import re
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.corpus.steps.hashing import MIX, Keys, mixed, rolling_keys, word_numbers
from trainer.errors import MissingDependencyError

BANDS, ROWS = 14, 8
NUM_HASHES = BANDS * ROWS
SHINGLE_WORDS = 5
SHINGLE_CHARS, SHINGLE_CHARS_SHORT, SHORT_CHARS = 3, 2, 256
ALGORITHM = "rensa-r-2/112/42/w5/c3-2-256"
"""What signatures can be compared: kept with them, so that those of another version are never mixed in."""
_SEED = 42
_RENSA_VERSION = 2

_WORD = re.compile(r"[^\W_]+")
_NO_LETTER = re.compile(r"[\W_]+")
_EASTERN = re.compile("[\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_BY_CHARACTERS = frozenset(("zh", "ja", "th", "lo", "my", "km", "yue", "wuu", "lzh", "bo"))
"""Languages written without blanks between words. Text that is mainly Han or kana counts so under any other name."""

Signature = npt.NDArray[np.uint32]


def signature(text: str, language: str) -> Signature:
    """112 numbers of 32 bits; the same text in the same language gives the same on every machine. O(n).

    A text shorter than a shingle is one shingle. Raises MissingDependencyError.
    """
    keys = shingles(text, language)
    rows = _rensa().digest_matrix_from_flat_token_hashes(keys, [0, len(keys)], num_perm=NUM_HASHES, seed=_SEED).to_rows()
    return np.asarray(rows[0], dtype=np.uint32)


def bands(signature: Signature) -> Keys:
    """14 keys of 64 bits. Equal keys at the same place make two documents candidates; keys of different places never meet."""
    rows = signature.reshape(BANDS, ROWS).astype(np.uint64)
    keys = np.arange(1, BANDS + 1, dtype=np.uint64) * MIX
    for column in range(ROWS):
        keys = mixed(keys, rows[:, column])
    return keys


def similarity(first: Signature, second: Signature) -> float:
    """Estimated Jaccard index of the two documents' shingles, 0 to 1."""
    return float(np.mean(first == second))


def shingles(text: str, language: str) -> Keys:
    """The different shingles of a text as sorted 64-bit keys; at least one."""
    text = text.lower()
    if language in _BY_CHARACTERS or 3 * len(_EASTERN.findall(text)) > len(text):
        letters = _NO_LETTER.sub("", text)
        numbers = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        size = SHINGLE_CHARS if len(letters) >= SHORT_CHARS else SHINGLE_CHARS_SHORT
    else:
        numbers, size = word_numbers(_WORD.findall(text)), SHINGLE_WORDS
    if not len(numbers):
        return np.zeros(1, dtype=np.uint64)
    return np.unique(rolling_keys(numbers, min(size, len(numbers))))


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
