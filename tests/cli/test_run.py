"""`trainer run` from raw text to a report, as a person types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support import ranks, runs
from tests.support.data import write_config


def whole_config(small_data: Path, tmp_path: Path, **changes: object) -> Path:
    """All stages over the small raw text, in folders of its own."""
    sources = [{"name": path.stem, "path": str(path)} for path in sorted((small_data / "raw").iterdir())]
    return write_config(
        tmp_path / "config.yaml",
        tmp_path / "run",
        corpus__sources=sources,
        corpus__held_out=0.1,
        chat={},
        generate__prompts=["the", "春"],
        **changes,
    )


def own_words(output: Path) -> list[str]:
    """What a person sees besides the lines of training: the trainer's own lines. Nothing else may stand there."""
    lines = output.read_text().splitlines()
    known = ("== ", "pretrain", "step ", "epoch ", "trainer: ", "SIG", "killed ", "checkpoint ", "order ")
    assert [line for line in lines if not line.startswith(known)] == []
    return [line for line in lines if line.startswith("trainer: ")]


def test_run_goes_through_all_stages_and_a_second_call_does_nothing_again(small_data: Path, tmp_path: Path) -> None:
    config = whole_config(small_data, tmp_path)
    run = tmp_path / "run"
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert set(evaluation["bits_per_byte"]) == {"model", "unigram", "bigram"}
    assert set(evaluation["bits_per_byte"]["model"]) == {"poetry", "wordnet", "all"}
    assert [text["prompt"] for text in json.loads((run / "generated.json").read_text())["texts"]] == ["the", "春"]
    assert "<svg" in (run / "report.html").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name not in ("events.jsonl", "report.html")}
    output = ranks.run_trainer("run", "--config", str(config), folder=tmp_path)
    for stage in ("prepare", "tokenizer", "encode", "pretrain", "evaluate", "generate"):
        assert f"== {stage}: done before" in output
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_the_resolved_config_in_the_run_folder_is_the_run(small_data: Path, tmp_path: Path) -> None:
    config = whole_config(small_data, tmp_path)
    ranks.run_trainer("run", "--config", str(config), "--set", "stages=[prepare]", folder=tmp_path)
    output = ranks.run_trainer("prepare", "--config", str(tmp_path / "run" / "config.yaml"), folder=tmp_path)
    assert "prepare: done before" in output
    shown = ranks.run_trainer("config", "--config", str(config), "--show", folder=tmp_path)
    assert yaml.safe_load(shown)["pretrain"]["optimizer"]["lr"] == 0.01


def test_evaluate_json_and_generate_write_results_to_stdout(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path)
    command = [sys.executable, "-m", "trainer"]
    result = subprocess.run(
        [*command, "evaluate", "--config", str(config), "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(result.stdout)["step"] == 12
    texts = [
        ranks.run_trainer("generate", "--config", str(config), "--prompt", "春", "--seed", seed, folder=tmp_path)
        for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("春")


@pytest.mark.timeout(300)
def test_run_starts_processes_kills_one_and_ends_like_an_undisturbed_run(small_data: Path, tmp_path: Path) -> None:
    stages = ["prepare", "tokenizer", "encode", "pretrain"]
    disturbed = whole_config(
        small_data,
        tmp_path,
        stages=stages,
        pretrain__steps=200,
        launch={"processes": 2, "kill": [{"rank": 1, "at_step": 20}]},
    )
    output = ranks.run_trainer("run", "--config", str(disturbed), folder=tmp_path)
    run = tmp_path / "run"
    killed = runs.events(run, "rank_killed")
    assert [event["rank"] for event in killed] == [1]
    starts = runs.events(run, "training_started")
    assert [event["restart"] for event in starts] == [0, 1]
    assert killed[0]["pid"] in starts[0]["pids"]
    assert starts[1]["resumed_from"]
    checked = runs.events(run, "order_checked")[-1]
    assert (checked["steps"], checked["repeated"], checked["skipped"]) == (200, 0, 0)
    assert "order of 200 steps checked" in output
    other = tmp_path / "other"
    other.mkdir()
    undisturbed = whole_config(small_data, other, stages=stages, pretrain__steps=200, launch={"processes": 2})
    ranks.run_trainer("run", "--config", str(undisturbed), folder=other)
    assert runs.losses(run) == runs.losses(other / "run")
    assert runs.state_of(run, 200) == runs.state_of(other / "run", 200)
    assert runs.rows_by_step(run) == runs.rows_by_step(other / "run")


@pytest.mark.timeout(200)
def test_a_permanent_error_in_a_training_process_ends_run_with_its_line_and_no_restart(
    small_data: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, stages=["pretrain"], launch={"processes": 2})
    shard = small_data / "tokens" / "train" / "poetry-00000.tokens"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    try:
        processes = ranks.trainer("run", "--config", str(config), folder=tmp_path)
        assert processes.wait() == [65], processes.text()
    finally:
        shard.write_bytes(content)
    (line,) = own_words(processes.outputs[0])
    assert "truncated or altered" in line
    assert len(runs.events(tmp_path / "run", "stage_started")) == 1


@pytest.mark.timeout(200)
def test_a_spent_restart_budget_exits_75(small_data: Path, tmp_path: Path) -> None:
    launch = {"processes": 2, "max_restarts": 0, "kill": [{"rank": 0, "at_step": 5}]}
    config = write_config(tmp_path / "config.yaml", small_data, stages=["pretrain"], launch=launch, pretrain__steps=100_000)
    processes = ranks.trainer("run", "--config", str(config), folder=tmp_path)
    assert processes.wait() == [75], processes.text()
    said = own_words(processes.outputs[0])
    log = tmp_path / "run" / "torchrun.log"
    assert said[0] == f"trainer: process 0 was ended by SIGKILL; torch's own words on it stand in {log}"
    assert said[-1].startswith("trainer: training ended with code 1 after at most 0 restarts")
    assert said[-1].endswith(f"stand in {log}; start the same command again to go on from the last checkpoint")
    assert len(said) == 2
    assert "Traceback" in log.read_text()


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 143), (signal.SIGKILL, -9)])
def test_a_signal_to_run_ends_its_processes_saved(number: signal.Signals, code: int, small_data: Path, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "config.yaml", small_data, stages=["pretrain"], launch={"processes": 2}, pretrain__steps=100_000
    )
    run = tmp_path / "run"
    process = ranks.trainer("run", "--config", str(config), folder=tmp_path)
    process.wait_for(lambda: runs.last_step(run) >= 5)
    process.signal(number, 0)
    assert process.wait() == [code], process.text()
    if code == 143:
        (line,) = own_words(process.outputs[0])
        assert line == f"trainer: {number.name}: stopped; start the same command again to go on"
    pids = runs.events(run, "training_started")[-1]["pids"]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "training processes are left behind"
        time.sleep(0.05)
    assert runs.newest_step(run) == runs.last_step(run) > 0


