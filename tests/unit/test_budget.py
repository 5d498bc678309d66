"""One restart budget and one deadline for a run, whoever of its pods sees what."""

import os
from pathlib import Path

import pytest

from trainer.elastic.budget import Budget, count_failures
from trainer.errors import BudgetError


def budget(folder: Path, member: str = "worker-0", max_restarts: int = 2, deadline_s: float | None = None) -> Budget:
    return Budget(folder / "budget", member, max_restarts, deadline_s)


def test_a_failure_that_several_pods_see_counts_once_and_a_second_one_in_the_same_round_again() -> None:
    assert count_failures({}) == 0
    assert count_failures({"a": [1], "b": [1], "c": [1]}) == 1
    assert count_failures({"a": [1, 2], "b": [2, 3]}) == 3
    assert count_failures({"a": [0, 0, 0], "b": [0]}) == 3


def test_the_failure_beyond_the_last_restart_ends_the_run_for_all_pods_and_for_good(tmp_path: Path) -> None:
    first, second = budget(tmp_path), budget(tmp_path, "worker-1")
    for each in (first, second):
        assert each.begin() is None
        each.note_failure(1, "a process was killed")
        each.note_failure(2, "again")
    with pytest.raises(
        BudgetError, match=r"3 failures, and 2 restarts are allowed; the last one: and again; `launcher resume -f FILE` goes on"
    ):
        second.note_failure(3, "and again")
    with pytest.raises(BudgetError, match="3 failures"):
        first.check()
    with pytest.raises(BudgetError, match="3 failures"):
        budget(tmp_path, "worker-7").begin()


def test_pods_that_spend_the_last_restart_at_once_end_with_the_same_words(tmp_path: Path) -> None:
    first, second = budget(tmp_path, max_restarts=0), budget(tmp_path, "worker-1", max_restarts=0)
    first.begin()
    second.begin()  # neither has seen the other's failure
    said = []
    for each, reason in ((first, "a process was killed"), (second, "another process is gone")):
        with pytest.raises(BudgetError) as ended:
            each.note_failure(1, reason)
        said.append(str(ended.value))
    assert said[0] == said[1]
    assert "a process was killed" in said[0]


def test_a_pod_that_ended_without_a_word_is_a_failure_of_the_round_that_it_last_saw(tmp_path: Path) -> None:
    lost, survivor = budget(tmp_path), budget(tmp_path, "worker-1")
    lost.begin()
    lost.note_life(3, running=True)
    survivor.begin()
    survivor.note_failure(3, "another process is gone")
    assert "worker-0 ended without a word" in (lost.begin() or "")
    assert survivor.failures() == 1


def test_a_pod_that_ended_in_order_is_no_failure(tmp_path: Path) -> None:
    stopped = budget(tmp_path)
    stopped.begin()
    stopped.note_life(3, running=True)
    stopped.note_life(3, running=False)
    assert stopped.begin() is None
    assert stopped.failures() == 0


def test_torn_lines_and_damaged_files_are_passed_over(tmp_path: Path) -> None:
    torn = budget(tmp_path)
    torn.begin()
    torn.note_failure(1, "one")
    with (tmp_path / "budget" / "worker-0.failures").open("ab") as file:
        file.write(b'{"round": 2, "rea')
    (tmp_path / "budget" / "worker-0.json").write_bytes(b'{"running"')
    assert torn.begin() is None
    assert torn.failures() == 1


def test_a_run_older_than_its_deadline_ends_by_the_file_system_s_clock_and_across_pods(tmp_path: Path) -> None:
    young = budget(tmp_path, deadline_s=3600)
    young.begin()
    young.check_deadline()
    started = tmp_path / "budget" / "started"
    hours_ago = started.stat().st_mtime - 2 * 3600
    os.utime(started, (hours_ago, hours_ago))
    budget(tmp_path).check_deadline()  # none is set
    with pytest.raises(BudgetError, match=r"the run started 7[0-9]{3} s ago and may take 3600 s"):
        budget(tmp_path, "worker-1", deadline_s=3600).check_deadline()
    with pytest.raises(BudgetError, match="may take 3600 s"):
        young.check()


def test_removing_the_folder_gives_a_new_budget(tmp_path: Path) -> None:
    spent = budget(tmp_path, max_restarts=0)
    spent.begin()
    with pytest.raises(BudgetError):
        spent.note_failure(1, "once")
    for file in (tmp_path / "budget").iterdir():
        file.unlink()
    (tmp_path / "budget").rmdir()
    assert spent.begin() is None
