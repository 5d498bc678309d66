"""`trainer export`: a checkpoint becomes a folder for other tools, whole or not at all, with a manifest of hashes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from trainer import __version__
from trainer.checkpoint.reading import Checkpoint
from trainer.config import Config
from trainer.errors import UsageError
from trainer.export.card import evaluation_of, model_card
from trainer.export.hugging_face import Dtype, generation_config, model_config, write_tokenizer, write_weights
from trainer.files import FileRecord, new_folder, write_file, write_json
from trainer.inference.lineage import lineage_of
from trainer.inference.loading import check_tokenizer, checkpoint_name, chosen_checkpoint, load_weights
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder, check_vocabulary

Format = Literal["hf", "gguf"]
MANIFEST = "manifest.json"
KIND = "pretrain-run export"


def export(config: Config, folder: RunFolder, out: Path, form: Format, dtype: Dtype, checkpoint: Path | None = None) -> Path:
    """Write `out` from the run's best checkpoint (trainer.inference.best_stage), or from the one given.

    An earlier export of the same run is replaced. Raises UsageError if `out` holds anything else, CheckpointError or
    TokenizerError if the run's files do not fit together.
    """
    refuse_other_content(out, config.hash(), form)
    chosen = chosen_checkpoint(config, folder, checkpoint)
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    check_vocabulary(encoder, config.model.vocab_size)
    check_tokenizer(chosen, encoder)
    # a model in memory and not the file's tensors: what loading adds to the weights is in what is exported
    model = load_weights(config, chosen, torch.device("cpu"), 1).model
    name = checkpoint_name(folder, chosen)
    lineage = lineage_of(chosen, config)
    card = model_card(config, lineage, evaluation_of(folder.evaluation, config.hash(), name), form)
    with new_folder(out.absolute()) as partial:
        files = {"README.md": write_file(partial / "README.md", card.encode())}
        files |= _write(config, folder, model, partial, form, dtype, lineage.trained_tokens)
        write_json(partial / MANIFEST, _manifest(config, chosen, form, dtype, files))
    return out


def refuse_other_content(out: Path, run: str, form: Format) -> None:
    """Raises UsageError unless `out` is absent, empty, or an export of this run in this format."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = json.loads((out / MANIFEST).read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise UsageError(f"--out {out}: holds something that is no export; choose a new folder, or remove it")
    if (found.get("run"), found.get("format")) != (run, form):
        of = f"run {str(found.get('run'))[:12]} as {found.get('format')}"
        raise UsageError(
            f"--out {out}: holds an export of {of}, not of this run as {form}; choose another folder, or remove it"
        )


def _write(
    config: Config, folder: RunFolder, model: GPT, partial: Path, form: Format, dtype: Dtype, trained_tokens: int
) -> dict[str, FileRecord]:
    if form == "gguf":
        from trainer.export.gguf_file import write_gguf

        name = f"{config.name}-{dtype}.gguf"
        return {name: write_gguf(partial / name, config, model, folder.tokenizer, dtype, trained_tokens)}
    files = {
        "config.json": write_json(partial / "config.json", model_config(config.model, dtype, trained_tokens)),
        "generation_config.json": write_json(partial / "generation_config.json", generation_config()),
        "model.safetensors": write_weights(partial / "model.safetensors", model.named_parameters(), dtype),
    }
    return files | write_tokenizer(folder.tokenizer, partial, trained_tokens)


def _manifest(
    config: Config, checkpoint: Checkpoint, form: Format, dtype: Dtype, files: Mapping[str, FileRecord]
) -> dict[str, Any]:
    manifest = checkpoint.manifest
    return {
        "kind": KIND,
        "format": form,
        "dtype": dtype,
        "name": config.name,
        "run": config.hash(),
        "stage": manifest.stage,
        "step": manifest.state.step,
        "checkpoint": {name: stored.sha256 for name, stored in manifest.files.items()},
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "trainer": __version__,
        "files": {name: asdict(record) for name, record in sorted(files.items())},
    }
