"""`trainer evaluate` with tasks and several checkpoints, and an exported folder that tells its figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config
from trainer.evaluation.questions import SHOWN
from trainer.tokens.chat import render_chat
from trainer.tokens.chat_encoding import split_of
from trainer.tokens.chat_files import ChatLine, Conversation, read_chat_file

TASKS = [
    {"name": "word-class", "path": "box:wordnet-word-class.jsonl", "max_items": 20},
    {"name": "chat", "path": "box:wordnet-choice.jsonl", "max_items": 8, "form": "chat"},
]


@pytest.fixture(scope="module")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, trained once for all tests."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "config.yaml", small_data, checkpoint__keep=3)
    ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
    return folder / "run"


@pytest.fixture
def pretrained(trained: Path, small_data: Path, tmp_path: Path) -> Path:
    """The config file of a copy of that run, with tasks."""
    shutil.copytree(trained, tmp_path / "run")
    pair = [[{"role": "user", "content": "the"}, {"role": "assistant", "content": text}] for text in ("春眠不觉晓", "zq")]
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"chosen": pair[0], "rejected": pair[1]}) + "\n")
    tasks = [*TASKS, {"name": "pairs", "path": str(tmp_path / "pairs.jsonl"), "kind": "preference"}]
    prompts = ["the", "春"]
    return write_config(
        tmp_path / "config.yaml", small_data, evaluate__tasks=tasks, checkpoint__keep=3, generate__prompts=prompts
    )


def evaluation(tmp_path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((tmp_path / "run" / "evaluation.json").read_bytes())
    return values


def test_tasks_are_scored_told_and_reported(pretrained: Path, tmp_path: Path) -> None:
    ranks.run_trainer("evaluate", "--config", str(pretrained), folder=tmp_path)
    values = evaluation(tmp_path)
    assert (values["step"], set(values["bits_per_byte"])) == (12, {"model", "unigram", "bigram"})
    (entry,) = values["checkpoints"]
    assert (entry["checkpoint"], entry["stage"], entry["step"]) == ("checkpoints/step-00000012", "pretrain", 12)
    assert entry["bits_per_byte"] == values["bits_per_byte"]["model"]
    assert [(task["task"], task["kind"], task["n"], task["chance"]) for task in entry["tasks"]] == [
        ("word-class", "choice", 20, 0.25),
        ("chat", "choice", 8, 0.25),
        ("pairs", "preference", 1, 0.5),
    ]
    for task in entry["tasks"]:
        for score in task["scores"].values():
            assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
            assert 0 < score["p_value"] <= 1
    told = runs.events(tmp_path / "run", "task_scored")
    assert [event["scores"] for event in told] == [task["scores"] for task in entry["tasks"]]
    assert "evaluate: done before" in ranks.run_trainer("evaluate", "--config", str(pretrained), folder=tmp_path)
    ranks.run_trainer("evaluate", "--config", str(pretrained), "--set", "evaluate.tasks=[]", folder=tmp_path)
    assert evaluation(tmp_path)["checkpoints"][0]["tasks"] == []
    ranks.run_trainer("report", "--config", str(pretrained), folder=tmp_path)
    assert "word-class" not in (tmp_path / "run" / "report.html").read_text().partition("Config")[0]


def test_checkpoints_are_compared_side_by_side_and_a_stages_own_is_found(pretrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    older, newer = run / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000012"
    command = ["evaluate", "--config", str(pretrained), "--checkpoint", str(newer), str(older)]
    output = ranks.run_trainer(*command, folder=tmp_path)
    assert "word-class of checkpoints/step-00000004, 20 items: plain " in output
    entries = evaluation(tmp_path)["checkpoints"]
    assert [entry["step"] for entry in entries] == [12, 4]
    assert [[sample["prompt"] for sample in entry["samples"]] for entry in entries] == [["the", "春"]] * 2
    differences = evaluation(tmp_path)["differences"]
    assert [(each["task"], each["score"]) for each in differences] == [
        (task, score) for task in ("word-class", "chat", "pairs") for score in ("plain", "per_character")
    ]
    for each in differences:
        (first,), (second,) = ([task for task in entry["tasks"] if task["task"] == each["task"]] for entry in entries)
        more = first["scores"][each["score"]]["accuracy"] - second["scores"][each["score"]]["accuracy"]
        assert more * first["n"] == pytest.approx(each["only_first"] - each["only_second"])
        assert (each["first"], each["second"]) == (entries[0]["checkpoint"], entries[1]["checkpoint"])
    assert "comparisons show no difference" in output
    assert entries[0]["bits_per_byte"]["all"] < entries[1]["bits_per_byte"]["all"]
    ranks.run_trainer("report", "--config", str(pretrained), folder=tmp_path)
    assert "Side by side" in (run / "report.html").read_text()
    # a tuning stage keeps its checkpoints in a folder of its own
    (run / "sft").mkdir()
    (run / "checkpoints").rename(run / "sft" / "checkpoints")
    (run / "checkpoints").mkdir()
    (run / "sft" / "checkpoints" / "step-00000008").rename(run / "checkpoints" / "step-00000008")
    ranks.run_trainer("evaluate", "--config", str(pretrained), folder=tmp_path)
    names = [entry["checkpoint"] for entry in evaluation(tmp_path)["checkpoints"]]
    assert names == ["checkpoints/step-00000008", "sft/checkpoints/step-00000012"]
    out = tmp_path / "out"
    command = ["export", "--config", str(pretrained), "--out", str(out), "--checkpoint", str(run / "sft" / "checkpoints")]
    ranks.run_trainer(*command, folder=tmp_path)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"| all | {evaluation(tmp_path)['checkpoints'][1]['bits_per_byte']['all']:.4f} |" in card
    assert "| word-class | per_character |" in card


def test_a_checkpoint_of_another_tokenizer_is_refused(pretrained: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "run" / "checkpoints" / "step-00000012" / "manifest.json"
    from trainer.checkpoint.format import CheckpointManifest

    changed = CheckpointManifest.model_validate_json(manifest.read_bytes()).model_copy(update={"tokenizer_sha256": "f" * 64})
    changed = changed.model_copy(update={"own_sha256": changed.computed_sha256()})
    manifest.write_text(changed.model_dump_json())
    for arguments in (["evaluate"], ["export", "--out", str(tmp_path / "out")]):
        processes = ranks.trainer(*arguments, "--config", str(pretrained), folder=tmp_path)
        assert processes.wait() == [65]
        assert "was trained with tokenizer ffffffffffff, but " in processes.text()
    assert not (tmp_path / "out").exists()


def test_checkpoints_side_by_side_answer_the_same_held_out_questions(
    pretrained: Path, small_data: Path, tmp_path: Path
) -> None:
    steps = [str(tmp_path / "run" / "checkpoints" / f"step-{step:08d}") for step in (4, 12)]
    ranks.run_trainer("evaluate", "--config", str(pretrained), "--checkpoint", *steps, folder=tmp_path)
    told = runs.events(tmp_path / "run", "checkpoint_measured")
    assert [event["answers"] for event in told] == [entry["answers"] for entry in evaluation(tmp_path)["checkpoints"]]
    asked = [[(each["question"], each["expected"]) for each in event["answers"]] for event in told]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == SHOWN
    held_out = set()
    for line in read_chat_file("dialogs", small_data / "raw-chat" / "dialogs.jsonl", "conversations"):
        assert isinstance(line, ChatLine)
        assert isinstance(line.row, Conversation)
        if split_of(line.row, 0.1) == "held_out":
            *before, last = line.row.conversations
            held_out.add((render_chat(before, add_generation_prompt=True).text, last.content))
    assert set(asked[0]) <= held_out
    assert any(each["answer"] for each in told[1]["answers"])
    ranks.run_trainer("report", "--config", str(pretrained), folder=tmp_path)
    assert ">Answers</h2>" in (tmp_path / "run" / "report.html").read_text()
