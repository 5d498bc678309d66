"""What the container's environment says of a run, read once and checked when it is read.

The launcher's chart sets `PRETRAIN_RUN_...`; Kubeflow's training operator adds `PET_...`, and what it adds wins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trainer.errors import UsageError

Backend = Literal["pytorchjob", "job", "mpijob"]

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes puts it into every container."""
_POD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


class Variables:
    """Values of environment variables by kind. Every method raises UsageError naming the variable."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of these variables that is set and not empty."""
        for name in names:
            if self._environment.get(name):
                return self._environment[name]
        if default is None:
            raise UsageError(f"{' or '.join(names)} is not set; the launcher's chart sets it")
        return default

    def whole(self, *names: str, default: int | None = None, least: int = 0) -> int:
        """A whole number."""
        text = self.text(*names, default=None if default is None else str(default))
        if not text.isdecimal() or int(text) < least:
            raise UsageError(f"{self._set_one(names)}={text}: must be a whole number of {least} or more")
        return int(text)

    def seconds(self, name: str, default: float | None) -> float | None:
        """A length of time above zero; empty stands for none, unset for the default."""
        text = self._environment.get(name)
        if text is None:
            return default
        if text == "":
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise UsageError(f"{name}={text}: must be a number of seconds above 0")
        return value

    def some_seconds(self, name: str, default: float) -> float:
        """A length of time above zero."""
        return self.seconds(name, default) or default

    def range(self, *names: str) -> tuple[int, int]:
        """`2` or `1:3`: the least and the most."""
        text = self.text(*names)
        least, _, most = text.partition(":")
        most = most or least
        if not (least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
            raise UsageError(f"{self._set_one(names)}={text}: must be a number of nodes, or LEAST:MOST with 1 <= LEAST <= MOST")
        return int(least), int(most)

    def endpoint(self, *names: str) -> tuple[str, int]:
        """`host:port`."""
        text = self.text(*names)
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"{self._set_one(names)}={text}: must be host:port")
        return host.strip("[]"), int(port)

    def pairs(self, name: str) -> dict[str, str]:
        """`key=value,key=value`."""
        pairs = {}
        for part in filter(None, (part.strip() for part in self.text(name, default="").split(","))):
            key, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"{name}: {part!r} is not key=value")
            pairs[key] = value
        return pairs

    def _set_one(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if self._environment.get(name)), names[0])


@dataclass(frozen=True, slots=True)
class Settings:
    """What every pod of a run is told alike, and who this pod is."""

    backend: Backend
    name: str
    """Name of the run, the rendezvous' id."""
    state: Path
    """The run's folder on the volume that all pods share: the restart budget and the logs stand there."""
    pod: str
    member: str
    """What stays the same when this pod is replaced by another."""
    max_restarts: int
    """Failures of the whole run that are mended by a restart; one more ends it."""
    attempt: int
    """A higher one gives the run a new budget and a new deadline: `launcher resume` raises it."""
    deadline_s: float | None
    """Wall clock of the whole run since its first start."""
    grace_s: float
    """From a signal to the end by force; below the pod's terminationGracePeriodSeconds."""
    join_timeout_s: float
    """How long to wait for enough pods."""
    dns_timeout_s: float
    watchdog_s: float | None
    """Training that makes no progress for this long is ended; above the longest micro-batch and compilation."""

    @property
    def budget(self) -> Path:
        """The folder of what this attempt has spent."""
        return self.state / "budget" / f"attempt-{self.attempt}"

    @staticmethod
    def of(environment: Mapping[str, str], hostname: str) -> "Settings":
        """Raises UsageError naming the variable."""
        variables = Variables(environment)
        backend = variables.text("PRETRAIN_RUN_BACKEND")
        if backend not in get_args(Backend):
            raise UsageError(f"PRETRAIN_RUN_BACKEND={backend}: must be one of {', '.join(get_args(Backend))}")
        pod = variables.text("POD_NAME", default=hostname)
        if not _POD_NAME.fullmatch(pod):
            raise UsageError(f"POD_NAME={pod}: is no name of a pod (lower-case letters, digits, dashes)")
        member = pod
        if backend == "job":  # whose pods' names have a random end
            member = f"index-{variables.whole('JOB_COMPLETION_INDEX')}"
        elif backend == "mpijob":  # whose launcher is a Job's pod
            member = "launcher"
        return Settings(
            backend=backend,  # type: ignore[arg-type]  # mypy does not narrow by get_args
            name=variables.text("PET_RDZV_ID", "PRETRAIN_RUN_NAME"),
            state=Path(variables.text("PRETRAIN_RUN_STATE")),
            pod=pod,
            member=member,
            max_restarts=variables.whole("PET_MAX_RESTARTS", "PRETRAIN_RUN_MAX_RESTARTS", default=10),
            attempt=variables.whole("PRETRAIN_RUN_ATTEMPT", default=0),
            deadline_s=variables.seconds("PRETRAIN_RUN_DEADLINE_S", None),
            grace_s=variables.some_seconds("PRETRAIN_RUN_GRACE_S", 25.0),
            join_timeout_s=variables.some_seconds("PRETRAIN_RUN_JOIN_TIMEOUT_S", 1800.0),
            dns_timeout_s=variables.some_seconds("PRETRAIN_RUN_DNS_TIMEOUT_S", 300.0),
            watchdog_s=variables.seconds("PRETRAIN_RUN_WATCHDOG_S", 1800.0),
        )


def termination_log_of(environment: Mapping[str, str]) -> Path | None:
    """Where the container's last word goes; None: there is no such place."""
    named = environment.get("PRETRAIN_RUN_TERMINATION_LOG")
    if named:
        return Path(named)
    return TERMINATION_LOG if TERMINATION_LOG.exists() else None
