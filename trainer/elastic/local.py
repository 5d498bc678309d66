"""Training processes on this machine under torchrun: started, watched, stopped, and their end turned into one outcome."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.command_parser import say
from trainer.config import KillSpec, LaunchSection
from trainer.cores import cores
from trainer.elastic.child import end_with_parent
from trainer.elastic.outcome import ProcessEnd, error_of, root_cause
from trainer.elastic.process_log import LOG_VARIABLE
from trainer.errors import BudgetError
from trainer.events import Failed, RankKilled, StepsDone, TrainingStarted, read_events
from trainer.tracking.hub import Tracker

POLL_S = 0.2
_LAST_LINES = 200
STOP_DEADLINE_S = 60.0
"""Processes that were asked to stop get this long to save."""
_AGENT_S = 10.0
"""torchrun gets this much longer to see its processes end."""

DISABLE_SHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Set to 1, or an agent that joins or replaces another hangs: torch's rank 0 keeps the store address of the first round and
never announces it in the next (torch/distributed/elastic/rendezvous/dynamic_rendezvous.py, `next_rendezvous`)."""

SHARED_STORE_HINT = (
    f"this torchrun shares its rendezvous store, so a process that joins or comes back may hang all; start it with "
    f"{DISABLE_SHARED_STORE}=1 in its environment"
)


def elastic_environment(environment: Mapping[str, str], threads: int, save_s: float = STOP_DEADLINE_S) -> dict[str, str]:
    """The environment in which torchrun has to start. `save_s`: what its processes get to save after a signal.

    torch would kill them after 30 s (pytorch#68258).
    """
    timeout = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, int(save_s)))}
    return {"OMP_NUM_THREADS": str(threads), **environment, DISABLE_SHARED_STORE: "1"} | timeout


def torchrun_command(launch: LaunchSection, arguments: Sequence[str], log: Path) -> list[str]:
    """The command that starts the trainer's processes on this machine, with a rendezvous on a free port."""
    return [
        sys.executable, "-m", "trainer.elastic.agent", str(log),
        "--nnodes", "1", "--nproc-per-node", str(launch.processes), "--max-restarts", str(launch.max_restarts),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
        "-m", "trainer", *arguments,
    ]  # fmt: skip


class LocalRun:
    """One torchrun on this machine."""

    def __init__(self, launch: LaunchSection, arguments: Sequence[str], events: Path, tracker: Tracker) -> None:
        self._launch = launch
        self._arguments = arguments
        self._events = events
        self._log = events.with_name("torchrun.log")
        self._log_offset = self._log.stat().st_size if self._log.exists() else 0
        self._log_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._tracker = tracker
        self._offset = events.stat().st_size if events.exists() else 0
        self._pids: list[int] = []
        self._to_kill = _not_yet_done(launch.kill, events)
        self._failure: dict[str, Any] | None = None

    def run(self, environment: Mapping[str, str]) -> None:
        """Until training is over. Raises the error that the processes ended with; a signal to us stops them, saved."""
        threads = self._launch.threads_per_process or max(1, cores() // self._launch.processes)
        command = torchrun_command(self._launch, self._arguments, self._log)
        variables = {**elastic_environment(environment, threads), LOG_VARIABLE: str(self._log.resolve())}
        process = subprocess.Popen(command, env=variables, start_new_session=True, preexec_fn=end_with_parent)
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                self._watch()
                if self._failure is not None:
                    break
            self._watch()
        finally:
            self._stop(process)
        self._raise_failure(process.returncode)

    def _watch(self) -> None:
        """Look at what the processes told since the last look; carry out planned faults."""
        for offset, record in read_events(self._events, self._offset):
            self._offset = offset
            name = record.get("event")
            if name == TrainingStarted.name():
                self._pids = record["pids"]
            elif name == Failed.name():
                self._failure = record
            elif name == StepsDone.name():
                self._kill_if_due(record["step"])
        self._watch_log()

    def _watch_log(self) -> None:
        """Tell of processes that ended badly and are started again; all else that torch says stays in the log."""
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(self._log_offset)
            for data in file:
                if not data.endswith(b"\n"):
                    break
                self._log_offset += len(data)
                line = data.decode(errors="replace").rstrip()
                self._log_lines.append(line)
                end = ProcessEnd.in_line(line)
                if end is not None and not end.saved and self._failure is None:
                    say(f"trainer: {end.words(self._log_lines)}; torch's own words on it stand in {self._log}")

    def _kill_if_due(self, step: int) -> None:
        for kill in [kill for kill in self._to_kill if kill.at_step <= step]:
            self._to_kill.remove(kill)
            pid = self._pids[kill.rank]
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._tracker.emit(RankKilled(step=step, rank=kill.rank, pid=pid))

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Ask torchrun and its processes to save and end; after the deadline, kill them."""
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_DEADLINE_S + _AGENT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_DEADLINE_S)

    def _raise_failure(self, returncode: int) -> None:
        if self._failure is not None:
            raise error_of(self._failure)
        if returncode != 0:
            cause = root_cause(self._log_lines)
            raise BudgetError(
                f"training ended with code {returncode} after at most {self._launch.max_restarts} restarts"
                + (f", the last time for: {cause}" if cause else "")
                + f"; all words on it stand in {self._log}; start the same command again to go on from the last checkpoint"
            )


def _not_yet_done(kills: Sequence[KillSpec], events: Path) -> list[KillSpec]:
    """The planned faults that no earlier call of this run has carried out."""
    left = list(kills)
    for _, record in read_events(events):
        if record.get("event") == RankKilled.name():
            done = [kill for kill in left if kill.rank == record["rank"] and kill.at_step <= record["step"]]
            left = [kill for kill in left if kill not in done[:1]]
    return left
