"""A run that starts from another one's weights reads and writes with their tokenizer."""

from pathlib import Path

import pytest

from tests.support import ranks, runs
from tests.support.data import chat_of_box, write_config


@pytest.fixture(scope="module")
def base(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained run, whose data stand in another folder."""
    folder = tmp_path_factory.mktemp("base")
    config = write_config(folder / "config.yaml", small_data)
    ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
    return folder / "run"


def test_a_new_run_on_other_text_goes_on_with_the_tokenizer_of_init_from(small_data: Path, base: Path, tmp_path: Path) -> None:
    sources = [{"name": "poetry", "path": str(small_data / "raw" / "poetry.jsonl")}]
    stages = ["prepare", "tokenizer", "encode", "pretrain"]
    config = write_config(
        tmp_path / "config.yaml", tmp_path / "run", init_from=str(base), corpus__sources=sources, stages=stages, chat={}
    )
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path)
    own, theirs = (folder / "tokenizer" / "tokenizer.json" for folder in (tmp_path / "run", small_data))
    assert own.read_bytes() == theirs.read_bytes()
    (finished,) = (each for each in runs.events(tmp_path / "run", "stage_finished", "tokenizer"))
    assert finished["summary"]["taken_from"] == str(small_data / "tokenizer")
    assert "note" not in finished["summary"]
    assert runs.events(tmp_path / "run", "training_started", "pretrain")[0]["started_from"]
    first = runs.losses(tmp_path / "run")[1]
    assert first < runs.losses(base)[1] - 0.5  # the weights know this tokenizer's ids


def test_settings_for_another_tokenizer_are_said_to_be_unused(small_data: Path, base: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", tmp_path / "run", init_from=str(base), tokenizer__min_frequency=9)
    told = ranks.run_trainer("tokenizer", "--config", str(config), folder=tmp_path)
    assert "the config's tokenizer section is not used: the weights of init_from know their own tokenizer alone" in told


def test_a_run_of_conversations_alone_needs_no_tokenizer_stage(small_data: Path, base: Path, tmp_path: Path) -> None:
    chat = chat_of_box(small_data).model_dump(mode="json")
    config = write_config(
        tmp_path / "config.yaml", tmp_path / "run", init_from=str(base / "checkpoints"), chat=chat, stages=["encode", "sft"]
    )
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path)
    assert runs.last_step(tmp_path / "run", "sft") == 12


def test_another_tokenizer_in_the_data_folder_is_told_before_anything_is_encoded(
    small_data: Path, base: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", tmp_path / "run", init_from=str(base))
    other = tmp_path / "run" / "tokenizer"
    other.mkdir(parents=True)
    (other / "tokenizer.json").write_bytes((small_data / "tokenizer" / "tokenizer.json").read_bytes() + b"\n")
    for stage in ("tokenizer", "encode"):
        processes = ranks.trainer(stage, "--config", str(config), folder=tmp_path)
        assert processes.wait() == [65]
        line = processes.text().strip().splitlines()[-1]
        assert "is another tokenizer (" in line
        assert f"than that of init_from {base}" in line
        assert "choose another data_dir, or remove this folder" in line


def test_a_tokenizer_that_is_nowhere_is_named_with_the_way_out(small_data: Path, base: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "copied"
    (lonely / "checkpoints").mkdir(parents=True)
    newest = max((base / "checkpoints").iterdir())
    target = lonely / "checkpoints" / newest.name
    target.mkdir()
    for file in newest.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    (small_data / "tokenizer").rename(small_data / "moved")
    try:
        config = write_config(tmp_path / "config.yaml", tmp_path / "run", init_from=str(lonely))
        processes = ranks.trainer("tokenizer", "--config", str(config), folder=tmp_path)
        assert processes.wait() == [65]
    finally:
        (small_data / "moved").rename(small_data / "tokenizer")
    line = processes.text().strip().splitlines()[-1]
    assert f"init_from {lonely}: its tokenizer (" in line
    assert line.endswith(f"copy that folder to {tmp_path / 'run' / 'tokenizer'}")
