"""A run's model made ready to write: what the server and the terminal have in common."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Config
from trainer.inference.engine import Engine
from trainer.inference.lineage import lineage_of
from trainer.inference.loading import check_tokenizer, chosen_checkpoint, load_weights
from trainer.inference.writing import LengthWatch, Writer
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder, check_vocabulary
from trainer.training.peers import choose_device


@dataclass(frozen=True)
class OpenedModel:
    """A writer over a checkpoint's model, its tokenizer, and where it stands in its training."""

    writer: Writer
    encoder: TextEncoder
    stage: str
    step: int
    context_tokens: int
    """Longest prompt and answer together."""


def tell_on_stderr(text: str) -> None:
    """A line for the person who started the command."""
    print(f"trainer: {text}", file=sys.stderr, flush=True)


def open_model(
    config: Config, num_slots: int, checkpoint: Path | None = None, tell: Callable[[str], None] = tell_on_stderr
) -> OpenedModel:
    """The run's best checkpoint (trainer.inference.best_stage), or the one given, ready for `num_slots` texts at once.

    `tell` hears once, amid a step of the writer, when a text becomes longer than any that the model was trained on.
    Raises RunFolderError, CheckpointError or TokenizerError if the run's files are missing or do not fit together.
    """
    folder = RunFolder.of(config)
    folder.check(config)
    chosen = chosen_checkpoint(config, folder, checkpoint)
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    check_vocabulary(encoder, config.model.vocab_size)
    check_tokenizer(chosen, encoder)
    context_tokens = min(config.serve.context_tokens, config.model.max_positions)
    loaded = load_weights(config, chosen, choose_device(config.device, 0), context_tokens)
    engine = Engine(loaded.model, num_slots, context_tokens, encoder.vocab_size)
    watch = LengthWatch(lineage_of(chosen, config).trained_tokens, tell)
    return OpenedModel(Writer(engine, encoder, watch), encoder, loaded.stage, loaded.step, context_tokens)
