"""Which rows a step takes and in which micro-batches: pure functions of (seed, step). Only the last question, which rank
computes which micro-batch, knows the world size.

    position p = step * G + j            0 <= j < G, G rows in a global batch
    row(p)     = permutation(seed, epoch = p // N)[p % N]       N rows in all

A step is cut into V = G / M micro-batches of M rows; a rank owns a contiguous range of them, and ranges may be uneven. The
run's last step may be short, so that whole epochs take every row exactly once. Where the batch warms up, the first steps take
fewer rows, and p = start(step) + j with start the sum of all batches before. The cursor is one integer: the step.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_ROUNDS = 6
"""Feistel rounds; 4 make a pseudo-random permutation of a pseudo-random function (Luby and Rackoff 1988)."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one training run."""

    seed: int
    num_rows: int
    global_batch: int
    micro_batch: int
    num_positions: int
    """Rows that the whole run takes, repeats over epochs included."""
    ramp: tuple[int, ...] = ()
    """Rows of the first steps, where the batch warms up; each a multiple of M and at most G."""

    @staticmethod
    def of_steps(
        seed: int, num_rows: int, global_batch: int, micro_batch: int, num_steps: int, ramp: tuple[int, ...] = ()
    ) -> "Order":
        """A run of so many full steps."""
        whole = Order(seed, num_rows, global_batch, micro_batch, 0, ramp)
        return replace(whole, num_positions=whole._start_of_full_step(num_steps))

    @staticmethod
    def of_epochs(
        seed: int, num_rows: int, global_batch: int, micro_batch: int, num_epochs: int, ramp: tuple[int, ...] = ()
    ) -> "Order":
        """A run of whole passes over the rows."""
        return Order(seed, num_rows, global_batch, micro_batch, num_epochs * num_rows, ramp)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        beyond_ramp = self.num_positions - sum(self.ramp)
        if beyond_ramp >= 0:
            return len(self.ramp) + -(-beyond_ramp // self.global_batch)
        return next(step for step in range(len(self.ramp) + 1) if self._start_of_full_step(step) >= self.num_positions)

    def start_of_step(self, step: int) -> int:
        """Rows that all steps before this one take: the position of its first row."""
        return min(self._start_of_full_step(step), self.num_positions)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a full step: the largest world size that has work for every rank."""
        return self.global_batch // self.micro_batch

    def rows_of_step(self, step: int) -> Ids:
        """The row ids of a step, int64 of length G; shorter in the last step and while the batch warms up."""
        positions = np.arange(self.start_of_step(step), self.start_of_step(step + 1))
        rows = np.empty(len(positions), np.int64)
        epochs = positions // self.num_rows
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = permuted(self.seed, int(epoch), self.num_rows, positions[chosen] % self.num_rows)
        return rows

    def micro_batches_of_step(self, step: int) -> list[Ids]:
        """The rows of a step in micro-batches of M; the run's last one may be shorter."""
        rows = self.rows_of_step(step)
        return [rows[start : start + self.micro_batch] for start in range(0, len(rows), self.micro_batch)]

    def _start_of_full_step(self, step: int) -> int:
        return sum(self.ramp[:step]) + max(0, step - len(self.ramp)) * self.global_batch


def batch_ramp(micro_batch: int, first: int, last: int, num_steps: int) -> tuple[int, ...]:
    """Rows of each step of a batch warm-up: a straight line from `first` towards `last`, in whole micro-batches."""
    lowest, highest = first // micro_batch, last // micro_batch
    return tuple(micro_batch * (lowest + (highest - lowest) * step // num_steps) for step in range(num_steps))


def share_of_rank(num_items: int, rank: int, world_size: int) -> range:
    """The contiguous range of items that a rank owns; sizes differ by at most one, the first ranks take more."""
    base, extra = divmod(num_items, world_size)
    start = rank * base + min(rank, extra)
    return range(start, start + base + (rank < extra))


def permuted(seed: int, epoch: int, size: int, positions: Ids) -> Ids:
    """Elements of a pseudo-random permutation of range(size) at the given positions, in time and memory of `positions` alone.

    A balanced Feistel network over the next even number of bits; what falls outside of the range walks on along its cycle
    until it is inside (Black and Rogaway 2002, "cycle walking"). Our own rather than numpy's shuffle, whose stream may change
    with numpy's version, while an order has to stay the same for as long as a checkpoint lives.
    """
    half_bits = max(1, -(-max(size - 1, 1).bit_length() // 2))
    keys = [_mix(np.uint64(seed % 2**64) ^ _mix(np.uint64(epoch * _ROUNDS + round_ + 1))) for round_ in range(_ROUNDS)]
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half_bits: int, keys: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    shift = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(value, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
