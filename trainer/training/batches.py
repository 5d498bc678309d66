"""Rows on the way from the token shards to the device, read ahead of the step that needs them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainer.tokens.order import Ids, Order, share_of_rank
from trainer.tokens.shards import IGNORED, TokenRows
from trainer.world import World

_READ_AHEAD = 2
"""Micro-batches read while another one computes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows on a device: inputs, targets and document numbers, int64 of shape (B, T) each; see `TokenRows.read`."""

    inputs_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    used_N: Tensor | None
    """Places of the targets that count in the flattened (B T); None if all do. From the host, so that nothing waits."""
    num_targets: int
    """What a step's sums are divided by: targets that count, or of pairs the pairs."""

    def to(self, device: torch.device) -> Self:
        """On another device; the copy of pinned memory runs behind what the device does."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """In page-locked memory, which a GPU can fetch by itself."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, act: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: act(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def read_batch(rows: TokenRows, ids: Ids, num_rows: int) -> Batch:
    """Rows by id, padded to `num_rows`, in main memory."""
    inputs, targets, documents = rows.read(ids, num_rows)
    used = np.flatnonzero(targets.ravel() != IGNORED)
    return Batch(
        torch.from_numpy(inputs),
        torch.from_numpy(targets),
        torch.from_numpy(documents),
        torch.from_numpy(used) if len(used) < targets.size else None,
        len(used),
    )


ReadBatch = Callable[[TokenRows, Ids, int], Batch]
"""Rows by id, padded to a number of rows, in main memory."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A micro-batch before it is read."""

    number: int | None
    ids: Ids
    is_last: bool


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One micro-batch of a step that is this process's to compute."""

    number: int | None
    """Its place in the step; None for an empty one, computed only to keep step with the others."""
    ids: Ids
    batch: Batch
    is_last: bool
    """This process's last one of the step."""


class Loader:
    """This process's micro-batches, step by step. A thread reads the next ones, across the border of a step too."""

    def __init__(
        self,
        rows: TokenRows,
        order: Order,
        world: World,
        device: torch.device,
        *,
        in_lockstep: bool,
        read: ReadBatch = read_batch,
    ) -> None:
        """`in_lockstep`: every process gets equally many of a step, empty ones where the order has no more for it."""
        self._read_rows = read
        self._rows, self._order, self._world, self._device, self._in_lockstep = rows, order, world, device, in_lockstep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: deque[tuple[int, _Plan, Future[Batch]]] = deque()
        self._plans: Iterator[tuple[int, _Plan]] = iter(())

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step, in order; consume them or leave off, the next step starts anew."""
        if not self._ahead or self._ahead[0][0] != step:
            self._start_at(step)
        while self._ahead and self._ahead[0][0] == step:
            _, plan, future = self._ahead.popleft()
            self._read_more()
            batch = future.result()
            yield MicroBatch(plan.number, plan.ids, batch.to(self._device), plan.is_last)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _start_at(self, step: int) -> None:
        self._ahead.clear()
        self._plans = ((later, plan) for later in range(step, self._order.num_steps) for plan in self._of_step(later))
        self._read_more()

    def _read_more(self) -> None:
        while len(self._ahead) < _READ_AHEAD and (planned := next(self._plans, None)) is not None:
            self._ahead.append((*planned, self._thread.submit(self._read, planned[1].ids)))

    def _read(self, ids: Ids) -> Batch:
        batch = self._read_rows(self._rows, ids, self._order.micro_batch)
        return batch.pinned() if self._device.type == "cuda" else batch

    def _of_step(self, step: int) -> list[_Plan]:
        all_ids = self._order.micro_batches_of_step(step)
        mine = list(share_of_rank(len(all_ids), self._world.rank, self._world.size))
        plans = [(number, all_ids[number]) for number in mine]
        most = -(-len(all_ids) // self._world.size) if self._in_lockstep else len(mine)
        empty = np.empty(0, np.int64)
        padded = [*plans, *((None, empty) for _ in range(most - len(mine)))]
        return [_Plan(number, ids, place == most - 1) for place, (number, ids) in enumerate(padded)]
