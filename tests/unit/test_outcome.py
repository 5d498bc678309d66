"""What the entrypoint makes of events, lines and names."""

import io
import re
from pathlib import Path

import pytest

from trainer.cores import cores
from trainer.elastic.names import wait_for_names
from trainer.elastic.outcome import ProcessEnd, Progress, Tracebacks, error_of, lacks_group, one_line, root_cause
from trainer.elastic.output import Output
from trainer.errors import NotReadyError, ShardError

AGENT_LINE = (
    "E1125 10:09:28.210000 11092 .venv/lib/torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {}) "
    "local_rank: 1 (pid: 13269) of binary: /opt/python"
)
TRACEBACK = ["Traceback (most recent call last):", '  File "run.py", line 1, in <module>', "    main()"]


def test_the_agent_s_word_on_a_process_is_understood() -> None:
    killed, stopped = ProcessEnd.in_line(AGENT_LINE.format(-9)), ProcessEnd.in_line(AGENT_LINE.format(143))
    assert killed is not None
    assert stopped is not None
    assert (killed.exit_code, killed.local_rank, killed.saved) == (-9, 1, False)
    assert killed.words([]) == "process 1 was ended by SIGKILL"
    assert stopped.saved
    assert ProcessEnd.in_line("[worker-1 rank 0] step 7  loss 5.3870") is None


