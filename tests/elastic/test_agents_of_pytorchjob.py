"""The container's entrypoint as Kubeflow's PyTorchJob starts it: pods come, go and are lost, and the run is as if alone."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.pods import Undisturbed, codes, elastic_config, job


@pytest.mark.timeout(420)
def test_a_run_scaled_2_3_1_with_workers_killed_and_a_pod_lost_trains_like_an_undisturbed_one_until_its_budget_is_spent(
    small_data: Path, tmp_path: Path
) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    with job("pytorchjob", config, nodes="1:3") as elastic:
        first, second = elastic.start(0), elastic.start(1)
        elastic.wait_for_round(0, world=2)
        elastic.wait_for_steps(5)

        rounds, third = len(elastic.worlds()), elastic.start(2)
        elastic.wait_for_round(rounds, world=3)
        elastic.wait_for_steps(5)

        # the pods that leave are told so, and save; the one that stays goes on by itself, and it costs no restart
        rounds = len(elastic.worlds())
        second.terminate()
        third.terminate()
        assert codes([second, third]) == [143, 143], elastic.text()
        assert "SIGTERM: stopped, and nothing is lost" in second.message
        elastic.wait_for_round(rounds, world=1)
        elastic.wait_for_steps(5)
        assert elastic.failures == 0, elastic.text()

        rounds, second = len(elastic.worlds()), elastic.start(1)
        elastic.wait_for_round(rounds, world=2)
        elastic.wait_for_steps(5)

        rounds = len(elastic.worlds())
        os.kill(elastic.newest_pids[1], signal.SIGKILL)
        elastic.wait_for_round(rounds, world=2)
        elastic.wait_for_steps(5)
        assert elastic.failures == 1, elastic.text()

        rounds = len(elastic.worlds())
        second.lose()
        second = elastic.start(1)
        elastic.wait_for_round(rounds, world=2)
        elastic.wait_for_steps(5)
        assert elastic.failures == 2, elastic.text()

        # the operator allows two restarts of the whole run: all pods end, now and whenever they are started again
        os.kill(elastic.newest_pids[1], signal.SIGKILL)
        assert codes([first, second]) == [75, 75], elastic.text()
        later = elastic.start(1)
        assert later.wait(30) == 75
        assert "3 failures, and 2 restarts are allowed; the last one: " in later.message
        assert later.message == first.message == second.message
    Undisturbed(tmp_path / "alone", small_data).same(elastic.run, runs.newest_step(elastic.run))
    log = (tmp_path / "elastic" / "state" / "logs" / "worker-1.log").read_text()
    assert "[worker-1] trainer: SIGTERM: stopping within" in log
    assert "[worker-1 rank " in log
