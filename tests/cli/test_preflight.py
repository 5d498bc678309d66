"""What could be known before the first stage is told when the run begins, and nothing is written."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config

ALL_STAGES = ["prepare", "tokenizer", "encode", "pretrain", "sft", "reward", "dpo", "grpo", "evaluate", "report"]


def whole(small_data: Path, tmp_path: Path, **changes: Any) -> Path:
    """A config of all stages over raw text and chats that are there."""
    raw, chats = small_data / "raw", small_data / "raw-chat"
    settings: dict[str, Any] = {
        "corpus__sources": [{"name": path.stem, "path": str(path)} for path in sorted(raw.iterdir())],
        "chat__conversations": [{"name": "dialogs", "path": f"{chats}/dialogs.jsonl"}],
        "chat__pairs": [{"name": "sister", "path": f"{chats}/sister.jsonl"}],
        "chat__prompts": [{"name": "questions", "path": f"{chats}/questions.jsonl"}],
        "stages": ALL_STAGES,
    }
    return write_config(tmp_path / "config.yaml", tmp_path / "run", **(settings | changes))


@pytest.mark.parametrize(
    ("code", "changes", "wanted"),
    [
        (
            65,
            {"init_from": "/nowhere"},
            "init_from /nowhere: no such folder; give for example runs/x/checkpoints/step-00000008",
        ),
        (65, {"stages": ["prepare", "sft"]}, "nothing for sft to start from; run `trainer pretrain` first, or name a run"),
        (
            65,
            {"evaluate__tasks": [{"name": "quiz", "path": "quiz.jsonl"}]},
            "evaluate.tasks: quiz: no file at quiz.jsonl; give a .jsonl file, or box:NAME",
        ),
        (65, {"evaluate__checkpoints": ["/nowhere"]}, "evaluate.checkpoints: /nowhere: no such folder; give for example"),
        (
            65,
            {"grpo__reward": "no_such_module:f"},
            "grpo.reward no_such_module:f: cannot import no_such_module: ModuleNotFound",
        ),
        (65, {"grpo__reward": "json:nothing"}, "grpo.reward json:nothing: json has no function nothing"),
        (65, {"grpo__reward": None, "grpo__reward_from": "/nowhere"}, "grpo.reward_from /nowhere: neither a reward model's"),
        (65, {"corpus__sources": [{"name": "a", "path": "no/such"}]}, "corpus.sources: source a: no file at no/such"),
        (65, {"chat__pairs": [{"name": "a", "path": "no/such"}]}, "chat.pairs: source a: no file at no/such"),
        (65, {"corpus__steps": {"harmful": {"files": ["no/list"]}}}, "corpus.steps: no file at no/list; give a word list"),
        (
            65,
            {"stages": ["prepare", "tokenizer", "pretrain"]},
            "tokens is not there, and no stage before makes it; name encode",
        ),
        (2, {"device": "cuda"}, "device: cuda: torch finds no GPU here; use device: auto or cpu"),
        (2, {"device": "mps"}, "device: mps: torch finds none here; use device: auto or cpu"),
        (
            65,
            {"model__hidden_size": 65536, "model__num_layers": 100, "model__ffn_size": 65536},
            "model: sft of 2,577.03 billion parameters needs 41,232.4 GB at the least",
        ),
    ],
)
def test_run_tells_at_its_beginning_what_a_later_stage_lacks(
    code: int, changes: dict[str, Any], wanted: str, small_data: Path, tmp_path: Path
) -> None:
    import torch

    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = whole(small_data, tmp_path, **changes)
    processes = ranks.trainer("run", "--config", str(config), folder=tmp_path / "outputs")
    assert processes.wait() == [code], processes.text()
    (line,) = processes.outputs[0].read_text().splitlines()
    assert line.startswith("trainer: ")
    assert wanted in line
    assert not (tmp_path / "run").exists()


def test_a_model_beyond_memory_is_told_by_a_single_stage_too(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    for changes, wanted in (
        (["model.hidden_size=65536", "model.num_layers=100"], "billion parameters needs"),
        (["model.vocab_size=1000000000"], "--set: model.vocab_size: must be at most 16777216, not 1000000000"),
    ):
        settings = [part for change in changes for part in ("--set", change)]
        processes = ranks.trainer("pretrain", "--config", str(config), *settings, folder=tmp_path / "outputs")
        assert processes.wait() == [65], processes.text()
        (line,) = processes.outputs[0].read_text().splitlines()
        assert wanted in line


def test_a_stage_that_is_done_needs_its_input_no_more(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, stages=["pretrain", "sft"])
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path)  # its chats' raw files are gone
    ranks.run_trainer("run", "--config", str(config), folder=tmp_path)
    assert runs.newest_step(tmp_path / "run", "sft") == 12


def test_under_an_agent_the_mistake_is_left_where_it_reads_that_no_restart_helps(small_data: Path, tmp_path: Path) -> None:
    config = whole(small_data, tmp_path, init_from="/nowhere")
    processes = ranks.start(_run_under_agent, (str(config),), tmp_path / "outputs")
    assert processes.wait() == [65], processes.text()
    (failed,) = runs.events(tmp_path / "run", "failed")
    assert (failed["kind"], failed["exit_code"]) == ("CheckpointError", 65)


def _run_under_agent(config: str) -> None:
    import os

    from trainer.cli import main

    main(["run", "--config", config], os.environ | {"TORCHELASTIC_MAX_RESTARTS": "3"})


@pytest.mark.parametrize(
    ("module", "changes", "wanted"),
    [
        ("torch", {}, "training and generation needs torch, which is not installed: pip install 'pretrain-run[train]'"),
        ("tokenizers", {}, "the trainer needs tokenizers, which is not installed: pip install 'pretrain-run[train]'"),
        ("zstandard", {}, "the trainer needs zstandard, which is not installed: pip install 'pretrain-run[train]'"),
        ("tiktoken", {}, "the trainer needs tiktoken, which is not installed: pip install 'pretrain-run[train]'"),
        (
            "safetensors",
            {},
            "training and generation needs safetensors, which is not installed: pip install 'pretrain-run[train]'",
        ),
        (
            "deepspeed",
            {"engine__kind": "deepspeed", "stages": ["prepare", "pretrain"]},
            "engine.kind deepspeed needs deepspeed, which is not installed: DS_BUILD_OPS=0 pip install --no-build",
        ),
        ("ftfy", {"corpus__steps": {"repair": True}}, "corpus.steps.repair needs ftfy, which is not installed: pip install"),
        ("rensa", {"corpus__near_duplicates": {"enabled": True}}, "corpus.near_duplicates needs rensa, which is not installed"),
    ],
)
def test_a_missing_extra_is_told_with_the_line_that_installs_it(
    module: str, changes: dict[str, Any], wanted: str, small_data: Path, tmp_path: Path
) -> None:
    config = whole(small_data, tmp_path, **changes)
    processes = ranks.start(_run_without, (str(config), module), tmp_path / "outputs")
    assert processes.wait() == [65], processes.text()
    (line,) = processes.outputs[0].read_text().splitlines()
    assert line.startswith(f"trainer: {wanted}")


def _run_without(config: str, module: str) -> None:
    from trainer.cli import main

    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        del sys.modules[name]
    sys.modules[module] = None  # type: ignore[assignment]  # what the import system keeps for a package that is not there
    main(["run", "--config", config])
