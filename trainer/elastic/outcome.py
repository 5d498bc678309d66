"""What happened, from events and lines of text, and what follows from it. Pure.

A round is the time from one start of training (all processes ready) to the next. It may end by a signal, with the state
saved; because a pod came or left; or by a failure, which costs one restart of the run's budget.
"""

import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import TrainerError, UsageError
from trainer.events import Failed, Preempting, TrainingFinished, TrainingStarted

_PROCESS_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: (\d+)\)")
"""What torch's agent says once for each round in which a process of its own ended badly, and not if it stopped them itself."""
_SAVED = (143, -15)
_NO_GROUP = re.compile(r"\b(Rendezvous\w*Error|DistNetworkError|DistStoreError|was unable to reliably start)\b")
"""In the words of torch's agent, and of mpirun where ssh cannot reach a host."""
_PREFIX = re.compile(r"^\[[\w.-]+(?P<rank> rank \d+)?\] ")
_ERROR_LINE = re.compile(r"^(trainer( [a-z-]+)?: |mpirun: |[\w.]*(Error|Exception|Interrupt)\b)")


@dataclass(slots=True)
class Progress:
    """What events.jsonl told so far."""

    rounds: int = 0
    """How many rounds began."""
    training: bool = False
    """A round is under way as far as is known, and ending it by force would lose steps."""
    stopped: bool = False
    """The round was ended by a signal to some process, which is no failure."""
    failure: Mapping[str, Any] | None = None
    """A failure that no restart mends."""

    def take(self, record: Mapping[str, Any]) -> None:
        """The next event."""
        name = record.get("event")
        if name == TrainingStarted.name():
            self.rounds += 1
            self.training, self.stopped = True, False
        elif name in (Preempting.name(), TrainingFinished.name()):
            self.training, self.stopped = False, name == Preempting.name()
        elif name == Failed.name():
            self.failure = record


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How one training process of this pod ended, in the words of torch's agent."""

    exit_code: int
    """Minus the signal for one that a signal ended."""
    local_rank: int

    @staticmethod
    def in_line(line: str) -> "ProcessEnd | None":
        """What a line of torch's agent tells, if it does."""
        found = _PROCESS_FAILED.search(line)
        return ProcessEnd(int(found[1]), int(found[2])) if found else None

    @property
    def saved(self) -> bool:
        """Stopped by a signal to some process of the run: no failure."""
        return self.exit_code in _SAVED

    @property
    def is_usage(self) -> bool:
        """The command line is wrong, which no restart mends."""
        return self.exit_code == UsageError.exit_code

    def words(self, lines: Iterable[str]) -> str:
        """One line on this end, with the process's own last word on it if it had one."""
        if self.exit_code < 0:
            return f"process {self.local_rank} was ended by {_signal_name(-self.exit_code)}"
        cause = root_cause(lines)
        return f"process {self.local_rank} ended with code {self.exit_code}" + (f": {cause}" if cause else "")


class Tracebacks:
    """Python tracebacks of the agent, in its lines: of ends that belong to its work, only the last line is kept."""

    _EXPECTED = re.compile(r"^[\w.]*(SignalException|Rendezvous\w*Error|DistNetworkError|DistStoreError)\b")
    _MOST_LINES = 300

    def __init__(self) -> None:
        self._held: list[str] = []

    def take(self, line: str) -> list[str]:
        """The next line; returns the lines that can be written now."""
        if line.startswith("Traceback (most recent call last)"):
            return self._replace([line])
        if not self._held:
            return [line]
        if (line == "" or line.startswith(" ")) and len(self._held) < self._MOST_LINES:
            self._held.append(line)
            return []
        return [line] if self._EXPECTED.match(line) and self._replace([]) else [*self._replace([]), line]

    def rest(self) -> list[str]:
        """What is held back at the end."""
        return self._replace([])

    def _replace(self, lines: list[str]) -> list[str]:
        held, self._held = self._held, lines
        return held


def lacks_group(lines: Iterable[str]) -> bool:
    """Whether an agent, not its processes, ended because it lost or never found the others: another try may find them."""
    return any(_NO_GROUP.search(line) for line in lines if not ((found := _PREFIX.match(line)) and found["rank"]))


def root_cause(lines: Iterable[str]) -> str:
    """The last line that looks like an error, without its prefix; empty if there is none."""
    plain = [_PREFIX.sub("", line).strip() for line in lines]
    errors = [line for line in plain if _ERROR_LINE.match(line) and "ChildFailedError" not in line]
    return errors[-1] if errors else ""


def error_of(failure: Mapping[str, Any]) -> TrainerError:
    """The error that a training process told in events.jsonl before it ended."""
    kinds = {kind.__name__: kind for kind in TrainerError.__subclasses__()}
    kind = kinds.get(failure["kind"], TrainerError)
    return kind(failure["reason"])


def one_line(text: str, most_bytes: int) -> str:
    """Text for a pod's termination message."""
    line = " ".join(text.split())
    data = line.encode()
    return line if len(data) <= most_bytes else data[: most_bytes - 3].decode(errors="ignore") + "..."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
