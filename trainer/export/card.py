"""The model card, README.md of an exported folder. Pure: what is known of the run becomes text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.checkpoint.format import CheckpointManifest
from trainer.config import Config, SourceSection
from trainer.corpus.reading import BOX
from trainer.corpus.sources import PACKAGES


def model_card(config: Config, manifest: CheckpointManifest, evaluation: Mapping[str, Any] | None, use: str) -> str:
    """Markdown with the front matter of Hugging Face's hub. `evaluation` is RUN/evaluation.json of this checkpoint, if any."""
    state = manifest.state
    languages = list(dict.fromkeys(source.language for source in config.corpus.sources))
    front = {"library_name": "transformers", "pipeline_tag": "text-generation", "license": "other"}
    head = yaml.safe_dump(front | ({"language": languages} if languages else {}), sort_keys=False).strip()
    model = config.model
    shape = (
        f"{model.num_layers} layers of width {model.hidden_size}, {model.num_heads} query and {model.num_kv_heads} key heads"
    )
    lines = [
        f"---\n{head}\n---",
        f"# {config.name}",
        f"A GPT of {model.num_parameters:,} parameters ({shape}, vocabulary {model.vocab_size:,}), made by pretrain-run.",
        use,
        "## Training",
        "| | |\n|---|---|\n"
        f"| stage | {manifest.stage} |\n"
        f"| step | {state.step:,} |\n"
        f"| tokens seen | {state.tokens_seen:,} |\n"
        f"| row length | {config.tokens.row_tokens} tokens: longer texts were not seen in training |\n"
        f"| run (SHA-256 of the config's identity) | `{manifest.run}` |\n"
        f"| data (SHA-256 of the token manifest) | `{manifest.data_sha256}` |\n"
        f"| tokenizer (SHA-256) | `{manifest.tokenizer_sha256}` |",
        "## Held-out figures",
        _figures(evaluation),
        "## Text and licences",
        "A model has no licence until the one who publishes it gives it one; the texts that it was trained on have theirs:",
        _licences(config.corpus.sources),
        "Nothing was done to keep the model from wrong, unfair or private statements: not fit for decisions about people.",
    ]
    return "\n\n".join(lines) + "\n"


def _figures(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "This checkpoint was not evaluated (`trainer evaluate`)."
    bits: Mapping[str, float] = evaluation.get("bits_per_byte") or {}
    parts = []
    if bits:
        rows = "\n".join(f"| {source} | {value:.4f} |" for source, value in bits.items())
        parts.append(f"| held-out text | bits per byte |\n|---|---|\n{rows}")
    tasks: Sequence[Mapping[str, Any]] = evaluation.get("tasks") or []
    if tasks:
        rows = "\n".join(
            f"| {task['task']} | {name} | {score['accuracy']:.3f} | {score['low']:.3f} to {score['high']:.3f} "
            f"| {task['chance']:.3f} | {task['n']} | {score['p_value']:.2g} |"
            for task in tasks
            for name, score in task["scores"].items()
        )
        head = "| task | score | accuracy | 95% interval | chance | n | p |\n|---|---|---|---|---|---|---|"
        parts.append(f"{head}\n{rows}")
    return "\n\n".join(parts) or "None."


def _licences(sources: Sequence[SourceSection]) -> str:
    known = {f"{source.name}.jsonl.zst": source for package in PACKAGES for source in package.sources}
    rows = []
    for source in sources:
        box = known.get(Path(source.path.removeprefix(BOX)).name)
        what = f"{box.licence}: {box.about}" if box else "not told to the trainer; find out before you publish"
        rows.append(f"| {source.name} | {what.replace('|', '/')} |")
    return "| source | licence |\n|---|---|\n" + "\n".join(rows) if rows else "The config names no sources."


def evaluation_of(file: Path, run: str, checkpoint: str) -> Mapping[str, Any] | None:
    """What RUN/evaluation.json says of one checkpoint, by its name; None if it says nothing of it."""
    try:
        values = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(values, dict) or values.get("run") != run:
        return None
    found = (entry for entry in values.get("checkpoints", []) if entry.get("checkpoint") == checkpoint)
    return next(found, None)
