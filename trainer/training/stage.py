"""What a training stage adds to the loop that all share: its rows, its loss, its batches and its measures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from trainer.checkpoint.format import StartedFrom
from trainer.config import Config, TrainingStage
from trainer.config_training import TrainingSection
from trainer.errors import ShardError
from trainer.files import record_of
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.chat_encoding import check_chats
from trainer.tokens.encoding import check_tokens
from trainer.tokens.order import Order
from trainer.tokens.shards import MANIFEST as TOKENS_MANIFEST
from trainer.tokens.shards import TokenRows, TokensManifest, read_manifest
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder, check_vocabulary
from trainer.training.batches import ReadBatch
from trainer.training.objective import Objective
from trainer.training.peers import Peers
from trainer.training.precision import Numerics
from trainer.training.validation import Measure, Validator

Kind = Literal["text", "conversations", "pairs", "prompts"]
ObjectiveT = TypeVar("ObjectiveT", bound=Objective)


@dataclass(frozen=True)
class TrainingData:
    """Rows and what names them."""

    folder: Path
    manifest: TokensManifest
    sha256: str
    train: TokenRows
    held_out: TokenRows
    bytes_per_id: np.ndarray
    text: TokenRows | None
    """Held-out rows of the pretraining's text, if they are there."""

    @staticmethod
    def open(config: Config, folder: RunFolder, kind: Kind = "text") -> "TrainingData":
        """Open the token shards. Raises ShardError or TokenizerError if they are missing, altered or another model's."""
        encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
        check_vocabulary(encoder, config.model.vocab_size)
        tokens = {"text": folder.tokens, "conversations": folder.chat, "pairs": folder.pairs, "prompts": folder.prompts}[kind]
        if kind != "text" and not tokens.exists():
            raise ShardError(f"{tokens}: no {kind} here; name sources in chat.{kind} and run `trainer encode` first")
        manifest = read_manifest(tokens)
        if kind == "text":
            check_tokens(manifest, encoder, config.tokens, tokens)
        else:
            check_chats(manifest, encoder, config.chat_row_tokens, kind, tokens)
        held_out = TokenRows(tokens, manifest, "held_out")
        return TrainingData(
            tokens,
            manifest,
            record_of(tokens / TOKENS_MANIFEST).sha256,
            TokenRows(tokens, manifest, "train"),
            held_out,
            np.array(encoder.bytes_per_id()),
            held_out if kind == "text" else _held_out_text(config, folder, encoder),
        )

    @property
    def most_row_tokens(self) -> int:
        """The longest row that the model will see, in tokens."""
        return max(self.manifest.row_tokens, self.text.row_tokens if self.text is not None else 0)


def _held_out_text(config: Config, folder: RunFolder, encoder: TextEncoder) -> TokenRows | None:
    if not folder.tokens.exists():
        return None
    manifest = read_manifest(folder.tokens)
    check_tokens(manifest, encoder, config.tokens, folder.tokens)
    return TokenRows(folder.tokens, manifest, "held_out")


@dataclass(frozen=True)
class Setting:
    """What a stage finds when it says what it trains on. All processes have the same."""

    config: Config
    section: TrainingSection
    folder: Path
    """The stage's own."""
    data: TrainingData
    order: Order
    peers: Peers
    numerics: Numerics
    start: StartedFrom | None
    start_model: Callable[[], GPT]
    """A model with the weights that the stage started from."""

    def text_measures(self) -> tuple[Measure, ...]:
        """Bits per byte of the pretraining's held-out text."""
        text = self.data.text
        if text is None or len(text) == 0:
            return ()
        most_rows = self.config.validation.max_rows_per_source
        return (Validator(text, self.data.bytes_per_id, self.section.micro_batch, most_rows, self.peers),)


@dataclass(frozen=True)
class Feed:
    """What a stage trains on and is measured by."""

    read: ReadBatch
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Stage(Generic[ObjectiveT]):
    """What a training stage adds to the loop: rows of a kind, its loss, its batches and measures."""

    name: TrainingStage
    kind: Kind
    make_module: Callable[[GPT, Numerics, Config], ObjectiveT]
    feed: Callable[[Setting, ObjectiveT], Feed]
    """Collective."""
    model_class: type[GPT] = GPT
    """What is trained: the model, or one with a head besides."""
    compiles: bool = True
    """Whether `compile` pays: not where lengths differ from step to step."""