def test_use_wandb_tracks_offline_and_keeps_its_run_after_a_resume(small_data: Path, tmp_path: Path) -> None:
    config = write_config(  # an epoch ends with step 11
        tmp_path / "config.yaml", small_data, pretrain__global_batch=128, pretrain__micro_batch=32
    )
    for stop_after in (6, 12):
        processes = ranks.start(_train_with_wandb, (str(config), stop_after), tmp_path)
        assert processes.wait() == [0], processes.text()
        assert "takes no events" not in processes.text()
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rsplit("-", 1)[1] for folder in folders}) == 1
    for folder in folders:
        (log,) = folder.glob("run-*.wandb")
        content = log.read_bytes()
        assert b"my-project" in content
        for name in (b"loss", b"lr", b"epoch_time"):
            assert name in content or folder == folders[0]


def test_a_wandb_server_that_is_not_there_is_told_and_training_goes_on(small_data: Path, tmp_path: Path) -> None:
    wandb = {"enabled": True, "mode": "online", "deadline_s": 3}
    config = write_config(tmp_path / "config.yaml", small_data, tracking__wandb=wandb)
    processes = ranks.start(_train_without_server, (str(config),), tmp_path)
    assert processes.wait() == [0], processes.text()
    assert "wandb takes no events: " in processes.text()
    run = tmp_path / "run"
    assert [event["sink"] for event in runs.events(run, "sink_failed")] == ["wandb"]
    assert (run / "DONE").exists()


def _train_without_server(config: str) -> None:
    from trainer.cli import main

    os.environ |= {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    main(["pretrain", "--config", config])


def _train_with_wandb(config: str, stop_after: int) -> None:
    from trainer.cli import main

    os.environ["WANDB_MODE"] = "offline"
    main([
        "pretrain", "--config", config, "--use_wandb", "--wandb_project", "my-project", "--wandb_run_name", "my-run",
        "--set", f"pretrain.stop_after={stop_after}",
    ])  # fmt: skip


def test_run_under_torchrun_prepares_once_and_trains_together(small_data: Path, tmp_path: Path) -> None:
    config = whole_config(small_data, tmp_path)
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path, world_size=2)
    run = tmp_path / "run"
    finished = [event["stage"] for event in runs.events(run, "stage_finished")]
    assert finished == ["prepare", "tokenizer", "encode", "pretrain", "evaluate", "generate", "report"]
    assert runs.events(run, "training_started")[0]["world_size"] == 2


def test_a_corpus_without_held_out_documents_trains_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times.\n" * 60)
    config = write_config(
        tmp_path / "config.yaml",
        tmp_path / "run",
        corpus__sources=[{"name": "book", "path": str(tmp_path / "book.txt")}],
        corpus__held_out=0.001,
        chat={},
        pretrain__steps=3,
        pretrain__schedule={"warmup_steps": 1},
    )
    output = ranks.run_trainer("run", "--config", str(config), folder=tmp_path)
    assert "nothing is held out; raise corpus.held_out, or add documents" in output
    assert runs.events(tmp_path / "run", "validated") == []
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.timeout(200)
def test_a_fault_in_one_process_is_one_line_on_the_terminal_and_a_traceback_in_the_log(
    small_data: Path, tmp_path: Path
) -> None:
    launch = {"processes": 2, "max_restarts": 0}
    config = write_config(tmp_path / "config.yaml", small_data, stages=["grpo"], launch=launch, grpo__updates_per_rollout=1)
    ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path)
    reward = ["--set", "grpo.reward=tests.support.rewards:breaks_in_the_second_process"]
    config = write_config(tmp_path / "other.yaml", small_data, stages=["grpo"], launch=launch, init_from=str(tmp_path / "run"))
    run_dir = ["--set", f"run_dir={tmp_path}/other"]
    processes = ranks.trainer("run", "--config", str(config), *reward, *run_dir, folder=tmp_path)
    assert processes.wait() == [65], processes.text()
    output = processes.outputs[0].read_text()
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("trainer: ")]
    assert "breaks_in_the_second_process: raised RuntimeError: broken for the answer" in line
    assert "trainer: grpo.reward" in (tmp_path / "other" / "torchrun.log").read_text()
