"""The folders of one run, and the rule that no two runs share one.

RUN/config.yaml  events.jsonl  checkpoints/  sample_log/  evaluation.json  generated.json  report.html  DONE
RUN/sft/  reward/  dpo/  grpo/              each with checkpoints/  sample_log/  DONE of its own
DATA/corpus/  tokenizer/  tokens/  chat/  pairs/  prompts/        DATA is RUN unless the config names another
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Config, TrainingStage
from trainer.config_loading import dump_config, load_config
from trainer.errors import ConfigError, RunFolderError
from trainer.files import LOCK_WAIT_S, locked, storage_errors, write_file

_FILES = ("config.yaml", "events.jsonl", "lock", "DONE", "FINISHED", "evaluation.json", "generated.json", "report.html")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what."""

    path: Path
    data: Path

    @staticmethod
    def of(config: Config) -> "RunFolder":
        """The folders that a config names; nothing is touched."""
        return RunFolder(config.run_folder, config.data_folder)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def of_stage(self, stage: TrainingStage) -> Path:
        """The folder of a training stage's checkpoints, sample log and mark of its end; pretraining's is the run's own."""
        return self.path if stage == "pretrain" else self.path / stage

    def checkpoints_of(self, stage: TrainingStage) -> Path:
        return self.of_stage(stage) / "checkpoints"

    def done_of(self, stage: TrainingStage) -> Path:
        return self.of_stage(stage) / "DONE"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def generated(self) -> Path:
        return self.path / "generated.json"

    @property
    def corpus(self) -> Path:
        return self.data / "corpus"

    @property
    def tokenizer(self) -> Path:
        return self.data / "tokenizer"

    @property
    def tokens(self) -> Path:
        return self.data / "tokens"

    @property
    def chat(self) -> Path:
        return self.data / "chat"

    @property
    def pairs(self) -> Path:
        return self.data / "pairs"

    @property
    def prompts(self) -> Path:
        return self.data / "prompts"

    def claim(self, config: Config) -> None:
        """Make the folder this run's own, or find that it is. Raises RunFolderError naming the fields that differ."""
        self.check(config)
        text = dump_config(config)
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            write_file(self.config, text.encode())

    def check(self, config: Config) -> None:
        """Raises RunFolderError if another run, one with another identity, lives here, StorageError. Writes nothing."""
        with storage_errors(self.path):
            self._check_kinds()
            if not self.config.exists():
                return
        try:
            other = load_config(self.config)
        except ConfigError as error:
            raise RunFolderError(
                f"{self.config}: was written by another version, or is damaged ({error}); choose another run_dir"
            ) from None
        differing = _differences(other.identity(), config.identity())
        if differing:
            raise RunFolderError(
                f"{self.path}: holds another run; it differs in {', '.join(differing[:5])}; choose another run_dir or name, "
                "or remove this folder"
            )

    def _check_kinds(self) -> None:
        """Raises RunFolderError where a folder stands in a file's place or the other way round."""
        for folder in (self.path, self.data):
            if folder.exists() and not folder.is_dir():
                raise RunFolderError(f"{folder}: is a file, but a run needs a folder; remove it, or choose another run_dir")
        for name in _FILES:
            if (self.path / name).is_dir():
                raise RunFolderError(f"{self.path / name}: is a folder, but the run keeps a file of that name; remove it")
        for path in (self.corpus, self.tokenizer, self.tokens, self.chat, self.pairs, self.prompts, self.path / "checkpoints"):
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"{path}: is a file, but the run keeps a folder of that name; remove it")

    @contextmanager
    def working(self, owner: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Keep other processes from training in this folder while the block runs. Raises RunFolderError."""
        with locked(self.path / "lock", owner, wait_s):
            yield


def _differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys())
        return [name for key in keys for name in _differences(ours.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))]
    return [] if ours == theirs else [f"{path} ({ours} there, {theirs} here)"]
