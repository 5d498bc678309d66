"""The model that is chatted with, served and exported by default is the one that measured best, and a line says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks
from tests.support.data import write_config
from tests.support.models import model_of, save_run
from trainer.checkpoint.format import MANIFEST, CheckpointManifest
from trainer.config_loading import load_config
from trainer.run_folder import RunFolder


@pytest.fixture
def config(small_data: Path, tmp_path: Path) -> Path:
    """A run with checkpoints of pretrain, sft, dpo and grpo."""
    file = write_config(tmp_path / "config.yaml", small_data)
    loaded = load_config(file)
    save_run(loaded, model_of(loaded.model, 256))
    folder = RunFolder.of(loaded)
    for stage in ("sft", "dpo", "grpo"):
        shutil.copytree(folder.checkpoints_of("pretrain"), folder.checkpoints_of(stage))  # type: ignore[arg-type]
        manifest = folder.checkpoints_of(stage) / "step-00000007" / MANIFEST  # type: ignore[arg-type]
        of_stage = CheckpointManifest.model_validate_json(manifest.read_bytes()).model_copy(update={"stage": stage})
        manifest.write_text(of_stage.model_copy(update={"own_sha256": of_stage.computed_sha256()}).model_dump_json())
    return file


def write_evaluation(config: Path, accuracies: dict[str, list[float]], step: int = 7) -> None:
    loaded = load_config(config)
    entries: list[dict[str, Any]] = [
        {
            "checkpoint": f"{stage}/checkpoints/step-{step:08d}",
            "bits_per_byte": {"all": 2.0},
            "tasks": [
                {
                    "task": f"task-{place}",
                    "kind": "choice",
                    "n": 100,
                    "chance": 0.25,
                    "left_out": 0,
                    "scores": {"plain": {"accuracy": accuracy, "low": 0.0, "high": 1.0, "p_value": 0.5}},
                }
                for place, accuracy in enumerate(of_stage)
            ],
        }
        for stage, of_stage in accuracies.items()
    ]
    RunFolder.of(loaded).evaluation.write_text(json.dumps({"run": loaded.hash(), "checkpoints": entries}))


def exported(config: Path, tmp_path: Path, *arguments: str) -> tuple[str, str]:
    """The stage that was exported, and what was said."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    output = ranks.run_trainer("export", "--config", str(config), "--out", str(out), *arguments, folder=tmp_path)
    return json.loads((out / "manifest.json").read_bytes())["stage"], output


DEMO = {"sft": [0.475, 0.25, 0.4], "dpo": [0.251, 0.25, 0.41], "grpo": [0.230, 0.26, 0.41]}


def test_the_best_stage_is_taken_and_the_reason_told(config: Path, tmp_path: Path) -> None:
    write_evaluation(config, DEMO)
    stage, output = exported(config, tmp_path)
    assert stage == "sft"
    assert "using sft, the best of 3 tuned stages on held-out tasks: 0.17, where 0 is guessing (dpo 0.07, grpo 0.07)" in output
    stage, output = exported(config, tmp_path, "--checkpoint", str(RunFolder.of(load_config(config)).checkpoints_of("grpo")))
    assert (stage, "using" in output) == ("grpo", False)


@pytest.mark.parametrize(
    ("accuracies", "step"), [({}, 7), ({"sft": [0.9], "dpo": [0.1]}, 7), (DEMO, 6), ({stage: [] for stage in DEMO}, 7)]
)
def test_without_figures_for_all_it_is_the_last_stage(
    accuracies: dict[str, list[float]], step: int, config: Path, tmp_path: Path
) -> None:
    write_evaluation(config, accuracies, step)
    stage, output = exported(config, tmp_path)
    assert stage == "grpo"
    assert "using grpo, the last stage; `trainer evaluate` with evaluate.tasks has no figures for" in output


def test_chat_takes_the_same_one(config: Path, tmp_path: Path) -> None:
    write_evaluation(config, DEMO)
    assert "using sft, the best of 3" in ranks.run_trainer("chat", "--config", str(config), folder=tmp_path)
