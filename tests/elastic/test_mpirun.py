"""Under a real mpirun on this machine: apt-get install openmpi-bin."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.pods import Undisturbed, elastic_config, job

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]


def test_mpirun_trains_restarts_after_a_kill_saves_at_a_signal_and_ends(small_data: Path, tmp_path: Path) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("localhost slots=2\n")
    injected = {
        "K_MPI_JOB_ROLE": "launcher",
        "OMPI_MCA_orte_default_hostfile": str(hostfile),
        "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
        "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
        "PRETRAIN_RUN_PROCESSES": "2",
        "PRETRAIN_RUN_MPIRUN_ARGS": "--allow-run-as-root --oversubscribe",
    }
    with job("mpijob", config, settings=injected) as run:
        injected["PRETRAIN_RUN_MASTER_PORT"] = str(run.port)
        launcher = run.start(0)
        run.wait_for_round(0, world=2)
        run.wait_for_steps(5)

        os.kill(run.newest_pids[1], signal.SIGKILL)
        run.wait_for_round(1, world=2)
        run.wait_for_steps(5)
        assert run.failures == 1, run.text()

        launcher.terminate()
        assert launcher.wait() == 143, run.text()
        stopped = runs.newest_step(run.run)
        assert stopped == runs.last_step(run.run), run.text()

        ended = run.start(0, "--set", f"pretrain.stop_after={stopped + 10}")
        assert ended.wait() == 0, run.text()
        assert "[localhost rank 0] " in ended.text
    Undisturbed(tmp_path / "alone", small_data).same(run.run, stopped + 10)
