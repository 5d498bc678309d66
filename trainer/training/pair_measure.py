"""Held-out preference pairs: how many a model puts in the right order, and whether guessing could."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from trainer.events import PreferencesValidated
from trainer.tokens.order import Ids, share_of_rank
from trainer.tokens.shards import TokenRows
from trainer.training.batches import ReadBatch
from trainer.training.objective import Objective
from trainer.training.peers import Peers
from trainer.training.validation import LossOf, held_by_source, held_out_batches, weighed


@dataclass(frozen=True)
class PairMeasure:
    """The figures of a loss over pairs on held-out ones, the work shared among the processes."""

    rows: TokenRows
    read: ReadBatch
    module: Objective
    """Notes `accuracy` and `margin`, and `kl` if it has one; a batch's targets are its pairs."""
    batch_rows: int
    max_rows_per_source: int | None
    peers: Peers

    def measure(
        self, loss_of: LossOf, stop_requested: Callable[[], bool], *, in_lockstep: bool = False
    ) -> PreferencesValidated | None:
        """Collective. None when some process was asked to stop meanwhile."""
        started = time.monotonic()
        sources = list(self.rows.info.rows_by_source)
        batches = held_out_batches(self.rows, self.batch_rows, self.max_rows_per_source)
        mine = share_of_rank(len(batches), self.peers.world.rank, self.peers.world.size)
        sums = np.zeros((len(sources), 1 + len(self.module.figures)))
        for turn in range(-(-len(batches) // self.peers.world.size)):
            if turn < len(mine):
                source, ids = batches[mine[turn]]
                sums[source] += self._sums(loss_of, ids)
            elif in_lockstep:
                self._sums(loss_of, np.empty(0, np.int64))
            if self.peers.any(stop_requested()):
                return None
        totals = np.array(self.peers.sum(sums.ravel().tolist())).reshape(sums.shape)
        # a pair is two documents
        told = self._told(weighed(totals, held_by_source(self.rows, lambda shard: shard.documents // 2)))
        measured = totals.sum(axis=0)
        num_pairs, num_right = int(measured[0]), round(measured[1 + self.module.figures.index("accuracy")])
        return PreferencesValidated(
            pairs=num_pairs,
            accuracy=told["accuracy"],
            by_source={name: self._told(totals[place])["accuracy"] for place, name in enumerate(sources)},
            margin=told["margin"],
            duration_s=time.monotonic() - started,
            kl=told.get("kl"),
            p_value=p_of_guessing(num_right, num_pairs) if num_pairs else None,
        )

    def warm_up(self, loss_of: LossOf) -> None:
        """Collective where forward passes are: an empty batch."""
        self._sums(loss_of, np.empty(0, np.int64))

    def _sums(self, loss_of: LossOf, ids: Ids) -> np.ndarray:
        batch = self.read(self.rows, ids, self.batch_rows)
        with torch.no_grad():
            loss_of(batch.to(self.peers.device))
        assert self.module.noted is not None
        return np.array([batch.num_targets, *self.module.noted.tolist()])

    def _told(self, sums: np.ndarray) -> dict[str, float]:
        if not sums[0]:
            return dict.fromkeys(self.module.figures, math.nan)
        return self.module.told(dict(zip(self.module.figures, sums[1:].tolist(), strict=True)), float(sums[0]))


def p_of_guessing(num_right: int, num_pairs: int) -> float:
    """Probability that as many coins or more of `num_pairs` fall on the right side: the exact one-sided binomial test."""
    return sum(math.comb(num_pairs, count) for count in range(num_right, num_pairs + 1)) / 2**num_pairs
