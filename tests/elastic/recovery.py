"""How long a run takes to train again after what befalls it: the table of docs/failure-modes.md (`make bench-recovery`).

From the moment that it happens to the first step's beginning in the next round: two pods of one process, gloo, on this machine.
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.support.data import make_small_data
from tests.support.pods import QUICK, Job, Pod, codes, elastic_config, job
from tests.support.tables import table

DEFAULTS = "keep_alive_interval=3,keep_alive_max_attempt=3,last_call_timeout=5"
"""What pods get that set nothing."""
REPEATS = 3


def main() -> None:
    columns = {"1 s and 3 s": QUICK, "defaults, 5 s and 9 s": DEFAULTS}
    with tempfile.TemporaryDirectory() as scratch:
        data = make_small_data(Path(scratch) / "data")
        found: dict[str, list[list[float]]] = {}
        for number, waits in enumerate(columns.values()):
            for repeat in range(REPEATS):
                folder = Path(scratch) / f"{number}-{repeat}"
                config = elastic_config(folder, data)
                with job("pytorchjob", config, nodes="1:3", settings={"PET_RDZV_CONF": waits}) as elastic:
                    for what, seconds in _story(elastic):
                        found.setdefault(what, [[] for _ in columns])[number].append(seconds)
    rows = [(what, *(f"{sorted(times)[REPEATS // 2]:.1f}" for times in of_waits)) for what, of_waits in found.items()]
    print(table(f"Seconds until it trains again, medians of {REPEATS}; torch {torch.__version__}", ["what", *columns], rows))


def _story(elastic: Job) -> list[tuple[str, float]]:
    """Everything, one after the other."""
    told: list[tuple[str, float]] = []

    def timed(what: str, act: Callable[[], Pod | None], world: int) -> Pod | None:
        rounds, started = len(elastic.worlds()), time.monotonic()
        made = act()
        elastic.wait_for_round(rounds, world=world)
        told.append((what, time.monotonic() - started))
        elastic.wait_for_steps(5)
        return made

    pods = [elastic.start(0)]

    def start(index: int) -> Callable[[], Pod]:
        def act() -> Pod:
            pods[index : index + 1] = [elastic.start(index)]
            return pods[index]

        return act

    def lose_first() -> None:
        pods[0].lose()
        pods[0] = elastic.start(0)

    timed("the first start, of two pods", start(1), 2)
    timed("a training process dies", lambda: os.kill(elastic.newest_pids[1], signal.SIGKILL), 2)
    timed("a pod is lost with its node: the other one goes on", lambda: pods[1].lose(), 1)
    timed("its replacement joins", start(1), 2)
    timed("SIGTERM to a pod: the other one goes on", lambda: pods[1].terminate(), 1)
    timed("a pod more (scale up)", start(1), 2)
    timed("the pod that hosts the store is lost and replaced", lose_first, 2)
    started = time.monotonic()
    for pod in pods:
        pod.terminate()
    assert codes(pods) == [143, 143], elastic.text()
    told.append(("SIGTERM to all pods: until they have ended", time.monotonic() - started))
    return told


if __name__ == "__main__":
    main()
