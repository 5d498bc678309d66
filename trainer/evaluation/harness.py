"""The config's tasks as files of EleutherAI's lm-evaluation-harness, which asks an exported model the same questions.

    lm_eval --model hf --model_args pretrained=EXPORTED,dtype=float32 --tasks NAME --include_path FOLDER --device cpu

Its `acc` is our score `plain`, its `acc_norm` our `per_character`. In form text a question begins with `<|endoftext|>`, which
stands before every document of the training text; the harness would put nothing, or the start of a chat turn, in its place.
In form chat the turns are written out by the trainer's own template, and only `acc` is asked for: the harness counts the line
end before an answer with each choice, which leaves the order of sums as it is, but not that of means.
Keys: https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/task_guide.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.config import Config, EvaluationTask
from trainer.errors import UsageError
from trainer.evaluation.tasks import ChoiceItem, task_file, used_items
from trainer.files import new_folder, write_file
from trainer.tokens.chat import Message, render_chat
from trainer.tokens.tokenizer import END_OF_TEXT, SPECIAL_TOKENS

READER = "beside.py"
_READER = '''"""Reads the items of these tasks from beside this file, wherever the folder stands."""

from pathlib import Path
from typing import Any

import datasets


def items(file: str, **_: Any) -> datasets.DatasetDict:
    return datasets.load_dataset("json", data_files={"test": str(Path(__file__).resolve().with_name(file))})
'''


def export_tasks(config: Config, out: Path) -> list[str]:
    """Write NAME.yaml and NAME.jsonl for each task of kind choice, and what reads them; returns their names.

    The folder may be moved. `out` is new, or holds nothing but such files. Raises UsageError, TaskError.
    """
    tasks = [task for task in config.evaluate.tasks if task.kind == "choice"]
    if not tasks:
        raise UsageError("evaluate.tasks: none is of kind choice; name one, such as box:wordnet-choice.jsonl")
    if out.exists() and (not out.is_dir() or not all(_is_own(path) for path in out.iterdir())):
        raise UsageError(f"--out {out}: holds something else than tasks; choose a new folder, or remove it")
    items = {task.name: used_items(task, task_file(task), config)[0] for task in tasks}
    with new_folder(out.absolute()) as partial:
        write_file(partial / READER, _READER.encode())
        for task in tasks:
            write_file(partial / f"{task.name}.jsonl", _lines(task, items[task.name]))
            write_file(partial / f"{task.name}.yaml", _yaml(task))
    return list(items)


def _is_own(path: Path) -> bool:
    """What an earlier call wrote, or Python beside it."""
    return path.suffix in (".yaml", ".jsonl") or path.name in (READER, "__pycache__")


def _lines(task: EvaluationTask, items: Sequence[ChoiceItem]) -> bytes:
    values = [item.model_dump(include={"question", "choices", "answer"}) for item in items]
    if task.form == "chat":
        values = [_in_turns(item) for item in items]
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def _in_turns(item: ChoiceItem) -> dict[str, Any]:
    """The question up to where the answer begins, and each choice to the end of its turn, as the model is asked here."""
    asked = Message(role="user", content=item.question)
    prompt = render_chat([asked], add_generation_prompt=True).text
    whole = [render_chat([asked, Message(role="assistant", content=choice)]).text for choice in item.choices]
    choices = [text.removeprefix(prompt).removesuffix("\n") for text in whole]
    return {"question": prompt, "choices": choices, "answer": item.answer}


def _yaml(task: EvaluationTask) -> bytes:
    chat = task.form == "chat"
    metrics = ("acc",) if chat else ("acc", "acc_norm")
    values = {
        "task": task.name,
        "dataset_kwargs": {"file": f"{task.name}.jsonl"},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}" if chat else SPECIAL_TOKENS[END_OF_TEXT] + "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "" if chat else task.delimiter,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics],
        "metadata": {"version": 1.0},
    }
    # the harness's own tag, which names a function in a file beside this one
    reader = f"custom_dataset: !function {READER.removesuffix('.py')}.items\n"
    return reader.encode() + yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
