"""Each kind of bad input gives its one clear line and exit code, and leaves nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config


def fails(folder: Path, code: int, *arguments: str) -> str:
    """The one line that a failing command ends with."""
    processes = ranks.trainer(*arguments, folder=folder / "outputs")
    assert processes.wait() == [code], processes.text()
    output = processes.outputs[0].read_text()
    assert "Traceback" not in output
    return [line for line in output.splitlines() if not line.startswith("==")][-1]


@pytest.fixture
def own_data(small_data: Path, tmp_path: Path) -> Path:
    """A copy of the small data, to be damaged."""
    return Path(shutil.copytree(small_data, tmp_path / "data"))


def test_unknown_key(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    before, section, after = config.read_text().partition("pretrain:\n")
    config.write_text(before + section + after.replace("micro_batch:", "micro_bach:", 1))
    line = fails(tmp_path, 65, "pretrain", "--config", str(config))
    number = 1 + config.read_text().splitlines().index("  micro_bach: 2")
    assert line == f"trainer: {config}:{number}: pretrain.micro_bach: unknown key; did you mean micro_batch?"
    assert not (tmp_path / "run").exists()


def test_impossible_value(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    line = fails(tmp_path, 65, "pretrain", "--config", str(config), "--set", "pretrain.micro_batch=3")
    assert line.endswith("pretrain: micro_batch 3 does not divide global_batch 8; nearest: 2, 4")
    assert not (tmp_path / "run").exists()


def test_a_stage_without_what_it_starts_from(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    line = fails(tmp_path, 65, "sft", "--config", str(config))
    assert line.endswith("nothing for sft to start from; run `trainer pretrain` first, or name a run folder as init_from")
    ranks.run_trainer("pretrain", "--config", str(config), "--set", "pretrain.stop_after=4", folder=tmp_path)
    line = fails(tmp_path, 65, "sft", "--config", str(config))
    assert line.endswith("checkpoints: pretrain is not finished; run `trainer pretrain` to its end first")
    other = write_config(tmp_path / "other.yaml", small_data, init_from=str(tmp_path / "no"), run_dir=str(tmp_path / "other"))
    assert f"init_from {tmp_path}/no: no such folder" in fails(tmp_path, 65, "dpo", "--config", str(other))


def test_a_stage_without_its_rows(own_data: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_data / "chat")
    config = write_config(tmp_path / "config.yaml", own_data)
    line = fails(tmp_path, 65, "sft", "--config", str(config))
    assert line.endswith("chat: no conversations here; name sources in chat.conversations and run `trainer encode` first")


def test_missing_config_and_no_config(tmp_path: Path) -> None:
    assert fails(tmp_path, 65, "run", "--config", "nowhere.yaml") == "trainer: nowhere.yaml: no such config file"
    assert fails(tmp_path, 2, "run") == "trainer: no config: give --config FILE or --preset NAME"


def test_wrong_command_line(tmp_path: Path) -> None:
    assert fails(tmp_path, 2, "pretrian").startswith("trainer: 'pretrian' is no command; did you mean pretrain?")


def test_missing_text(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", tmp_path / "data", corpus__sources=[{"name": "a", "path": "no/such"}])
    line = fails(tmp_path, 65, "prepare", "--config", str(config))
    assert line.startswith(
        f"trainer: corpus.sources: source a: no file at no/such (seen from {Path.cwd()}); give a file, folder"
    )
    assert not (tmp_path / "data").exists()


def test_too_many_bad_lines(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "a good line, long enough"}\n{"text": 5}\nnot json\n')
    config = write_config(
        tmp_path / "config.yaml", tmp_path / "data", corpus__sources=[{"name": "a", "path": str(raw)}], corpus__max_bad_lines=1
    )
    line = fails(tmp_path, 65, "prepare", "--config", str(config))
    wanted = f'corpus.max_bad_lines 1 is passed; the first bad line is {raw}:2: expected {{"text": "..."}}'
    assert line == f"trainer: {wanted}"
    assert not list((tmp_path / "data").glob("*"))


def test_stages_out_of_order(small_data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "data"
    config = write_config(tmp_path / "config.yaml", empty)
    for stage, words in (
        ("tokenizer", f"{empty}/corpus: no clean corpus here; run `trainer prepare` first"),
        ("encode", f"{empty}/tokenizer/tokenizer.json: no tokenizer here; run `trainer tokenizer` first"),
        ("pretrain", f"{empty}/tokenizer/tokenizer.json: no tokenizer here; run `trainer tokenizer` first"),
    ):
        assert fails(tmp_path, 65, stage, "--config", str(config)) == f"trainer: {words}"
    config = write_config(tmp_path / "config.yaml", small_data)
    wanted = f"trainer: {tmp_path}/run/checkpoints: no checkpoint here; run `trainer pretrain` first"
    assert fails(tmp_path, 65, "generate", "--config", str(config), "--prompt", "a") == wanted
    assert fails(tmp_path, 65, "evaluate", "--config", str(config)) == wanted


def test_wrong_vocabulary(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, model__vocab_size=400)
    line = fails(tmp_path, 65, "pretrain", "--config", str(config))
    assert line.endswith(
        "has 512 ids, but model.vocab_size is 400; set model.vocab_size to 512 or more, or train the tokenizer anew"
    )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_truncated_shard(own_data: Path, tmp_path: Path) -> None:
    shard = own_data / "tokens" / "train" / "poetry-00000.tokens"
    size = shard.stat().st_size
    os.truncate(shard, size - 2)
    config = write_config(tmp_path / "config.yaml", own_data)
    line = fails(tmp_path, 65, "pretrain", "--config", str(config))
    wanted = f"{shard}: {size - 2} bytes instead of {size}: truncated or altered; remove {own_data}/tokens and run"
    assert line.startswith(f"trainer: {wanted}")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_altered_shard_of_the_right_size(own_data: Path, tmp_path: Path) -> None:
    shard = own_data / "tokens" / "train" / "poetry-00000.tokens"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    config = write_config(tmp_path / "config.yaml", own_data)
    line = fails(tmp_path, 65, "pretrain", "--config", str(config))
    assert line.startswith(f"trainer: {shard}: its SHA-256 is not the manifest's: altered; remove {own_data}/tokens")


def test_shards_of_another_row_length(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, tokens__row_tokens=32)
    line = fails(tmp_path, 65, "pretrain", "--config", str(config))
    assert "packed for tokens.row_tokens 64, but the config says 32; remove" in line


def test_someone_elses_run_folder(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    ranks.run_trainer("pretrain", "--config", str(config), "--set", "pretrain.stop_after=2", folder=tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*"))
    line = fails(tmp_path, 65, "pretrain", "--config", str(config), "--set", "pretrain.optimizer.lr=0.02")
    assert line == (
        f"trainer: {tmp_path}/run: holds another run; it differs in pretrain.optimizer.lr (0.01 there, 0.02 here); "
        "choose another run_dir or name, or remove this folder"
    )
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*")) == before


def test_a_run_folder_that_cannot_be_one_is_told_before_anything_is_done(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("events.jsonl", "lock", "DONE", "config.yaml"):
        (tmp_path / f"with-{name}" / name).mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "checkpoints").write_text("")
    config = write_config(tmp_path / "config.yaml", small_data)
    place = f"trainer: {tmp_path}"
    for run_dir, wanted in (
        ("file", f"{place}/file: is a file, but a run needs a folder; remove it, or choose another run_dir"),
        ("file/below", f"{place}/file/below: cannot be written: a part of this path is a file and no folder"),
        ("x" * 300, f"{place}/{'x' * 300}: cannot be written: the path is too long for this file system"),
        ("dangling", f"{place}/dangling: cannot be written: a file, or a link to nowhere, stands there"),
        ("with-events.jsonl", f"{place}/with-events.jsonl/events.jsonl: is a folder, but the run keeps a file of that name"),
        ("with-lock", f"{place}/with-lock/lock: is a folder, but the run keeps a file of that name; remove it"),
        ("with-DONE", f"{place}/with-DONE/DONE: is a folder, but the run keeps a file of that name; remove it"),
        ("with-config.yaml", f"{place}/with-config.yaml/config.yaml: is a folder, but the run keeps a file of that name"),
        ("full", f"{place}/full/checkpoints: is a file, but the run keeps a folder of that name; remove it"),
    ):
        line = fails(tmp_path, 65, "pretrain", "--config", str(config), "--set", f"run_dir={tmp_path}/{run_dir}")
        assert line.startswith(wanted)
    assert (tmp_path / "file").read_text() == "mine"
    line = fails(tmp_path, 65, "pretrain", "--config", str(config), "--set", 'run_dir="a\\0b"')
    assert line == "trainer: --set run_dir=\"a\\0b\": 'a\\x00b' holds the character NUL"


def test_two_processes_in_one_run_folder(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=100_000)
    first = ranks.trainer("pretrain", "--config", str(config), folder=tmp_path)
    first.wait_for((tmp_path / "run" / "checkpoints").exists)
    several = ["--set", "launch.processes=2", "--set", "stages=[pretrain]"]
    for arguments in (["pretrain", "--config", str(config)], ["run", "--config", str(config), *several]):
        line = fails(tmp_path, 65, *arguments)
        assert line.startswith(f"trainer: {tmp_path}/run: a training process of ")
        assert line.endswith("works in this folder; stop it, or choose another run_dir")
    first.kill()
    assert runs.events(tmp_path / "run", "failed") == []


def test_no_disk(small_data: Path, tmp_path: Path) -> None:
    """A file-size limit of the kernel stands for a disk that is full when the last checkpoint is written."""
    config = write_config(tmp_path / "config.yaml", small_data)
    processes = ranks.start(_train_on_a_full_disk, (str(config),), tmp_path)
    assert processes.wait() == [65], processes.text()
    last = processes.outputs[0].read_text().splitlines()[-1]
    assert last.endswith("cannot be written: no space is left; free some, then start again")
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert not (tmp_path / "run" / "DONE").exists()


def _train_on_a_full_disk(config: str) -> None:
    import errno

    from trainer.cli import main
    from trainer.files import Disk

    def full(self: Disk, file: object, data: memoryview) -> None:
        if len(data) > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, file, data)  # type: ignore[arg-type]

    original = Disk.write
    Disk.write = full  # type: ignore[method-assign]
    main(["pretrain", "--config", config])


def test_a_gpu_that_is_not_there(small_data: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.fail("this test is about a machine without a GPU")
    config = write_config(tmp_path / "config.yaml", small_data, device="cuda")
    wanted = "trainer: device: cuda: torch finds no GPU here; use device: auto or cpu"
    assert fails(tmp_path, 2, "pretrain", "--config", str(config)) == wanted


def test_a_missing_optional_package(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    processes = ranks.start(_pretrain_without_wandb, (str(config),), tmp_path)
    assert processes.wait() == [65], processes.text()
    wanted = "trainer: wandb is not installed: pip install 'pretrain-run[wandb]', or leave --use_wandb"
    assert processes.outputs[0].read_text().splitlines()[-1] == wanted


def _pretrain_without_wandb(config: str) -> None:
    from trainer.cli import main

    sys.modules["wandb"] = None  # type: ignore[assignment]  # what the import system keeps for a package that is not there
    main(["pretrain", "--config", config, "--use_wandb"])


def test_commands_that_need_no_torch_do_not_import_it(tmp_path: Path) -> None:
    probe = "import sys; from trainer.cli import main\ntry: main({})\nexcept SystemExit: print('torch' in sys.modules)"
    raw = tmp_path / "raw.txt"
    raw.write_text("some text that is long enough to stay\n" * 40)
    config = write_config(tmp_path / "config.yaml", tmp_path / "data", corpus__sources=[{"name": "a", "path": str(raw)}])
    for arguments in (["config", "--schema"], ["--help"], ["prepare", "--config", str(config)]):
        result = subprocess.run(
            [sys.executable, "-c", probe.format(json.dumps(arguments))], capture_output=True, text=True, timeout=60, check=True
        )
        assert result.stdout.splitlines()[-1] == "False", arguments
