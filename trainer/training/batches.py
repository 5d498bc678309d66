"""Rows on the way from the token shards to the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.tokens.order import Ids
from trainer.tokens.shards import TokenRows


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs, targets and document numbers, int64 of shape (B, T) each; see `TokenRows.read`."""

    inputs_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    num_targets: int


def read_batch(rows: TokenRows, ids: Ids, num_rows: int, device: torch.device) -> Batch:
    """Rows by id, padded to `num_rows`, on the device."""
    inputs, targets, documents = (torch.from_numpy(array) for array in rows.read(ids, num_rows))
    num_targets = int((targets >= 0).sum())
    if device.type == "cuda":
        inputs, targets, documents = (tensor.pin_memory() for tensor in (inputs, targets, documents))
    inputs, targets, documents = (tensor.to(device, non_blocking=True) for tensor in (inputs, targets, documents))
    return Batch(inputs, targets, documents, num_targets)
