"""What a person does before and beside a run: a config to start from, help for a key, a look at what is there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import ranks, runs
from tests.support.data import write_config
from trainer.config import Config
from trainer.config_help import explain_key, starter
from trainer.config_loading import load_config, preset_names
from trainer.config_section import Section
from trainer.errors import UsageError


@pytest.mark.parametrize("preset", preset_names())
def test_the_config_to_start_from_is_valid_as_it_is_and_with_all_its_keys(preset: str, tmp_path: Path) -> None:
    text = starter(preset)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    config = load_config(file)
    assert config.name == "my-run"
    assert config.corpus.sources[0].path == "box:chinese-poetry.jsonl.zst"
    open_text = re.sub(r"^( *)# ", r"\1", re.sub(r"(?m)^ *##.*\n", "", text), flags=re.MULTILINE)
    file.write_text(open_text)
    assert load_config(file) == config, "every commented line is a key at its value"
    assert len(yaml.safe_load(open_text)) > 25


def test_init_writes_a_file_and_never_over_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    command = [sys.executable, "-m", "trainer", "init", str(file)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert first.stderr == f"trainer: {file} written; look into it, then: trainer run -c {file}\n"
    assert file.read_text() == starter("tiny")
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, again.stderr) == (
        2,
        f"trainer: {file}: is there already; choose another name, or remove it\n",
    )


def keys_of(section: Section, path: str = "") -> list[str]:
    """Every key of a config, dotted."""
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        found.append(f"{path}{name}")
        if isinstance(value, Section):
            found += keys_of(value, f"{path}{name}.")
    return found


def test_every_key_can_be_explained() -> None:
    keys = keys_of(Config())
    assert len(keys) > 200
    for key in keys:
        first, *more = explain_key(Config(), key)
        assert first.startswith(f"{key}: ")
        assert all(line.strip() for line in more)
    assert list(explain_key(load_config(None, [], "tiny"), "pretrain.optimizer.lr")) == [
        "pretrain.optimizer.lr: 0.008",
        "  Peak learning rate. Muon's updates have the size of AdamW's (arXiv 2502.16982), so one rate serves both.",
        "  a number above 0; default: 0.001",
    ]
    with pytest.raises(UsageError, match=r"there is no key optimiser in pretrain; did you mean optimizer\?"):
        list(explain_key(Config(), "pretrain.optimiser.lr"))
    with pytest.raises(UsageError, match="seed is a value and has no keys"):
        list(explain_key(Config(), "seed.x"))


def test_validate_tells_what_is_missing_and_changes_nothing(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, stages=["pretrain"])
    output = ranks.run_trainer("validate", "--config", str(config), folder=tmp_path / "outputs")
    assert output.splitlines()[-1] == "trainer: all that pretrain need is there"
    assert not (tmp_path / "run").exists()
    processes = ranks.trainer("validate", "--config", str(config), "--set", "init_from=/nowhere", folder=tmp_path / "outputs")
    assert processes.wait() == [65]
    assert processes.outputs[0].read_text().startswith("trainer: init_from /nowhere: no such folder")
    assert not (tmp_path / "run").exists()


def test_status_tells_how_far_a_run_is(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, stages=["encode", "pretrain", "sft"], pretrain__steps=100_000)
    run = tmp_path / "run"

    def status() -> dict[str, dict[str, str]]:
        told = json.loads(ranks.run_trainer("status", "--config", str(config), "--json", folder=tmp_path / "outputs"))
        return {each["stage"]: each for each in told.pop("stages")} | {"run": told}

    assert [status()[stage]["state"] for stage in ("encode", "pretrain", "sft")] == ["done", "ahead", "ahead"]
    training = ranks.trainer("pretrain", "--config", str(config), folder=tmp_path)
    training.wait_for(lambda: runs.newest_step(run) >= 4)
    told = status()
    assert told["run"]["holder"].startswith("a training process of ")
    assert told["run"]["holder"].endswith(f"pid {training.pids[0]}")
    assert told["pretrain"]["state"] == "begun"
    assert re.match(r"step \d+ of 100000, loss \d\.\d{4}, \d+ steps saved", told["pretrain"]["detail"])
    training.kill()
    assert status()["run"]["holder"] is None
    lines = ranks.run_trainer("status", str(run), folder=tmp_path / "outputs").splitlines()
    assert lines[0].startswith(f"small: {run}: nobody works in it, its last word is ")
    assert [line.split()[0] for line in lines[1:]] == ["encode", "pretrain", "sft"]


def test_status_tells_why_a_run_failed(small_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(small_data, tmp_path / "data"))
    shard = data / "tokens" / "train" / "poetry-00000.tokens"
    os.truncate(shard, shard.stat().st_size - 2)
    config = write_config(tmp_path / "config.yaml", data, stages=["pretrain"])
    assert ranks.trainer("pretrain", "--config", str(config), folder=tmp_path).wait() == [65]
    output = ranks.run_trainer("status", "--config", str(config), folder=tmp_path / "outputs")
    assert f"  it failed: {shard}: " in output
