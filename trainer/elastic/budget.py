"""One restart budget and one deadline for a whole run, on the volume that its pods share.

    STATE/budget/attempt-N/started         its modification time is when the run first started
                          /NAME.json       the last life of the pod NAME: how many rounds it saw begin, and its end
                          /NAME.failures   one JSON line for each failure that NAME saw
                          /SPENT           why the run may not be started any more

Each pod writes files of its own, as no file system shared by machines promises whole lines from several writers. The pods of
a run see one failure as several; they count as one, as all name the round in which it happened. Times come from the one
clock that all pods see, that of the file system. A new attempt (PRETRAIN_RUN_ATTEMPT) has a new budget and deadline.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import BudgetError
from trainer.files import storage_errors, write_file, write_json

_LIFE = ".json"
_FAILURES = ".failures"


def count_failures(rounds_by_member: Mapping[str, Iterable[int]]) -> int:
    """Failures of a run from the rounds in which each of its pods saw one.

    Several pods that saw the same round fail saw one failure; a pod that saw it fail twice, before the next round began, two.
    """
    most: Counter[int] = Counter()
    for rounds in rounds_by_member.values():
        most |= Counter(rounds)
    return most.total()


@dataclass(frozen=True)
class Budget:
    """What a run may still spend, as one of its pods sees it."""

    folder: Path
    member: str
    max_restarts: int
    deadline_s: float | None

    def begin(self) -> str | None:
        """A life of this pod begins. Returns why its last one is a failure, if it is. Raises BudgetError, StorageError."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                (self.folder / "started").open("x").close()
        self.check()
        last = _read_json(self._life)
        if not last.get("running", False):
            return None
        reason = f"{self.member} ended without a word: killed, out of memory, or its node lost"
        self.note_failure(int(last.get("round", 0)), reason)
        return reason

    def note_life(self, round_: int, *, running: bool) -> None:
        """Tell the next life of this pod how far this one came. Raises StorageError."""
        write_json(self._life, {"round": round_, "running": running})

    def note_failure(self, round_: int, reason: str) -> None:
        """Spend one restart. Raises BudgetError if there is none left, StorageError."""
        line = json.dumps({"round": round_, "reason": reason}, ensure_ascii=False) + "\n"
        with storage_errors(self._failures), self._failures.open("ab", buffering=0) as file:
            file.write(line.encode())
        failures = self.failures()
        if failures > self.max_restarts:
            self.spend(f"{failures} failures, and {self.max_restarts} restarts are allowed; the last one: {reason}")

    def failures(self) -> int:
        """Failures of the whole run so far."""
        files = sorted(self.folder.glob(f"*{_FAILURES}"))
        return count_failures({file.name: _rounds_in(file) for file in files})

    def check(self) -> None:
        """Raises BudgetError if restarts or time of the run are spent."""
        spent = self.folder / "SPENT"
        if spent.exists():
            raise BudgetError(_with_way_out(spent.read_text(encoding="utf-8").strip() or "restarts or time are spent"))

    def check_deadline(self) -> None:
        """Raises BudgetError if the run is older than it may become; writes a file to read the file system's clock."""
        if self.deadline_s is None:
            return
        clock = self.folder / f"{self.member}.clock"
        write_file(clock, b"")
        age_s = clock.stat().st_mtime - (self.folder / "started").stat().st_mtime
        if age_s > self.deadline_s:
            self.spend(f"the run started {age_s:.0f} s ago and may take {self.deadline_s:.0f} s")

    def spend(self, reason: str) -> None:
        """End the run for all pods, now and at each later start. Raises BudgetError with the first pod's reason."""
        spent = self.folder / "SPENT"
        # of one pod alone where several get here at once, so that all end with the same words
        with storage_errors(spent), suppress(FileExistsError), spent.open("xb", buffering=0) as file:
            file.write(f"{reason}\n".encode())
        self.check()

    @property
    def _life(self) -> Path:
        return self.folder / f"{self.member}{_LIFE}"

    @property
    def _failures(self) -> Path:
        return self.folder / f"{self.member}{_FAILURES}"


def _with_way_out(reason: str) -> str:
    return f"{reason}; `launcher resume -f FILE` goes on from the last checkpoint with a new budget"


def _rounds_in(file: Path) -> list[int]:
    rounds = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a kill tore
            rounds.append(int(json.loads(line)["round"]))
    return rounds


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
