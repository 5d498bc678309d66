"""Under torchrun itself: an agent joins, a worker is killed, an agent is lost and replaced, and the run goes on exactly."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.data import write_config
from trainer.elastic.local import elastic_environment

DEADLINE_S = 150.0


@contextmanager
def agent(config: Path, port: int, output: Path, nnodes: str, processes: int = 1) -> Iterator["subprocess.Popen[bytes]"]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", nnodes, "--nproc-per-node", str(processes),
        "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test",
        "--rdzv-conf", "last_call_timeout=3",
        "-m", "trainer", "pretrain", "--config", str(config),
    ]  # fmt: skip
    environment = elastic_environment(os.environ, threads=1)
    with output.open("ab") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def wait_for(condition: Callable[[], bool], output: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, output.read_text(errors="replace")[-6000:]
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def world_sizes(run: Path) -> list[int]:
    return [event["world_size"] for event in runs.events(run, "training_started")]


@pytest.mark.timeout(400)
def test_agents_join_die_and_are_replaced_with_no_row_repeated_or_skipped(small_data: Path, tmp_path: Path) -> None:
    """The rendezvous store that torch shares by default hangs the joining agent; `elastic_environment` turns that off."""
    steps = 100_000  # far more than the test needs: it ends by a signal
    config = write_config(
        tmp_path / "config.yaml", small_data, pretrain__steps=steps, checkpoint__every_steps=20, tracking__log_every_steps=5
    )
    run, output, port = tmp_path / "run", tmp_path / "agents.txt", free_port()
    with agent(config, port, output, "1:2") as first:
        wait_for(lambda: runs.last_step(run) >= 20, output)
        with agent(config, port, output, "1:2") as second:
            wait_for(lambda: world_sizes(run)[-1:] == [2], output)
            joined_at = runs.events(run, "training_started")[-1]["step"]
            wait_for(lambda: runs.last_step(run) >= joined_at + 40, output)
            os.kill(runs.events(run, "training_started")[-1]["pids"][1], signal.SIGKILL)
            starts = len(world_sizes(run))
            wait_for(lambda: len(world_sizes(run)) > starts, output)
            resumed_at = runs.events(run, "training_started")[-1]["step"]
            wait_for(lambda: runs.last_step(run) >= resumed_at + 20, output)
            assert world_sizes(run)[-1] == 2
            starts = len(world_sizes(run))
            os.killpg(second.pid, signal.SIGKILL)  # a node is lost: its agent and its worker at once
            os.kill(runs.events(run, "training_started")[-1]["pids"][1], signal.SIGKILL)
        wait_for(lambda: len(world_sizes(run)) > starts and world_sizes(run)[-1] == 1, output)
        with agent(config, port, output, "1:2") as third:
            wait_for(lambda: world_sizes(run)[-1] == 2, output)
            replaced_at = runs.events(run, "training_started")[-1]["step"]
            wait_for(lambda: runs.last_step(run) >= replaced_at + 20, output)
            for process in (first, third):
                process.send_signal(signal.SIGTERM)
            for process in (first, third):
                process.wait(60)
    finished = runs.newest_step(run)
    assert finished >= replaced_at + 20
    taken = runs.rows_by_step(run)
    from trainer.tokens.order import Order
    from trainer.tokens.shards import read_manifest

    num_rows = read_manifest(small_data / "tokens").splits["train"].rows
    order = Order.of_steps(1234, num_rows, 8, 2, steps)
    for step in range(finished):
        assert taken[step] == order.rows_of_step(step).tolist(), step
