"""Pods without a cluster: the container's entrypoint as an operator starts it, each pod a process with children of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.support import ranks, runs
from tests.support.data import write_config
from trainer.checkpoint.format import MODEL_FILE, folder_name
from trainer.elastic.budget import Budget
from trainer.elastic.child import descendants

DEADLINE_S = 120.0
QUICK = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1"
"""A rendezvous whose waits are for tests: the operator's PET_RDZV_CONF wins over the entrypoint's."""


@dataclass
class Pod:
    """One running entrypoint."""

    name: str
    process: "subprocess.Popen[bytes]"
    text_file: Path
    termination_log: Path

    @property
    def text(self) -> str:
        return self.text_file.read_text(errors="replace")

    @property
    def message(self) -> str:
        """The termination message, empty if there is none."""
        return self.termination_log.read_text() if self.termination_log.exists() else ""

    def terminate(self) -> None:
        """As kubelet does it: SIGTERM to the first process of the container alone."""
        self.process.send_signal(signal.SIGTERM)

    def lose(self) -> None:
        """As when its node is gone: everything in it ends at once."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # so that nothing of it reacts to the end of the rest
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Its exit code; fails after the deadline."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {deadline_s} s:\n{self.text[-6000:]}") from None


@dataclass
class Job:
    """A run on a cluster of pods; the store's host is `localhost`, which is worker 0's name."""

    backend: str
    config: Path
    nodes: str = "1:3"
    command: str = "run"
    settings: Mapping[str, str] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    port: int = field(default_factory=ranks.free_port)

    @property
    def folder(self) -> Path:
        return self.config.parent

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start(self, index: int, *arguments: str, **variables: str) -> Pod:
        """A pod as its operator starts it: index 0 hosts the rendezvous' store."""
        name = f"{('localhost' if index == 0 else f'worker-{index}')}"
        if self.backend == "job":
            name = f"{name}-{len(self.pods):05x}"
        termination_log = self.folder / f"termination-{len(self.pods)}"
        common = {
            "PRETRAIN_RUN_BACKEND": self.backend,
            "PRETRAIN_RUN_NAME": "small",
            "PRETRAIN_RUN_STATE": str(self.folder / "state"),
            "PRETRAIN_RUN_TERMINATION_LOG": str(termination_log),
            "PRETRAIN_RUN_NODES": self.nodes,
            "PRETRAIN_RUN_PROCESSES": "1",
            "PRETRAIN_RUN_MAX_RESTARTS": "5",
            "POD_NAME": name,
            "POD_IP": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }
        environment = {**os.environ, **common, **self._injected(index), **self.settings, **variables}
        text_file = self.folder / f"pod-{len(self.pods)}-{name}.txt"
        command = [sys.executable, "-m", "trainer.elastic", self.command, "--config", str(self.config), *arguments]
        with text_file.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        pod = Pod(name, process, text_file, termination_log)
        self.pods.append(pod)
        return pod

    def _injected(self, index: int) -> dict[str, str]:
        """What the operator adds: training-operator 1.9 for an elastic job of workers alone, or the Job controller."""
        if self.backend == "job":
            return {
                "JOB_COMPLETION_INDEX": str(index),
                "PRETRAIN_RUN_RENDEZVOUS": f"localhost:{self.port}",
                "PET_RDZV_CONF": QUICK,
            }
        return {
            "PET_RDZV_BACKEND": "c10d",
            "PET_RDZV_ENDPOINT": f"localhost:{self.port}",
            "PET_RDZV_ID": "small-0123456789",
            "PET_RDZV_CONF": QUICK,
            "PET_NNODES": self.nodes,
            "PET_NPROC_PER_NODE": "1",
            "PET_MAX_RESTARTS": "2",
        }

    def wait_for(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Until the condition holds; fails when all pods end before, or after the deadline, with every pod's words."""
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"not within {deadline_s} s:\n{self.text()}"
            assert any(pod.process.poll() is None for pod in self.pods), f"all pods ended before:\n{self.text()}"
            time.sleep(0.02)

    def wait_for_steps(self, count: int) -> None:
        """Until so many more steps are told."""
        target = runs.last_step(self.run) + count
        self.wait_for(lambda: runs.last_step(self.run) >= target)

    def worlds(self) -> list[int]:
        """World sizes of all rounds so far."""
        return [event["world_size"] for event in runs.events(self.run, "training_started")]

    def wait_for_round(self, rounds: int, world: int) -> None:
        """Until a round of this world size has begun after the first `rounds`."""
        self.wait_for(lambda: world in self.worlds()[rounds:])
        for pid in self.newest_pids:
            _make_nice(pid)

    @property
    def failures(self) -> int:
        """What the run's budget has counted."""
        return Budget(self.folder / "state" / "budget" / "attempt-0", "nobody", 5, None).failures()

    @property
    def newest_pids(self) -> list[int]:
        """Processes of the newest round, by rank."""
        pids: list[int] = runs.events(self.run, "training_started")[-1]["pids"]
        return pids

    def text(self) -> str:
        return "\n".join(f"--- {pod.name} ({pod.process.poll()})\n{pod.text[-5000:]}" for pod in self.pods)

    def end(self) -> None:
        """Leave no process behind."""
        for pod in self.pods:
            if pod.process.poll() is None:
                pod.lose()


def _make_nice(pid: int) -> None:
    """Let processes that train leave the cores to those that start, so that fewer steps pass while a test waits for these."""
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)


def codes(pods: Sequence[Pod], deadline_s: float = DEADLINE_S) -> list[int]:
    """Exit codes of pods, in order."""
    return [pod.wait(deadline_s) for pod in pods]


@contextmanager
def job(backend: str, config: Path, **values: Any) -> Iterator[Job]:
    """A job none of whose processes is left at the end."""
    each = Job(backend, config, **values)
    try:
        yield each
    finally:
        each.end()


def elastic_config(folder: Path, data: Path, **changes: Any) -> Path:
    """A run that no test sees the end of, unless by `pretrain.stop_after`; differences of float order stay below 1e-5 in it."""
    quiet: dict[str, Any] = {
        "pretrain__steps": 100_000,
        "pretrain__optimizer": {"kind": "adamw", "lr": 0.001},
        "checkpoint__every_steps": 20,
        "stages": ["pretrain"],
    }
    folder.mkdir(exist_ok=True)
    return write_config(folder / "config.yaml", data, **quiet | changes)


class Undisturbed:
    """A run of one process that is led on, step by step, as far as it is asked for."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._config = elastic_config(folder, data)
        self.run = folder / "run"

    def same(self, other: Path, step: int) -> None:
        """Assert that another run saw the same rows in every step and has the same weights and losses after `step` steps."""
        if runs.newest_step(self.run) > step:
            shutil.rmtree(self.run)
        ranks.run_trainer(
            "pretrain", "--config", str(self._config), "--set", f"pretrain.stop_after={step}", folder=self._folder
        )
        expected_rows, rows = runs.rows_by_step(self.run), runs.rows_by_step(other)
        for number in range(step):
            assert rows[number] == expected_rows[number], f"step {number}"
        expected_losses, losses = runs.losses(self.run), runs.losses(other)
        for number in range(1, step + 1):
            assert abs(losses[number] - expected_losses[number]) < 1e-4, f"step {number}"
        expected_weights, weights = _weights(self.run, step), _weights(other, step)
        for name, value in expected_weights.items():
            np.testing.assert_allclose(weights[name], value, rtol=0, atol=1e-5, err_msg=name)


def _weights(run: Path, step: int) -> dict[str, np.ndarray]:
    return load_file(run / "checkpoints" / folder_name(step) / MODEL_FILE)
