"""The container's entrypoint as an Indexed Job starts it: the store's host is lost, all are stopped, a run ends for good."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.support import ranks, runs
from tests.support.pods import Undisturbed, codes, elastic_config, job

pytestmark = pytest.mark.timeout(300)


def test_the_store_s_host_is_replaced_and_all_pods_are_stopped_and_started_again_to_the_end(
    small_data: Path, tmp_path: Path
) -> None:
    config = elastic_config(tmp_path / "elastic", small_data, stages=["pretrain", "evaluate", "report"])
    with job("job", config, nodes="2") as elastic:
        first, second = elastic.start(0), elastic.start(1)
        elastic.wait_for_round(0, world=2)
        elastic.wait_for_steps(5)

        first.lose()
        first = elastic.start(0)
        elastic.wait_for_round(1, world=2)
        elastic.wait_for_steps(5)
        assert elastic.failures == 1, elastic.text()

        for pod in (first, second):
            pod.terminate()
        assert codes([first, second]) == [143, 143], elastic.text()
        stopped = runs.newest_step(elastic.run)
        assert stopped == runs.last_step(elastic.run), elastic.text()

        end = f"pretrain.stop_after={stopped + 10}"
        pods = [elastic.start(index, "--set", end) for index in (0, 1)]
        assert codes(pods) == [0, 0], elastic.text()
        assert [pod.message for pod in pods] == ["", ""]
        # no pod ends before the first process has done what it does alone
        assert "report" in [event["stage"] for event in runs.events(elastic.run, "stage_finished")]
        assert elastic.failures == 1, elastic.text()

        started = time.monotonic()
        assert elastic.start(0, "--set", end).wait() == 0
        assert time.monotonic() - started < 10, "a finished run starts no training process"
    Undisturbed(tmp_path / "alone", small_data).same(elastic.run, stopped + 10)


def test_a_bad_config_ends_every_pod_with_65_before_torch_is_imported(small_data: Path, tmp_path: Path) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(values | {"precison": "fp32"}))
    with job("job", config, nodes="2") as elastic:
        pods = [elastic.start(index) for index in (0, 1)]
        assert codes(pods, 30) == [65, 65], elastic.text()
    assert all("precison" in pod.message and "\n" not in pod.message for pod in pods)


def test_more_pods_than_micro_batches_are_refused_at_the_start_and_not_in_mid_run(small_data: Path, tmp_path: Path) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    with job("job", config, nodes="1:5") as elastic:
        pod = elastic.start(0)
        assert pod.wait(30) == 65
    assert "5 processes would share the 4 micro-batches of a step" in pod.message


def test_a_failure_that_stays_ends_all_pods_with_its_own_words(small_data: Path, tmp_path: Path) -> None:
    config = elastic_config(tmp_path / "elastic", small_data, data_dir=str(tmp_path / "no-data"))
    with job("pytorchjob", config, nodes="2") as elastic:
        pods = [elastic.start(index) for index in (0, 1)]
        assert codes(pods) == [65, 65], elastic.text()
    messages = {pod.message for pod in pods}
    assert len(messages) == 1
    assert "no-data" in messages.pop()


def test_a_hang_ends_the_pod_with_134_and_a_pod_that_cannot_save_in_time_with_137(small_data: Path, tmp_path: Path) -> None:
    # how many processes a laptop starts has no effect in a pod
    config = elastic_config(tmp_path / "elastic", small_data, launch__processes=2)
    variables = {"PRETRAIN_RUN_WATCHDOG_S": "8", "PRETRAIN_RUN_GRACE_S": "2"}
    with job("job", config, nodes="1", settings=variables) as elastic:
        for end, code in (("hang", 134), ("signal", 137)):
            rounds, pod = len(elastic.worlds()), elastic.start(0)
            elastic.wait_for_round(rounds, world=1)
            elastic.wait_for_steps(2)
            rank = elastic.newest_pids[0]
            os.kill(rank, signal.SIGSTOP)
            if end == "signal":
                pod.terminate()
            assert pod.wait() == code, elastic.text()
            with pytest.raises(ProcessLookupError):
                os.kill(rank, 0)
        assert elastic.failures == 1
    assert "was not saved within 2 s" in pod.message


def test_a_full_disk_ends_no_run_and_what_it_kept_from_the_log_is_there_in_the_end(small_data: Path, tmp_path: Path) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    with job("job", config, nodes="1", settings={"PRETRAIN_RUN_WATCHDOG_S": "6"}) as elastic:
        pod = elastic.start(0)
        elastic.wait_for_round(0, world=1)
        elastic.wait_for_steps(5)
        rank = elastic.newest_pids[0]
        # the kernel makes no file of this process any longer, as on a full disk: events, sample log, checkpoints
        _, hard = resource.prlimit(rank, resource.RLIMIT_FSIZE)
        resource.prlimit(rank, resource.RLIMIT_FSIZE, (1, hard))
        before = runs.last_step(elastic.run)
        started = time.monotonic()
        elastic.wait_for(lambda: time.monotonic() - started > 10)
        assert runs.last_step(elastic.run) <= before + 1
        resource.prlimit(rank, resource.RLIMIT_FSIZE, (hard, hard))
        elastic.wait_for(lambda: bool(runs.events(elastic.run, "sink_recovered")))
        elastic.wait_for_steps(5)
        pod.terminate()
        assert pod.wait() == 143, elastic.text()
        assert elastic.failures == 0, elastic.text()
        assert len(elastic.worlds()) == 1
        last = runs.last_step(elastic.run)
        assert sorted(runs.losses(elastic.run)) == list(range(1, last + 1))
        rows = runs.rows_by_step(elastic.run)
        assert last > before + 20
        assert sorted(rows) == list(range(len(rows)))
        assert len(rows) in (last, last + 1)  # the one under way at the signal was left off
        assert runs.events(elastic.run, "checkpoint_failed")


def test_a_wrong_variable_or_option_ends_with_2_and_a_volume_that_fails_with_a_code_that_is_started_again(
    small_data: Path, tmp_path: Path
) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    with job("job", config, nodes="1") as elastic:
        pods = [
            elastic.start(0, PRETRAIN_RUN_BACKEND="ray"),
            elastic.start(0, PRETRAIN_RUN_STATE="/proc/nowhere/state"),  # as a volume that is gone
            elastic.start(0, "--no-such-option"),
        ]
        assert codes(pods) == [2, 166, 2], elastic.text()
    assert "PRETRAIN_RUN_BACKEND=ray: must be one of" in pods[0].message
    assert "/proc/nowhere" in pods[1].message
    assert "trainer run: '--no-such-option' is no option here" in pods[2].message


def test_a_name_that_is_never_known_is_waited_for_and_named(small_data: Path, tmp_path: Path) -> None:
    config = elastic_config(tmp_path / "elastic", small_data)
    endpoint = f"small-0.invalid:{ranks.free_port()}"
    variables = {"PRETRAIN_RUN_RENDEZVOUS": endpoint, "PRETRAIN_RUN_DNS_TIMEOUT_S": "2"}
    with job("job", config, nodes="2", settings=variables) as elastic:
        pod = elastic.start(1)
        assert pod.wait(30) == 166
    assert "small-0.invalid: no such host after 2 s" in pod.message
