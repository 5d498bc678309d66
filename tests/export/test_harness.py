"""The tasks for lm-evaluation-harness: cut by its rule from its files, with the exported tokenizer, they are ours."""

import json
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment

from tests.support import ranks
from tests.support.data import write_config
from trainer.config_loading import load_config
from trainer.evaluation.tasks import load_task
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder

TASKS = [
    {"name": "class", "path": "box:wordnet-word-class.jsonl", "max_items": 30},
    {"name": "kind", "path": "box:wordnet-kind.jsonl", "form": "chat"},
]


@pytest.fixture
def config(small_data: Path, tmp_path: Path) -> Path:
    (tmp_path / "own.jsonl").write_text(
        '{"question": "春眠不 ", "choices": ["觉晓", "x y"], "answer": 0, "id": 7}\n', encoding="utf-8"
    )
    tasks = [*TASKS, {"name": "own", "path": str(tmp_path / "own.jsonl"), "delimiter": ""}]
    return write_config(tmp_path / "config.yaml", small_data, evaluate__tasks=tasks)


def test_its_rule_gives_our_contexts_and_continuations(config: Path, small_data: Path, tmp_path: Path) -> None:
    import transformers

    out = tmp_path / "tasks"
    command = ("export-tasks", "--config", str(config), "--out", str(out))
    assert ranks.run_trainer(*command, folder=tmp_path).split() == ["class", "own"]
    ranks.run_trainer(*command, folder=tmp_path)  # again, over its own files
    assert sorted(path.name for path in out.iterdir()) == ["class.jsonl", "class.yaml", "own.jsonl", "own.yaml"]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(small_data / "tokenizer" / TOKENIZER_FILE))
    encoder = TextEncoder(small_data / "tokenizer" / TOKENIZER_FILE)
    loaded = load_config(config)
    for task in (loaded.evaluate.tasks[0], loaded.evaluate.tasks[2]):
        settings = yaml.safe_load((out / f"{task.name}.yaml").read_text(encoding="utf-8"))
        lines = Path(settings["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").splitlines()
        questions = load_task(task, encoder, loaded).questions
        assert len(lines) == len(questions)
        for line, question in zip(lines, questions, strict=True):
            item = json.loads(line)
            assert item[settings["doc_to_target"]] == question.answer
            context = Environment().from_string(settings["doc_to_text"]).render(item)
            for choice, option in zip(item[settings["doc_to_choice"]], question.options, strict=True):
                # its rule: blanks at the context's end go to the continuation; what the context alone encodes to is cut off
                text = context.rstrip()
                whole = theirs(context + settings["target_delimiter"] + choice)["input_ids"]
                start = len(theirs(text)["input_ids"])
                assert (whole[:start], whole[start:]) == (option.context, option.ids)
                assert option.num_chars == len(choice)


def test_nothing_to_write_and_a_folder_of_other_things_are_refused(config: Path, tmp_path: Path) -> None:
    command = ("export-tasks", "--config", str(config))
    processes = ranks.trainer(*command, "--out", str(tmp_path), folder=tmp_path / "outputs")
    assert processes.wait() == [2]
    assert "holds something else than tasks; choose a new folder" in processes.text()
    processes = ranks.trainer(
        *command, "--set", "evaluate.tasks=[]", "--out", str(tmp_path / "new"), folder=tmp_path / "outputs"
    )
    assert processes.wait() == [2]
    assert "only kind choice in form text can be exported" in processes.text()
    assert not (tmp_path / "new").exists()
