"""What a model has learned from: its own stage of training, and all those before it, back to drawn weights.

A checkpoint says which one its stage started from, also in another run's folder (`init_from`), and holds its run's config.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from trainer.checkpoint.format import CheckpointManifest
from trainer.checkpoint.reading import Checkpoint
from trainer.config import TRAINING_STAGES, Config, TrainingStage
from trainer.config_corpus import SourceSection
from trainer.config_tuning import ChatSourceSection
from trainer.errors import CheckpointError, ShardError
from trainer.files import record_of
from trainer.run_folder import RunFolder
from trainer.tokens.shards import MANIFEST as ROWS_MANIFEST
from trainer.tokens.shards import read_manifest
from trainer.training.starting import place_of


@dataclass(frozen=True)
class Source:
    """Text, conversations, pairs or prompts that a stage trained on."""

    name: str
    path: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class TrainedStage:
    """One stage that a model went through."""

    stage: TrainingStage
    config: Config
    """Of the run that the stage belongs to."""
    manifest: CheckpointManifest

    @property
    def longest_tokens(self) -> int:
        """The longest text that the stage can have shown to the model."""
        if self.stage == "pretrain":
            return self.config.tokens.row_tokens
        return self.config.chat_row_tokens + self.config.training(self.stage).written_tokens

    @property
    def sources(self) -> tuple[Source, ...]:
        """What it trained on: as its run's config names it, else as the rows in its data folder do."""
        named: dict[TrainingStage, Sequence[SourceSection | ChatSourceSection]] = {
            "pretrain": self.config.corpus.sources,
            "sft": self.config.chat.conversations,
            "reward": self.config.chat.pairs,
            "dpo": self.config.chat.pairs,
            "grpo": self.config.chat.prompts,
        }
        configured = (Source(each.name, each.path, getattr(each, "language", None)) for each in named[self.stage])
        return tuple(configured) or self._of_rows()

    def _of_rows(self) -> tuple[Source, ...]:
        """A run may train on rows that another one has made; nothing where they are gone or others now."""
        folder = RunFolder.of(self.config)
        rows = {"pretrain": folder.tokens, "sft": folder.chat, "grpo": folder.prompts}.get(self.stage, folder.pairs)
        with suppress(OSError, ShardError):
            if record_of(rows / ROWS_MANIFEST).sha256 == self.manifest.data_sha256:
                trained = (shard.source for shard in read_manifest(rows).shards if shard.split == "train")
                return tuple(Source(name) for name in dict.fromkeys(trained))
        return ()


@dataclass(frozen=True)
class Lineage:
    """The stages that a model went through, the first one first."""

    stages: tuple[TrainedStage, ...]
    unknown: str | None
    """Why nothing is known of what came before the first of them; None: it began with drawn weights."""

    @property
    def trained_tokens(self) -> int:
        """The longest text that the model has seen, in tokens: of positions beyond it, it has learned nothing."""
        return max(stage.longest_tokens for stage in self.stages)

    @property
    def tokens_seen(self) -> int:
        """Target tokens of all stages."""
        return sum(stage.manifest.state.tokens_seen for stage in self.stages)


def lineage_of(checkpoint: Checkpoint, config: Config) -> Lineage:
    """The stages behind a checkpoint of the run that `config` describes; only manifests are read.

    Of a start that is gone, the lineage says so and ends there: whole weights do not need it any more.
    """
    own = config if checkpoint.manifest.run == config.hash() else _config_of(checkpoint.manifest) or config
    stages = [TrainedStage(_stage(checkpoint), own, checkpoint.manifest)]
    while (start := checkpoint.manifest.start) is not None:
        path = place_of(start, checkpoint)
        earlier = None
        with suppress(CheckpointError):
            checkpoint = Checkpoint.at(path)
            earlier = _config_of(checkpoint.manifest)
        if earlier is None or checkpoint.manifest.own_sha256 != start.own_sha256:
            unknown = f"{stages[-1].stage} started from {start.path}, which is not there any more, or of another version"
            return Lineage(tuple(reversed(stages)), unknown)
        stages.append(TrainedStage(_stage(checkpoint), earlier, checkpoint.manifest))
    return Lineage(tuple(reversed(stages)), None)


def _config_of(manifest: CheckpointManifest) -> Config | None:
    """The config that a checkpoint holds; None where it is of another version."""
    try:
        return Config.model_validate(manifest.config)
    except ValidationError:
        return None


def _stage(checkpoint: Checkpoint) -> TrainingStage:
    return next((stage for stage in TRAINING_STAGES if stage == checkpoint.manifest.stage), "pretrain")
