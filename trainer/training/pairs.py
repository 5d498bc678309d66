"""Rows of preference pairs on their way to the device, with what the reference thinks of each of their tokens.

A row holds whole pairs: chosen and rejected of one stand one after another, as conversations of their own. Reference
log-probabilities of a split's targets lie in one array, in the order of rows and of positions in them.

Shapes: B rows, T positions, N targets that count, P pairs of a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.tokens.order import Ids
from trainer.tokens.shards import IGNORED, TokenRows
from trainer.training.batches import Batch, read_batch

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class PairBatch(Batch):
    """Rows of pairs. `num_targets` counts pairs."""

    places_N: Tensor
    """Places of the targets in the flattened (B T), int64; as `used_N`, but always there."""
    answers_N: Tensor
    """Whose each target is, int64: 2 p for the chosen answer of the batch's pair p, 2 p + 1 for the rejected one."""
    reference_N: Tensor
    """Log-probability of each target under the reference, float32."""


def read_pairs(rows: TokenRows, ids: Ids, num_rows: int, reference_N: NDArray[np.float32] | None = None) -> PairBatch:
    """Rows by id, padded to `num_rows`, with the reference's log-probabilities of their targets, or zeros."""
    batch = read_batch(rows, ids, num_rows)
    targets, documents = batch.targets_BT.numpy(), batch.documents_BT.numpy()
    places = np.flatnonzero(targets.ravel() != IGNORED)
    # conversations count from 1 in each row, and there are two to a pair
    firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(documents.max(axis=1))[:-1]])
    answers = (documents + firsts[:, None] - 1).ravel()[places]
    if reference_N is None:
        reference_N = np.zeros(len(places), np.float32)
    return PairBatch(
        batch.inputs_BT,
        batch.targets_BT,
        batch.documents_BT,
        batch.used_N,
        int(documents.max(axis=1).sum()) // 2,
        torch.from_numpy(places),
        torch.from_numpy(answers),
        torch.from_numpy(np.ascontiguousarray(reference_N)),
    )


def target_starts(rows: TokenRows) -> NDArray[np.int64]:
    """Where each row's targets begin in an array over all of them, and at the end their number."""
    counts = [np.zeros(1, np.int64)]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        _, targets, _ = rows.read(np.arange(start, min(start + _ROWS_AT_ONCE, len(rows))))
        counts.append((targets != IGNORED).sum(axis=1))
    return np.cumsum(np.concatenate(counts))


@dataclass(frozen=True)
class ReferencedRows:
    """Reads rows together with the reference's log-probabilities."""

    starts: NDArray[np.int64]
    log_probs: NDArray[np.float32]

    def read(self, rows: TokenRows, ids: Ids, num_rows: int) -> PairBatch:
        """As `read_pairs`."""
        parts = [self.log_probs[self.starts[row] : self.starts[row + 1]] for row in ids.tolist()]
        return read_pairs(rows, ids, num_rows, np.concatenate(parts) if parts else np.empty(0, np.float32))
