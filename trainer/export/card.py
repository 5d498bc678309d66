"""The model card, README.md of an exported folder. Pure: what is known of the run becomes text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml

from trainer.config import Config
from trainer.corpus.dialogs import CHAT_PACKAGES
from trainer.corpus.reading import BOX
from trainer.corpus.sources import PACKAGES
from trainer.corpus.sources import Source as Shipped
from trainer.inference.lineage import Lineage, Source, TrainedStage

_SHIPPED = {f"{source.name}.jsonl.zst": source for package in (*PACKAGES, *CHAT_PACKAGES) for source in package.sources}
"""What is known of the texts in the box, by their files' names."""

_LOADING = """It loads with stock transformers, without remote code:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```"""

_CHATTING = """It was trained on conversations. Ask it in their form:

```python
messages = [{"role": "user", "content": "What is an elk?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

The template knows `return_assistant_tokens_mask`, by which TRL's `assistant_only_loss` counts the tokens that counted here."""

_NOT_CHATTING = (
    "It was trained on text alone, and not to answer: `apply_chat_template` works, but the model does not know its form."
)

_CONTINUING = "Each document of its training text began behind `<|endoftext|>`: put that in front of a text to continue."

_LLAMA_CPP = (
    "It is one GGUF file, which llama.cpp and what builds on it read: `llama-server -m NAME.gguf`, or `llama-cli -m NAME.gguf`."
)


def model_card(config: Config, lineage: Lineage, evaluation: Mapping[str, Any] | None, form: Literal["hf", "gguf"]) -> str:
    """Markdown with the front matter of Hugging Face's hub. `evaluation` is RUN/evaluation.json of this checkpoint, if any."""
    sources = list(_sources(lineage))
    front: dict[str, Any] = {"pipeline_tag": "text-generation", "license": "other"}
    front |= {"library_name": "transformers"} if form == "hf" else {"tags": ["gguf"]}
    languages = list(dict.fromkeys(language for _, source in sources for language in _languages(source)))
    head = yaml.safe_dump(front | ({"language": languages} if languages else {}), sort_keys=False).strip()
    model = config.model
    shape = (
        f"{model.num_layers} layers of width {model.hidden_size}, {model.num_heads} query and {model.num_kv_heads} key heads"
    )
    lines = [
        f"---\n{head}\n---",
        f"# {config.name}",
        f"A GPT of {model.num_parameters:,} parameters ({shape}, vocabulary {model.vocab_size:,}), made by pretrain-run.",
        *_use(lineage, form),
        "## Training",
        _stages(lineage),
        _facts(lineage),
        "## Held-out figures",
        _figures(evaluation),
        "## Text and licences",
        "A model has no licence until the one who publishes it gives it one; the texts that it was trained on have theirs:",
        _licences(sources),
        "Nothing was done to keep the model from wrong, unfair or private statements: not fit for decisions about people.",
    ]
    return "\n\n".join(lines) + "\n"


def _use(lineage: Lineage, form: Literal["hf", "gguf"]) -> Sequence[str]:
    tuned = any(stage.stage != "pretrain" for stage in lineage.stages)
    if form == "gguf":
        return (_LLAMA_CPP,)
    return _LOADING, _CHATTING if tuned else _NOT_CHATTING, _CONTINUING


def _stages(lineage: Lineage) -> str:
    """A row for each stage that the model went through, the first one first."""
    rows = [
        f"| {each.stage} | {each.config.name} (`{each.manifest.run[:12]}`) | {each.manifest.state.step:,} "
        f"| {each.manifest.state.tokens_seen:,} | {each.longest_tokens:,} "
        f"| {', '.join(source.name for source in each.sources) or 'not known'}{_judged(each)} |"
        for each in lineage.stages
    ]
    head = "| stage | run | steps | tokens seen | longest text | sources |\n|---|---|---|---|---|---|"
    return "\n".join([head, *rows])


def _judged(stage: TrainedStage) -> str:
    """By what grpo's answers were judged."""
    if stage.stage != "grpo":
        return ""
    section = stage.config.grpo
    if section.reward is not None:
        return f"; answers judged by `{section.reward}`"
    pairs = ", ".join(source.name for source in stage.config.chat.pairs)
    return f"; answers judged by the reward model of {section.reward_from or pairs or 'this run'}"


def _facts(lineage: Lineage) -> str:
    last = lineage.stages[-1].manifest
    seen = f"{lineage.tokens_seen:,}" + ("" if lineage.unknown is None else f" and more: {lineage.unknown}")
    return (
        "| | |\n|---|---|\n"
        f"| tokens seen in all stages | {seen} |\n"
        f"| context | {lineage.trained_tokens:,} tokens: longer texts were not seen in training |\n"
        f"| run (SHA-256 of the config's identity) | `{last.run}` |\n"
        f"| data of the last stage (SHA-256 of the token manifest) | `{last.data_sha256}` |\n"
        f"| tokenizer (SHA-256) | `{last.tokenizer_sha256}` |"
    )


def _sources(lineage: Lineage) -> Iterable[tuple[str, Source]]:
    """Each source once, with the stage that first trained on it; a judge's among them."""
    seen = set()
    for stage in lineage.stages:
        named = [(stage.stage, source) for source in stage.sources]
        if stage.stage == "grpo" and stage.config.grpo.reward is None and stage.config.grpo.reward_from is None:
            named += [("reward", source) for source in replace(stage, stage="reward").sources]
        for kind, source in named:
            if (source.name, source.path) not in seen:
                seen.add((source.name, source.path))
                yield kind, source


def _shipped(source: Source) -> Shipped | None:
    return _SHIPPED.get(Path(source.path.removeprefix(BOX)).name) if source.path else None


def _languages(source: Source) -> Sequence[str]:
    shipped = _shipped(source)
    return (source.language,) if source.language else shipped.language.split(", ") if shipped else ()


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


def _licences(sources: Sequence[tuple[str, Source]]) -> str:
    rows = []
    for kind, source in sources:
        known = _shipped(source)
        what = f"{known.licence}: {known.about}" if known else "not told to the trainer; find out before you publish"
        rows.append(f"| {kind} | {source.name} | {what.replace('|', '/')} |")
    return "| stage | source | licence |\n|---|---|---|\n" + "\n".join(rows) if rows else "No source is known by name."


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
