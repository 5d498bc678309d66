"""The run that stories disturb, undisturbed: by the image alone, outside of the cluster, while the first stories go on.

One container for all processes of a session; it stays until the next session, as none knows whether another still needs it.
"""

import tempfile
from functools import cached_property
from pathlib import Path

import yaml

from k8s.kind.commands import wait_until
from k8s.kind.docker import Docker
from tests.kind.stories import IMAGE, SMALL
from tests.support.runs import losses, rows_by_step

LABEL = "pretrain-run/undisturbed"
DEADLINE_S = 600.0
_RUN = "/runs/undisturbed"


class Undisturbed:
    """One process on one core, as in a pod; waited for when its result is asked for."""

    def __init__(self, docker: Docker, name: str, folder: Path) -> None:
        self._docker = docker
        self._name = name
        self._folder = folder

    @staticmethod
    def start(docker: Docker, session: str, folder: Path) -> "Undisturbed":
        """Start it, unless another process of the session has done so; earlier sessions' are removed. One process at a time."""
        name = f"pretrain-run-undisturbed-{session}"
        known = docker("ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}").split()
        for other in known:
            if other != name:
                docker("rm", "--force", other)
        if name not in known:
            # few shares: there is time until its result is asked for, and stories begin at the same time
            options = ["--name", name, "--label", LABEL, "--cpus=1", "--cpu-shares=64", "--env=OMP_NUM_THREADS=1"]
            docker("create", *options, IMAGE, "run", "--config", "/tmp/config.yaml")
            with tempfile.TemporaryDirectory() as scratch:
                config = Path(scratch) / "config.yaml"
                config.write_text(yaml.safe_dump({**SMALL, "name": "undisturbed", "run_dir": _RUN}))
                config.chmod(0o644)
                docker("cp", config, f"{name}:/tmp/config.yaml")
            docker("start", name)
        return Undisturbed(docker, name, folder)

    @property
    def rows(self) -> dict[int, list[int]]:
        """By step."""
        return rows_by_step(self._run)

    @property
    def losses(self) -> dict[int, float]:
        """By step."""
        return losses(self._run)

    @cached_property
    def _run(self) -> Path:
        """Its run folder on this machine, when it is done."""

        def state() -> str:
            return self._docker("inspect", self._name, "--format", "{{.State.Status}} {{.State.ExitCode}}").strip()

        def words() -> str:
            return f"{state()}: {self._docker('logs', '--tail', '20', self._name)}"

        wait_until(lambda: state().startswith("exited"), "the undisturbed run is over", DEADLINE_S, words)
        assert state() == "exited 0", words()
        self._docker("cp", f"{self._name}:{_RUN}", self._folder)
        return self._folder / Path(_RUN).name
