"""What the processes of a run say to each other: their group, and small agreements. Every method is collective."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from trainer.errors import PeerLostError, UsageError
from trainer.world import World


@dataclass(frozen=True, slots=True)
class Peers:
    """This process and the others, on its device. A world of one agrees with itself at no cost."""

    world: World
    device: torch.device

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes of each value, in float64."""
        if self.world.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        result: list[float] = tensor.tolist()
        return result

    def any(self, value: bool) -> bool:
        """Whether it is true for some process."""
        return self.sum([float(value)])[0] > 0

    def all(self, value: bool) -> bool:
        """Whether it is true for every process."""
        return self.sum([float(value)])[0] == self.world.size

    def gather(self, value: int) -> list[int]:
        """Every process's value, by rank."""
        values = [0.0] * self.world.size
        values[self.world.rank] = float(value)
        return [int(each) for each in self.sum(values)]

    def from_first(self, value: int) -> int:
        """The first process's value."""
        return int(self.sum([float(value) if self.world.is_first else 0.0])[0])


@contextmanager
def joined(world: World, device: torch.device, timeout_s: float, *, group_of_one: bool = False) -> Iterator[Peers]:
    """The group of all processes while the block runs: NCCL on cuda, gloo elsewhere; whoever waits longer gives up.

    A process alone needs none, unless `group_of_one`.
    """
    if world.size == 1 and not group_of_one:
        yield Peers(world, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    device_id = device if device.type == "cuda" else None
    timeout = timedelta(seconds=timeout_s)
    if world.size == 1:
        store: Store = HashStore()
    else:
        store = _meeting_place(timeout)
    distributed.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout, device_id=device_id
    )
    try:
        yield Peers(world, device)
    except RuntimeError as error:
        if _is_loss_of_peer(error):
            first_line = str(error).splitlines()[0]
            raise PeerLostError(f"rank {world.rank}: another training process died or fell silent: {first_line}") from error
        raise
    finally:
        if distributed.is_initialized():  # an engine may have ended it
            distributed.destroy_process_group()


@dataclass
class _Store:
    """The store that a process's groups share, one after another."""

    address: tuple[str | None, str | None]
    store: Store
    groups: int = 0


_known: _Store | None = None


def _meeting_place(timeout: timedelta) -> Store:
    """Where the processes find each other for their next group.

    The first process's store lives as long as the process, and each group has a prefix of its own. A store for each group would
    be made anew at the same address, where a process that is early finds the last one, which is closed while it waits there.
    """
    global _known
    address = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if _known is None or _known.address != address:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        _known = _Store(address, store)
    _known.store.set_timeout(timeout)
    _known.groups += 1
    return PrefixStore(f"group-{_known.groups}", _known.store)


def _is_loss_of_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because of another process. gloo's errors are plain RuntimeErrors that name its source."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error) or "Connection" in str(error)


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device of this process: `auto` takes cuda where there is one, else mps, else cpu. Raises UsageError."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("device: cuda: torch finds no GPU here; use device: auto or cpu")
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"device: cuda: local rank {local_rank} has no GPU of its own, there are {torch.cuda.device_count()}; "
                "start fewer processes per node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device: mps: torch finds none here; use device: auto or cpu")
    return torch.device(wanted)
