"""The trainer under mpirun: no mpi4py, and no MPI at all once the processes know each other by the usual variables.

The launcher pod's mpirun starts `python -m trainer.elastic` on each slot of the hostfile, which maps Open MPI's variables to
torch's and runs `python -m trainer`. What sshd starts sees nothing of the container's environment, so `-x` hands it on.

mpirun answers SIGTERM, and the first process that does not end with 0, by killing all others a second later, amid their saving.
So it gets SIGUSR1, which it only hands on (Open MPI 4 and 5), and a process that was stopped and has saved ends with 0.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals, signal

from trainer.elastic.child import end_with_parent
from trainer.elastic.settings import Variables
from trainer.errors import Preempted, UsageError

HOSTFILE = "OMPI_MCA_orte_default_hostfile"
"""The operator's variable that names the hostfile, with Open MPI 5 as well."""
MASTER = "PRETRAIN_RUN_MASTER"
"""host:port of the first process, set by the launcher for the processes."""

_KEPT = ("OMPI_", "PRTE_", "PMIX_", "KUBERNETES_", "POD_", "K_MPI_")
_KEPT_WHOLE = ("NVIDIA_VISIBLE_DEVICES", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_")
"""What is the launcher's alone; all else is handed on, as processes started through sshd see nothing of the container's."""


@dataclass(frozen=True, slots=True)
class MpiLauncher:
    """mpirun over the hosts of a hostfile."""

    hostfile: Path
    hosts: tuple[str, ...]
    processes: int
    port: int
    handed_on: tuple[str, ...]
    extra: tuple[str, ...] = ()

    @staticmethod
    def of(environment: Mapping[str, str], hosts: Sequence[str]) -> "MpiLauncher":
        """Raises UsageError naming the variable."""
        variables = Variables(environment)
        if not hosts:
            raise UsageError(f"{HOSTFILE}={environment.get(HOSTFILE, '')}: names no hosts; the MPI operator writes it")
        handed_on = {name for name in environment if not name.startswith(_KEPT) and name not in _KEPT_WHOLE}
        return MpiLauncher(
            hostfile=Path(variables.text(HOSTFILE)),
            hosts=tuple(hosts),
            processes=variables.whole("PRETRAIN_RUN_PROCESSES", least=1),
            port=variables.whole("PRETRAIN_RUN_MASTER_PORT", default=29500, least=1),
            handed_on=tuple(sorted(handed_on)),
            extra=tuple(variables.text("PRETRAIN_RUN_MPIRUN_ARGS", default="").split()),
        )

    @property
    def stop_signal(self) -> Signals:
        """What makes the processes save."""
        return SIGUSR1

    @property
    def most_processes(self) -> int:
        """Training processes of the whole run."""
        return len(self.hosts) * self.processes

    @property
    def names(self) -> Sequence[str]:
        """mpirun gives up at the first host that it cannot reach."""
        return self.hosts

    def command(self, arguments: Sequence[str], scratch: Path) -> list[str]:
        """mpirun of Open MPI 4 or 5. Both understand these options."""
        environment = [option for name in (*self.handed_on, MASTER) for option in ("-x", name)]
        return [
            "mpirun", "-np", str(self.most_processes), "--hostfile", str(self.hostfile), "--tag-output",
            "--bind-to", "none", *environment, *self.extra,
            sys.executable, "-m", "trainer.elastic", *arguments,
        ]  # fmt: skip

    def environment(self, environment: Mapping[str, str], threads: int) -> dict[str, str]:
        """The processes count their own cores: the launcher's pod is smaller."""
        return {**environment, MASTER: f"{self.hosts[0]}:{self.port}"}


@dataclass(frozen=True, slots=True)
class MpiRank:
    """One process that mpirun started."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    master: tuple[str, int]

    @staticmethod
    def of(environment: Mapping[str, str]) -> "MpiRank":
        """From Open MPI's variables. Raises UsageError."""
        variables = Variables(environment)
        return MpiRank(
            rank=variables.whole("OMPI_COMM_WORLD_RANK"),
            size=variables.whole("OMPI_COMM_WORLD_SIZE", least=1),
            local_rank=variables.whole("OMPI_COMM_WORLD_LOCAL_RANK"),
            local_size=variables.whole("OMPI_COMM_WORLD_LOCAL_SIZE", default=1, least=1),
            master=variables.endpoint(MASTER),
        )

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The trainer's process."""
        return [sys.executable, "-m", "trainer", *arguments]

    def environment(self, environment: Mapping[str, str], threads: int) -> dict[str, str]:
        """As torchrun would set it."""
        host, port = self.master
        return {
            "OMP_NUM_THREADS": str(threads),
            **environment,
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }


def run_rank(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The trainer's process under mpirun, from its start to its end. Returns the code for mpirun: 0 if stopped and saved."""
    # mpirun signals process groups, and the trainer knows nothing of SIGUSR1
    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=partial(end_with_parent, SIGKILL))
    for number in (SIGUSR1, SIGTERM, SIGINT, SIGHUP):
        signal(number, lambda *_: process.send_signal(SIGTERM))
    code = process.wait()
    if code == Preempted.exit_code:
        return 0
    return code if code >= 0 else 128 - code


def hosts_of(text: str) -> list[str]:
    """The hosts of a hostfile (`host slots=N` a line), in order."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [words[0] for words in lines if words]
