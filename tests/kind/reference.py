"""The run that stories disturb, undisturbed: by the image alone, outside of the cluster, while the first stories go on."""

import tempfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import yaml

from k8s.kind.commands import LocalClusterError, wait_until
from k8s.kind.docker import Docker
from tests.kind.stories import IMAGE, SMALL
from tests.support.runs import losses, rows_by_step

NAME = "pretrain-run-undisturbed"
DEADLINE_S = 600.0
_RUN = "/runs/undisturbed"


class Undisturbed:
    """One process on one core, as in a pod; started at birth, waited for when its result is asked for."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self._docker = docker
        self._folder = folder
        self.remove()
        docker("create", "--name", NAME, "--cpus=1", "--env=OMP_NUM_THREADS=1", IMAGE, "run", "--config", "/tmp/config.yaml")
        with tempfile.TemporaryDirectory() as scratch:
            config = Path(scratch) / "config.yaml"
            config.write_text(yaml.safe_dump({**SMALL, "name": "undisturbed", "run_dir": _RUN}))
            config.chmod(0o644)
            docker("cp", config, f"{NAME}:/tmp/config.yaml")
        docker("start", NAME)

    @property
    def rows(self) -> dict[int, list[int]]:
        """By step."""
        return rows_by_step(self._run)

    @property
    def losses(self) -> dict[int, float]:
        """By step."""
        return losses(self._run)

    def remove(self) -> None:
        """The container, if it is there."""
        with suppress(LocalClusterError):
            self._docker("rm", "--force", NAME)

    @cached_property
    def _run(self) -> Path:
        """Its run folder on this machine, when it is done."""

        def state() -> str:
            return self._docker("inspect", NAME, "--format", "{{.State.Status}} {{.State.ExitCode}}").strip()

        def words() -> str:
            return f"{state()}: {self._docker('logs', '--tail', '20', NAME)}"

        wait_until(lambda: state().startswith("exited"), "the undisturbed run is over", DEADLINE_S, words)
        assert state() == "exited 0", words()
        self._docker("cp", f"{NAME}:{_RUN}", self._folder)
        return self._folder / Path(_RUN).name
