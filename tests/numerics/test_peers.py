"""How processes of a run find each other, stage after stage."""

from pathlib import Path

import torch

from tests.support import ranks


def _meet_again_and_again() -> None:
    """Three groups, one after another; the first process takes its time to leave each."""
    import os
    import time

    from torch import distributed

    from trainer.training.peers import joined
    from trainer.world import World

    world, destroy = World.of(os.environ), distributed.destroy_process_group

    def late() -> None:
        time.sleep(0.5)
        destroy()

    if world.is_first:
        distributed.destroy_process_group = late
    for _ in range(3):
        with joined(world, torch.device("cpu"), 20) as peers:
            assert peers.sum([1.0]) == [2.0]


def test_a_process_that_is_early_for_the_next_stage_waits_for_the_others_and_not_for_the_last_group(tmp_path: Path) -> None:
    processes = ranks.start(_meet_again_and_again, (), tmp_path, 2)
    assert processes.wait(60) == [0, 0], processes.text()
