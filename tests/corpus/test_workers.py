"""Workers of `prepare` and `encode` that are killed, and Ctrl-C: real processes, whose end is one line and never a hang."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.data import SMALL
from tests.support.jobs import always_dies, dies_once, fills_the_memory, is_odd, raises
from tests.support.raw_text import digests, documents, write_lines
from trainer.corpus.workers import workers
from trainer.errors import CorpusError, PeerLostError

DEADLINE_S = 120.0


def test_results_come_in_the_order_of_the_jobs_whoever_is_done_first() -> None:
    with workers(2, "test", "test.workers") as each:
        assert list(each(is_odd, range(20))) == [number % 2 == 1 for number in range(20)]


def test_a_killed_workers_job_is_done_by_another_and_one_line_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with workers(3, "test", "test.workers") as each:
        assert list(each(dies_once, [(tmp_path, number) for number in range(6)])) == list(range(6))
    told = capfd.readouterr().err
    assert told == (
        "test: a process was killed by SIGKILL at piece 3 of 6, most likely because memory ran out; 2 of 3 processes go on\n"
    )


@pytest.mark.parametrize(("count", "again"), [(2, "as all other 1 were"), (4, "as 2 were before")])
def test_a_job_that_kills_every_worker_ends_the_stage_with_the_way_out(count: int, again: str) -> None:
    message = (
        "^test: a process was killed by SIGKILL at piece 2 of 5, most likely because memory ran out, "
        f"{again}; set test.workers below {count}, or give it more memory, and start the same command again: "
        "what is done stays$"
    )
    with pytest.raises(PeerLostError, match=message), workers(count, "test", "test.workers") as each:
        list(each(always_dies, range(5)))


def test_a_job_for_which_memory_does_not_suffice_ends_the_stage_with_the_way_out() -> None:
    with (
        pytest.raises(PeerLostError, match=r"^test: memory ran out at piece 2 of 3; set test.workers below 2, or give it more"),
        workers(2, "test", "test.workers") as each,
    ):
        list(each(fills_the_memory, range(3)))


def test_what_a_job_raises_is_raised_here_and_a_mistake_of_ours_says_where() -> None:
    with pytest.raises(CorpusError, match="piece 1 is bad"), workers(2, "test", "test.workers") as each:
        list(each(raises, [0, 1]))
    with pytest.raises(FileNotFoundError) as raised, workers(2, "test", "test.workers") as each:
        list(each(raises, [0, 2]))
    assert "in raises" in raised.value.__notes__[0]


# --- the stages -------------------------------------------------------------------------------------------------------


def run_file(folder: Path) -> Path:
    """A run whose corpus is cut into units and parts enough for several processes."""
    folder.mkdir()
    write_lines(folder / "raw.jsonl", documents("a", 300))
    corpus: dict[str, Any] = {"held_out": 0.1, "unit_bytes": 20_000, "part_bytes": 20_000, "workers": 3}
    corpus["sources"] = [{"name": "a", "path": "raw.jsonl"}]
    values = SMALL | {"corpus": corpus, "tokens": {"row_tokens": 64, "workers": 3}, "run_dir": "run"}
    values["stages"] = ["prepare", "tokenizer", "encode"]
    values.pop("chat")
    (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


@contextmanager
def started(folder: Path, stage: str) -> Iterator[subprocess.Popen[str]]:
    """A stage as a process group of its own."""
    command = [sys.executable, "-m", "trainer", stage, "--config", "run.yaml"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def done(folder: Path, stage: str) -> Path:
    with started(folder, stage) as process:
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, said
    return folder


def workers_of(process: subprocess.Popen[str], count: int) -> list[int]:
    """The process ids of its workers, as soon as there are so many."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        if len(found) >= count:
            return found
        time.sleep(0.005)
    raise AssertionError(f"no {count} workers within {DEADLINE_S} s")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(run_file(tmp_path_factory.mktemp("undisturbed") / "it"), "run")


def before(stage: str, undisturbed: Path, folder: Path) -> Path:
    """A run that has got as far as this stage."""
    run_file(folder)
    for name in ("corpus", "tokenizer") if stage == "encode" else ():
        shutil.copytree(undisturbed / "run" / name, folder / "run" / name)
    return folder


@pytest.mark.parametrize(("stage", "result"), [("prepare", "corpus"), ("encode", "tokens")])
def test_a_stage_goes_on_without_a_killed_worker_and_writes_the_same_bytes(
    undisturbed: Path, tmp_path: Path, stage: str, result: str
) -> None:
    folder = before(stage, undisturbed, tmp_path / "it")
    with started(folder, stage) as process:
        os.kill(workers_of(process, 3)[0], signal.SIGKILL)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, said
    assert f"{stage}: a process was killed by SIGKILL at piece 1 of " in said
    assert "; 2 of 3 processes go on\n" in said
    written, expected = (digests(each / "run" / result) for each in (folder, undisturbed))
    name_their_input = ("manifest.json", "inputs.json") if stage == "prepare" else ()
    assert written.keys() == expected.keys()
    assert [name for name in expected if written[name] != expected[name] and name not in name_their_input] == []


@pytest.mark.parametrize(("stage", "key"), [("prepare", "corpus.workers"), ("encode", "tokens.workers")])
def test_a_stage_whose_workers_are_all_killed_ends_with_one_line_and_the_way_out(
    undisturbed: Path, tmp_path: Path, stage: str, key: str
) -> None:
    folder = before(stage, undisturbed, tmp_path / "it")
    with started(folder, stage) as process:
        for worker in workers_of(process, 3):
            os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, said
    assert f"set {key} below 3, or give it more memory, and start the same command again: what is done stays" in said
    assert said.splitlines()[-1].startswith(f"trainer: {stage}: a process was killed by SIGKILL")
    assert "Traceback" not in said
    done(folder, stage)


@pytest.mark.parametrize("stage", ["prepare", "encode"])
def test_ctrl_c_ends_a_stage_with_one_line_however_early_it_meets_the_workers(
    undisturbed: Path, tmp_path: Path, stage: str
) -> None:
    folder = before(stage, undisturbed, tmp_path / "it")
    with started(folder, stage) as process:
        found = workers_of(process, 1)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, said
    assert not [line for line in said.splitlines() if line.startswith((" ", "Process", "Traceback"))], said
    assert said.count("SIGINT") == 1
    assert not [worker for worker in found if Path(f"/proc/{worker}").exists()]
