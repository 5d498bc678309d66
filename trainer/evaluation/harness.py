"""The config's tasks as files of EleutherAI's lm-evaluation-harness, which asks an exported model the same questions.

    lm_eval --model hf --model_args pretrained=EXPORTED,dtype=float32 --tasks NAME --include_path FOLDER --device cpu

Its `acc` is our score `plain`, its `acc_norm` our `per_character`. A question begins with `<|endoftext|>`, which stands before
every document of the training text; the harness would put nothing, or the start of a chat turn, in its place.
Keys: https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/task_guide.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from trainer.config import Config, EvaluationTask
from trainer.errors import UsageError
from trainer.evaluation.tasks import ChoiceItem, task_file, used_items
from trainer.files import new_folder, write_file
from trainer.tokens.tokenizer import END_OF_TEXT, SPECIAL_TOKENS


def export_tasks(config: Config, out: Path) -> list[str]:
    """Write NAME.yaml and NAME.jsonl for each task of kind choice and form text; returns their names.

    `out` is new, or holds nothing but such files. Raises UsageError, TaskError.
    """
    tasks = [task for task in config.evaluate.tasks if (task.kind, task.form) == ("choice", "text")]
    if not tasks:
        raise UsageError(
            "evaluate.tasks: only kind choice in form text can be exported; name one, such as box:wordnet-choice.jsonl"
        )
    if out.exists() and (not out.is_dir() or any(path.suffix not in (".yaml", ".jsonl") for path in out.iterdir())):
        raise UsageError(f"--out {out}: holds something else than tasks; choose a new folder, or remove it")
    items = {task.name: used_items(task, task_file(task), config)[0] for task in tasks}
    with new_folder(out.absolute()) as partial:
        for task in tasks:
            write_file(partial / f"{task.name}.jsonl", _lines(items[task.name]))
            write_file(partial / f"{task.name}.yaml", _yaml(task, out.absolute() / f"{task.name}.jsonl"))
    return list(items)


def _lines(items: Sequence[ChoiceItem]) -> bytes:
    values = (item.model_dump(include={"question", "choices", "answer"}) for item in items)
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def _yaml(task: EvaluationTask, data: Path) -> bytes:
    values = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": SPECIAL_TOKENS[END_OF_TEXT] + "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": task.delimiter,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")],
        "metadata": {"version": 1.0},
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