def test_a_process_s_own_last_word_is_the_root_cause() -> None:
    lines = [
        "[w rank 0] RuntimeError: something earlier",
        "[w rank 0] trainer: rank 0: another process is gone or silent",
        "[w] W1125 Sending process 1 closing signal SIGTERM",
        "[w] torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    ]
    assert root_cause(lines) == "trainer: rank 0: another process is gone or silent"
    failed = ProcessEnd(1, 0)
    assert failed.words(lines) == "process 0 ended with code 1: trainer: rank 0: another process is gone or silent"
    assert root_cause(["[w rank 0] step 1"]) == ""


def test_progress_knows_whether_an_end_by_force_would_lose_steps() -> None:
    progress = Progress()
    told = [
        ({"event": "stage_started"}, (0, False, False)),
        ({"event": "training_started"}, (1, True, False)),
        ({"event": "steps_done"}, (1, True, False)),
        ({"event": "preempting"}, (1, False, True)),
        ({"event": "training_started"}, (2, True, False)),
        ({"event": "training_finished"}, (2, False, False)),
    ]
    for record, expected in told:
        progress.take(record)
        assert (progress.rounds, progress.training, progress.stopped) == expected
    failure = {"event": "failed", "kind": "ShardError", "exit_code": 65, "reason": "gone"}
    progress.take(failure)
    assert progress.failure is not None
    error = error_of(progress.failure)
    assert isinstance(error, ShardError)
    assert str(error) == "gone"


def test_an_agent_that_lost_its_group_is_told_from_processes_that_lost_each_other() -> None:
    assert lacks_group(["[w] torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection has failed."])
    assert lacks_group(["[w] ORTE was unable to reliably start one or more daemons."])
    assert not lacks_group(["[w rank 3] torch.distributed.DistNetworkError: no connection"])
    assert not lacks_group(["[w] ModuleNotFoundError: No module named 'torch'"])


def test_the_agent_s_expected_tracebacks_are_cut_to_one_line_and_others_are_kept() -> None:
    expected, unknown = "torch.multiprocessing.api.SignalException: got signal: 15", "KeyError: 'x'"
    for last, kept in ((expected, [expected]), (unknown, [*TRACEBACK, unknown])):
        tracebacks = Tracebacks()
        lines = [ready for line in ["before", *TRACEBACK, last, "after"] for ready in tracebacks.take(line)]
        assert [*lines, *tracebacks.rest()] == ["before", *kept, "after"]
    unfinished = Tracebacks()
    assert [ready for line in TRACEBACK for ready in unfinished.take(line)] == []
    assert unfinished.rest() == TRACEBACK


def test_a_termination_message_is_one_line_of_at_most_the_bytes_that_kubernetes_keeps() -> None:
    assert one_line("one\n  two\tthree\n", 4096) == "one two three"
    cut = one_line("词" * 3000, 4096)
    assert len(cut.encode()) <= 4096
    assert cut.endswith("...")


def test_a_late_name_is_waited_for_and_one_that_never_comes_is_named() -> None:
    now, asked = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def resolve(name: str) -> None:
        asked.append(name)
        if name == "never" or now < 7:
            raise OSError(-2, "Name or service not known")

    wait_for_names(["small-worker-0"], 30, resolve=resolve, sleep=sleep, clock=lambda: now)
    assert now == pytest.approx(7)
    with pytest.raises(
        NotReadyError, match=r"never: no such host after 30 s \(Name or service not known\); is its pod running"
    ):
        wait_for_names(["never"], 30, resolve=resolve, sleep=sleep, clock=lambda: now)
    assert now == pytest.approx(37)


def test_lines_carry_pod_and_rank_on_the_console_and_in_the_log(tmp_path: Path) -> None:
    console, log = io.BytesIO(), tmp_path / "logs" / "w.log"
    output = Output("w", log, console)
    output.open()
    output.write("[w rank 1] step 1")
    output.write("[1,3]<stderr>: under Open MPI 4")
    output.write("[prterun-host-12@1,4]<stdout>: under Open MPI 5")
    output.write("the agent's")
    output.say("stopping")
    output.close()
    expected = (
        "[w rank 1] step 1\n[w rank 3] under Open MPI 4\n[w rank 4] under Open MPI 5\n[w] the agent's\n[w] trainer: stopping\n"
    )
    assert console.getvalue().decode() == log.read_text() == expected


def test_a_log_keeps_its_newest_lines_within_its_size(tmp_path: Path) -> None:
    log = tmp_path / "w.log"
    output = Output("w", log, io.BytesIO(), most_bytes=1000)
    output.open()
    for number in range(200):
        output.write(f"line {number}")
    output.close()
    assert log.stat().st_size <= 1000
    assert (tmp_path / "w.log.1").stat().st_size <= 1000
    assert "line 199" in log.read_text()


def test_a_log_that_cannot_be_written_does_not_stop_the_lines(tmp_path: Path) -> None:
    console = io.BytesIO()
    (tmp_path / "w.log").symlink_to("/dev/full")
    output = Output("w", tmp_path / "w.log", console)
    output.open()
    for number in range(3):
        output.write(f"line {number}")
    text = console.getvalue().decode()
    assert "line 2" in text
    assert text.count("until it works again, lines go here alone") == 1


def test_a_log_that_failed_goes_on_when_it_can_be_written_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.elastic.output._RETRY_S", 0.0)
    log = tmp_path / "w.log"
    log.symlink_to("/dev/full")
    output = Output("w", log, io.BytesIO())
    output.open()
    for number in range(3):
        output.write(f"line {number}")
    log.unlink()
    output.write("line 3")
    output.close()
    assert log.read_text() == "\n[w] trainer: 3 lines are missing here\n[w] line 3\n"


def test_there_is_one_way_to_count_cores() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "trainer").rglob("*.py"), *(root / "k8s").rglob("*.py")]
    words = re.compile(r"cpu_count|sched_getaffinity|process_cpu_count")
    assert [file.name for file in files if words.search(file.read_text(encoding="utf-8"))] == ["cores.py"]


def test_cores_are_the_container_s_and_not_the_node_s(tmp_path: Path) -> None:
    everything = cores(tmp_path / "none")
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "cpu.max").write_text("150000 100000\n")
    assert cores(tmp_path / "v2") == 1
    (tmp_path / "v2" / "cpu.max").write_text("max 100000\n")
    assert cores(tmp_path / "v2") == everything
    (tmp_path / "v1" / "cpu").mkdir(parents=True)
    (tmp_path / "v1" / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "v1" / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path / "v1") == 1
