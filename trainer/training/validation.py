"""Held-out bits per byte by source, the work shared among the processes.

    bits per byte = nats of all targets / ln 2 / bytes of their text

The end of a document is a target of zero bytes: predicting it is part of the task. Bytes do not depend on the tokenizer, so
models with different vocabularies compare.

Rows lie in a split longest document first, so a cap on rows takes one row from each of equal stretches of a source. The figure
of all sources together weighs each by what it holds, not by what the cap let through: a ratio estimate over strata (Cochran,
Sampling Techniques, 1977, 6.10).

Shapes: S sources, K figures that are summed.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainer.events import AnswersValidated, Event, Validated
from trainer.tokens.order import Ids, share_of_rank
from trainer.tokens.shards import IGNORED, Shard, TokenRows
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
    """Measures a model on held-out rows of each source."""

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
        sums = np.zeros((len(sources), 3))
        for turn in range(-(-len(batches) // self.peers.world.size)):
            if turn < len(mine):
                source, ids = batches[mine[turn]]
                sums[source] += self._sums(loss_of, ids)
            elif in_lockstep:
                self._sums(loss_of, np.empty(0, np.int64))
            if self.peers.any(stop_requested()):
                return None
        totals = np.array(self.peers.sum(sums.ravel().tolist())).reshape(sums.shape)
        by_source, together = bits_per_byte_of(totals, self.rows)
        return self.event(bits_per_byte=together, by_source=by_source, duration_s=time.monotonic() - started)

    def warm_up(self, loss_of: LossOf) -> None:
        """Collective where forward passes are: an empty batch, so that a compiled model is compiled before the first step."""
        self._sums(loss_of, np.empty(0, np.int64))

    def batches(self) -> list[tuple[int, Ids]]:
        """The row ids to measure, each batch of one source, which is given by its place."""
        return held_out_batches(self.rows, self.batch_rows, self.max_rows_per_source)

    def _sums(self, loss_of: LossOf, ids: np.ndarray) -> tuple[int, float, float]:
        """Targets, their nats and the bytes of their text."""
        batch = read_batch(self.rows, ids, self.batch_rows)
        with torch.no_grad():
            nats = loss_of(batch.to(self.peers.device)).item()
        targets = batch.targets_BT.numpy()
        targets = targets[targets != IGNORED]
        return len(targets), nats, float(self.bytes_per_id[targets].sum())


def held_out_batches(rows: TokenRows, batch_rows: int, max_rows_per_source: int | None) -> list[tuple[int, Ids]]:
    """Ids of held-out rows to measure, in batches of one source each, with the source's place."""
    batches = []
    for index, (first, last) in enumerate(rows.info.rows_by_source.values()):
        ids = first + spread(last - first, max_rows_per_source)
        batches += [(index, ids[start : start + batch_rows]) for start in range(0, len(ids), batch_rows)]
    return batches


def spread(num_rows: int, most: int | None) -> Ids:
    """At most so many of `num_rows` rows, one from each of equal stretches, always the same ones; sorted.

    The place within a stretch is a hash of the stretch's number (splitmix64): a fixed place would fall in with a source whose
    rows alternate.
    """
    if most is None or num_rows <= most:
        return np.arange(num_rows)
    borders = np.arange(most + 1, dtype=np.int64) * num_rows // most
    mixed = np.arange(1, most + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return borders[:-1] + (mixed % np.diff(borders).astype(np.uint64)).astype(np.int64)


def weighed(sums_SK: np.ndarray, held_S: Sequence[int]) -> np.ndarray:
    """Sums over all sources, shape (K,), each source's scaled to what it holds in all.

    The first figure of `sums_SK` counts what was measured of a source, `held_S` what it holds of that.
    """
    counts_S = sums_SK[:, 0]
    scales_S = np.divide(np.array(held_S, float), counts_S, out=np.zeros_like(counts_S), where=counts_S > 0)
    together: np.ndarray = (sums_SK * scales_S[:, None]).sum(axis=0)
    return together


def held_by_source(rows: TokenRows, count: Callable[[Shard], int]) -> list[int]:
    """What the held-out split holds of each source, in the order of its sources, by what `count` says of a shard."""
    shards = [shard for shard in rows.manifest.shards if shard.split == "held_out"]
    return [sum(count(shard) for shard in shards if shard.source == source) for source in rows.info.rows_by_source]


def bits_per_byte_of(sums_S3: np.ndarray, rows: TokenRows) -> tuple[dict[str, float], float]:
    """Bits per byte by source and of all together, from each source's measured targets, nats and bytes."""
    by_source = {name: _bits_per_byte(*sums_S3[place, 1:]) for place, name in enumerate(rows.info.rows_by_source)}
    return by_source, _bits_per_byte(*weighed(sums_S3, held_by_source(rows, lambda shard: shard.tokens))[1:])


def _bits_per_byte(nats: float, size_bytes: float) -> float:
    return nats / math.log(2) / size_bytes if size_bytes else math.nan
