"""The mark that all stages of a `trainer run` are done: what other processes and pods of the run wait for.

A pod that ends well may end the whole job (Kubeflow: any worker of an elastic one), so none may end before the first process.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from trainer.config import Config
from trainer.errors import BudgetError
from trainer.files import write_file
from trainer.run_folder import RunFolder

WAIT_DEADLINE_S = 24 * 3600.0
"""Processes without work wait this long for the first one to evaluate, generate and report."""
_POLL_S = 0.5


def mark_finished(config: Config, folder: RunFolder) -> None:
    """All stages of this config are done. Raises StorageError."""
    if not is_finished(config, folder):
        write_file(_mark(folder), _content(config))


def is_finished(config: Config, folder: RunFolder) -> bool:
    """Whether all stages of this very config, evaluation and prompts included, are done."""
    try:
        return _mark(folder).read_bytes() == _content(config)
    except FileNotFoundError:
        return False


def wait_until_finished(config: Config, folder: RunFolder, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until the first process has done all stages. Raises BudgetError after a day."""
    deadline = time.monotonic() + WAIT_DEADLINE_S
    while not is_finished(config, folder):
        if time.monotonic() > deadline:
            raise BudgetError(f"{_mark(folder)} did not appear within {WAIT_DEADLINE_S:.0f} s; is the first process gone?")
        sleep(_POLL_S)


def _mark(folder: RunFolder) -> Path:
    return folder.path / "FINISHED"


def _content(config: Config) -> bytes:
    """Names what the stages make; where and how they run does not matter."""
    results = {"run": config.hash(), **config.model_dump(mode="json", include={"stages", "evaluate", "generate"})}
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest().encode() + b"\n"
