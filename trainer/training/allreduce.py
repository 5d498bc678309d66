"""`torchrun --nproc_per_node 2 -m trainer.training.allreduce`: do processes on this machine reach each other?

What `helm test` runs with the image of a run. Prints one line; exit code 1 and a line that says what is wrong otherwise.
"""

import os
import sys

import torch

from trainer.errors import TrainerError
from trainer.training.peers import joined
from trainer.world import World

TIMEOUT_S = 60.0


def main() -> int:
    """Sum the ranks over all processes and compare with what must come out."""
    try:
        world = World.of(os.environ)
        with joined(world, _device(world), TIMEOUT_S) as peers:
            total = peers.sum([float(world.rank + 1)])[0]
            kind = peers.device.type
    except TrainerError as error:
        print(f"allreduce: {error}", file=sys.stderr)
        return 1
    wanted = world.size * (world.size + 1) / 2
    if total != wanted:
        print(f"allreduce: the sum over {world.size} processes is {total} instead of {wanted}", file=sys.stderr)
        return 1
    if world.is_first:
        print(f"allreduce: {world.size} processes on {kind} reach each other")
    return 0


def _device(world: World) -> torch.device:
    """A GPU for each process where there are enough, else the CPU."""
    if torch.cuda.is_available() and torch.cuda.device_count() >= world.size:
        torch.cuda.set_device(world.local_rank)
        return torch.device("cuda", world.local_rank)
    return torch.device("cpu")


if __name__ == "__main__":
    sys.exit(main())
