"""Processes for tests, forked from a server that has torch loaded: a rank starts in about 50 ms instead of 5 to 8 s.

They are real processes with real signals, exit codes and gloo connections; only the import is saved.
"""

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

DEADLINE_S = 150.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded"])


@dataclass
class Ranks:
    """The processes of one run."""

    processes: list[BaseProcess]
    outputs: list[Path]

    @property
    def pids(self) -> list[int]:
        return [process.pid or 0 for process in self.processes]

    def wait(self, deadline_s: float = DEADLINE_S) -> list[int]:
        """Exit codes by rank; minus the signal for one that a signal ended. Kills all and fails after the deadline."""
        end = time.monotonic() + deadline_s
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        alive = [process for process in self.processes if process.is_alive()]
        self.kill()
        assert not alive, f"{len(alive)} processes did not end within {deadline_s} s:\n{self.text()}"
        return [process.exitcode or 0 for process in self.processes]

    def wait_for(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Until the condition holds; fails when all processes end before, or after the deadline."""
        end = time.monotonic() + deadline_s
        while not condition():
            assert any(process.is_alive() for process in self.processes), f"all ended before:\n{self.text()}"
            assert time.monotonic() < end, f"not within {deadline_s} s:\n{self.text()}"
            time.sleep(0.002)

    def signal(self, number: signal.Signals, rank: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pids[rank], number)

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()

    def text(self) -> str:
        return "\n".join(f"--- rank {n}\n{path.read_text(errors='replace')}" for n, path in enumerate(self.outputs))


def start(function: Callable[..., Any], arguments: Sequence[Any], folder: Path, world_size: int = 1) -> Ranks:
    """Run `function(*arguments)` in each of `world_size` processes, which find each other by the usual variables."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    ranks = Ranks([], [])
    stamp = f"{time.monotonic_ns()}"
    for rank in range(world_size):
        environment = {}
        if world_size > 1:
            environment = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world_size,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        output = folder / f"output-{stamp}-{rank}.txt"
        output.touch()
        texts = {name: str(value) for name, value in environment.items()}
        process = _context.Process(target=_in_rank, args=(function, tuple(arguments), texts, str(output)))
        process.start()
        ranks.processes.append(process)
        ranks.outputs.append(output)
    return ranks


def trainer(*arguments: str, folder: Path, world_size: int = 1) -> Ranks:
    """The trainer's command line in `world_size` processes."""
    return start(_main, arguments, folder, world_size)


def run_trainer(*arguments: str, folder: Path, world_size: int = 1) -> str:
    """The trainer's command line to a good end; returns what the first rank printed."""
    ranks = trainer(*arguments, folder=folder, world_size=world_size)
    codes = ranks.wait()
    assert codes == [0] * world_size, f"{codes}\n{ranks.text()}"
    return ranks.outputs[0].read_text()


def _main(*arguments: str) -> None:
    from trainer.cli import main

    main(arguments)


def _in_rank(function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], output: str) -> None:
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    function(*arguments)


def agreed_port(file: Path, choose: bool, deadline_s: float = DEADLINE_S) -> str:
    """A port that is free now, chosen by one process and learned by the others from a file."""
    if choose:
        partial = file.with_suffix(".partial")
        partial.write_text(str(free_port()))
        partial.rename(file)
    end = time.monotonic() + deadline_s
    while not file.exists():
        assert time.monotonic() < end, f"{file}: no port was chosen within {deadline_s} s"
        time.sleep(0.01)
    return file.read_text()


def free_port() -> int:
    """A port that is free now, and none that the kernel may give to an outgoing connection before it is listened at."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
