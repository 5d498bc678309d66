"""Held-out bits per byte by source, the work shared among the processes.

    bits per byte = nats of all targets / ln 2 / bytes of their text

The end of a document is a target of zero bytes: predicting it is part of the task. Bytes do not depend on the tokenizer, so
models with different vocabularies compare.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainer.events import AnswersValidated, Event, Validated
from trainer.tokens.order import share_of_rank
from trainer.tokens.shards import IGNORED, TokenRows
from trainer.training.batches import Batch, read_batch
from trainer.training.peers import Peers

LossOf = Callable[[Batch], Tensor]
"""Sum of nats over a batch's targets."""


class Measure(Protocol):
    """Something that is measured on held-out rows now and then."""

    def measure(self, loss_of: LossOf, stop_requested: Callable[[], bool], *, in_lockstep: bool = False) -> Event | None:
        """Collective. None when some process was asked to stop meanwhile."""
        ...

    def warm_up(self, loss_of: LossOf) -> None:
        """Collective where forward passes are: an empty batch, so that a compiled model is compiled before the first step."""
        ...


@dataclass(frozen=True)
class Validator:
    """Measures a model on the first held-out rows of each source."""

    rows: TokenRows
    bytes_per_id: np.ndarray
    batch_rows: int
    max_rows_per_source: int | None
    peers: Peers
    event: type[Validated] | type[AnswersValidated] = Validated

    def measure(
        self, loss_of: LossOf, stop_requested: Callable[[], bool], *, in_lockstep: bool = False
    ) -> Validated | AnswersValidated | None:
        """Collective. None when some process was asked to stop meanwhile.

        `in_lockstep`: the model's forward pass is collective, so a process without work computes an empty batch.
        """
        started = time.monotonic()
        sources = list(self.rows.info.rows_by_source)
        batches = self.batches()
        mine = share_of_rank(len(batches), self.peers.world.rank, self.peers.world.size)
        sums = np.zeros((len(sources), 2))
        for turn in range(-(-len(batches) // self.peers.world.size)):
            if turn < len(mine):
                source, ids = batches[mine[turn]]
                sums[source] += self._nats_and_bytes(loss_of, ids)
            elif in_lockstep:
                self._nats_and_bytes(loss_of, np.empty(0, np.int64))
            if self.peers.any(stop_requested()):
                return None
        totals = np.array(self.peers.sum(sums.ravel().tolist())).reshape(sums.shape)
        by_source = {name: _bits_per_byte(*totals[index]) for index, name in enumerate(sources)}
        nats, size_bytes = totals.sum(axis=0)
        return self.event(
            bits_per_byte=_bits_per_byte(nats, size_bytes), by_source=by_source, duration_s=time.monotonic() - started
        )

    def warm_up(self, loss_of: LossOf) -> None:
        """Collective where forward passes are: an empty batch, so that a compiled model is compiled before the first step."""
        self._nats_and_bytes(loss_of, np.empty(0, np.int64))

    def batches(self) -> list[tuple[int, np.ndarray]]:
        """The row ids to measure, each batch of one source, which is given by its place."""
        return held_out_batches(self.rows, self.batch_rows, self.max_rows_per_source)

    def _nats_and_bytes(self, loss_of: LossOf, ids: np.ndarray) -> tuple[float, float]:
        batch = read_batch(self.rows, ids, self.batch_rows)
        with torch.no_grad():
            nats = loss_of(batch.to(self.peers.device)).item()
        targets = batch.targets_BT.numpy()
        return nats, float(self.bytes_per_id[targets[targets != IGNORED]].sum())


def held_out_batches(rows: TokenRows, batch_rows: int, max_rows_per_source: int | None) -> list[tuple[int, np.ndarray]]:
    """The ids of each source's first held-out rows in batches, each with its source's place."""
    batches = []
    for index, (first, last) in enumerate(rows.info.rows_by_source.values()):
        last = min(last, first + (max_rows_per_source or last))
        batches += [(index, np.arange(start, min(start + batch_rows, last))) for start in range(first, last, batch_rows)]
    return batches


def _bits_per_byte(nats: float, size_bytes: float) -> float:
    return nats / math.log(2) / size_bytes if size_bytes else math.nan
