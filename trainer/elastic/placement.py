"""What a pod has to start: a torch elastic agent, mpirun, or one process that mpirun started. Pure: environment to commands.

torch decides by host names who hosts the rendezvous' store, and guesses wrong behind CNAMEs (pytorch#73380, #79388); here the
pod's own name or index decides. Everything is said on the command line, so the operator's PET_ variables are taken away.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Protocol

from trainer.elastic.local import elastic_environment
from trainer.elastic.mpi import MpiLauncher, MpiRank
from trainer.elastic.settings import Settings, Variables
from trainer.errors import UsageError

NO_END = 1_000_000
"""Restarts that a torch agent may make by itself. An agent that gives up closes the rendezvous for all others, and a new one
imports torch again; so agents never give up, and the run's own budget decides."""

_MINE_ALONE = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What an operator may set for programs that do without an agent; torch sets them anew for each process."""


class Placement(Protocol):
    """A command that trains, and what it needs."""

    @property
    def processes(self) -> int:
        """Training processes on each machine."""
        ...

    @property
    def stop_signal(self) -> Signals:
        """The signal to the command that makes the training processes save and end."""
        ...

    @property
    def most_processes(self) -> int:
        """Training processes of the whole run, at most."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Host names that must be known before the command starts."""
        ...

    def command(self, arguments: Sequence[str], scratch: Path) -> list[str]:
        """The command for the trainer's `arguments`; `scratch` is a folder that may be filled."""
        ...

    def environment(self, environment: Mapping[str, str], threads: int) -> dict[str, str]:
        """The environment of the command."""
        ...


@dataclass(frozen=True, slots=True)
class Agent:
    """One torch elastic agent: it meets those of the other pods and runs `processes` training processes."""

    pod: str
    run: str
    min_nodes: int
    max_nodes: int
    processes: int
    endpoint: tuple[str, int]
    hosts_store: bool
    address: str | None
    """This pod's IP, which the others are told: names of pods may not be known everywhere (pytorch#150532)."""
    grace_s: float
    rendezvous: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(settings: Settings, environment: Mapping[str, str]) -> "Agent":
        """Raises UsageError naming the variable."""
        variables = Variables(environment)
        host, port = variables.endpoint("PET_RDZV_ENDPOINT", "PRETRAIN_RUN_RENDEZVOUS")
        if settings.backend == "job":
            hosts_store = variables.whole("JOB_COMPLETION_INDEX") == 0
        else:
            hosts_store = settings.pod.partition(".")[0] == host.partition(".")[0]
        rendezvous_backend = variables.text("PET_RDZV_BACKEND", default="c10d")
        if rendezvous_backend != "c10d":
            raise UsageError(f"PET_RDZV_BACKEND={rendezvous_backend}: only c10d is supported; set rdzvBackend: c10d")
        min_nodes, max_nodes = variables.range("PET_NNODES", "PRETRAIN_RUN_NODES")
        conf = {
            "join_timeout": str(int(settings.join_timeout_s)),
            "last_call_timeout": str(variables.whole("PRETRAIN_RUN_LAST_CALL_S", default=5, least=1)),
            # a pod that falls silent is left out after 9 s; torch's own 15 s are most of a recovery
            "keep_alive_interval": "3",
            "keep_alive_max_attempt": "3",
            **variables.pairs("PET_RDZV_CONF"),
            "is_host": "1" if hosts_store else "0",
        }
        return Agent(
            pod=settings.pod,
            run=settings.name,
            min_nodes=min_nodes,
            max_nodes=max_nodes,
            processes=variables.whole("PET_NPROC_PER_NODE", "PRETRAIN_RUN_PROCESSES", least=1),
            endpoint=(host, port),
            hosts_store=hosts_store,
            address=variables.text("POD_IP", default="") or None,
            grace_s=settings.grace_s,
            rendezvous=conf,
        )

    @property
    def stop_signal(self) -> Signals:
        """What the agent hands on."""
        return SIGTERM

    @property
    def most_processes(self) -> int:
        """Training processes of the whole run when all pods are there."""
        return self.max_nodes * self.processes

    @property
    def names(self) -> Sequence[str]:
        """The pod that hosts the store reaches it by its own address."""
        return () if self.hosts_store and self.address else (self.endpoint[0],)

    def command(self, arguments: Sequence[str], scratch: Path) -> list[str]:
        """torchrun with everything said; each line of a process begins with pod and rank."""
        host = self.address if self.hosts_store and self.address else self.endpoint[0]
        return [
            sys.executable, "-m", "torch.distributed.run",
            "--nnodes", f"{self.min_nodes}:{self.max_nodes}", "--nproc-per-node", str(self.processes),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", _joined(host, self.endpoint[1]), "--rdzv-id", self.run,
            "--rdzv-conf", ",".join(f"{key}={value}" for key, value in self.rendezvous.items()),
            *(["--local-addr", self.address] if self.address else []),
            "--max-restarts", str(NO_END), "--monitor-interval", "0.5",
            "--log-dir", str(scratch), "--tee", "3", "--log-line-prefix-template", f"[{self.pod} rank ${{rank}}] ",
            "-m", "trainer", *arguments,
        ]  # fmt: skip

    def environment(self, environment: Mapping[str, str], threads: int) -> dict[str, str]:
        """Without what an operator says to other programs."""
        kept = {name: value for name, value in environment.items() if not name.startswith("PET_") and name not in _MINE_ALONE}
        return elastic_environment(kept, threads, self.grace_s) | {"PYTHONUNBUFFERED": "1"}


def placement_of(settings: Settings, environment: Mapping[str, str], hosts: Sequence[str]) -> Agent | MpiLauncher | MpiRank:
    """What this pod, or this process of mpirun, has to start; `hosts` are mpirun's. Raises UsageError."""
    if settings.backend != "mpijob":
        return Agent.of(settings, environment)
    if "OMPI_COMM_WORLD_RANK" in environment:
        return MpiRank.of(environment)
    return MpiLauncher.of(environment, hosts)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
