"""Unigram and bigram models of token ids, fitted on the training split: what a GPT has to beat.

    unigram   p(b) = (c(b) + 1) / (N + V)                                         add-one (Laplace)
    bigram    p(b | a) = (c(a, b) + t(a) p(b)) / (c(a) + t(a))                     Witten and Bell 1991, eq. for method C

c counts, t(a) is the number of different ids seen after a, N all ids, V the vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.tokens.shards import IGNORED, TokenRows

_ROWS_AT_ONCE = 256
_MERGE_PAIRS = 4_000_000
"""Distinct pairs are merged whenever this many raw ones wait, which bounds the memory at about 100 MB plus the result."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class NgramModel:
    """Counts of single ids and of pairs."""

    vocab_size: int
    unigrams: Ids
    pair_keys: Ids
    """Seen pairs as a * V + b, sorted."""
    pair_counts: Ids
    first_counts: Ids
    """c(a): how often a is followed by something."""
    first_types: Ids
    """t(a): by how many different ids."""

    @staticmethod
    def fit(rows: TokenRows, vocab_size: int) -> "NgramModel":
        """Count over all rows, as the GPT sees them: input and target of every position."""
        unigrams = np.zeros(vocab_size, np.int64)
        keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        waiting: list[Ids] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            inputs, targets = _used(rows, np.arange(start, min(start + _ROWS_AT_ONCE, len(rows))))
            unigrams += np.bincount(targets, minlength=vocab_size)
            waiting.append(inputs * vocab_size + targets)
            if sum(map(len, waiting)) > _MERGE_PAIRS:
                keys, counts = _merge(keys, counts, waiting)
                waiting = []
        keys, counts = _merge(keys, counts, waiting)
        firsts = keys // vocab_size
        first_counts = np.bincount(firsts, weights=counts, minlength=vocab_size).astype(np.int64)
        first_types = np.bincount(firsts, minlength=vocab_size)
        return NgramModel(vocab_size, unigrams, keys, counts, first_counts, first_types)

    def unigram_nats(self, targets: Ids) -> NDArray[np.float64]:
        """Negative log-probability of each target by itself."""
        return -np.log(self._unigram_probability(targets))

    def bigram_nats(self, inputs: Ids, targets: Ids) -> NDArray[np.float64]:
        """Negative log-probability of each target given the id before it."""
        keys = inputs * self.vocab_size + targets
        at = np.searchsorted(self.pair_keys, keys).clip(max=max(0, len(self.pair_keys) - 1))
        pairs = np.where(self.pair_keys[at] == keys, self.pair_counts[at], 0)
        types = self.first_types[inputs]
        backed_off = self._unigram_probability(targets)
        total = self.first_counts[inputs] + types
        probability = np.where(total > 0, (pairs + types * backed_off) / np.maximum(total, 1), backed_off)
        return -np.log(probability)

    def _unigram_probability(self, targets: Ids) -> NDArray[np.float64]:
        return (self.unigrams[targets] + 1) / (self.unigrams.sum() + self.vocab_size)

    def nats_of_rows(self, rows: TokenRows, ids: Ids) -> tuple[float, float, Ids]:
        """Unigram nats, bigram nats and the targets of rows."""
        inputs, targets = _used(rows, ids)
        return float(self.unigram_nats(targets).sum()), float(self.bigram_nats(inputs, targets).sum()), targets


def _used(rows: TokenRows, ids: Ids) -> tuple[Ids, Ids]:
    inputs, targets, _ = rows.read(ids)
    used = targets != IGNORED
    return inputs[used], targets[used]


def _merge(keys: Ids, counts: Ids, waiting: list[Ids]) -> tuple[Ids, Ids]:
    if not waiting:
        return keys, counts
    new_keys, new_counts = np.unique(np.concatenate(waiting), return_counts=True)
    merged, places = np.unique(np.concatenate([keys, new_keys]), return_inverse=True)
    totals = np.bincount(places, weights=np.concatenate([counts, new_counts]), minlength=len(merged))
    return merged, totals.astype(np.int64)
