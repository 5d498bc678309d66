"""A small real data set and configs for it."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from trainer.config import Config, CorpusSection, SourceSection
from trainer.config_loading import load_config
from trainer.config_tuning import ChatSection
from trainer.corpus.preparing import prepare
from trainer.corpus.reading import Document, files_at, opened, read_source
from trainer.tokens.chat_encoding import encode_chats
from trainer.tokens.encoding import encode_corpus, make_tokenizer

SMALL: dict[str, Any] = {
    "name": "small",
    "tokens": {"row_tokens": 64, "workers": 1},
    "model": {"vocab_size": 512, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 64},
    "precision": "fp32",
    "device": "cpu",
    "deterministic": True,
    "collective_timeout_s": 60,
    "pretrain": {
        "steps": 12,
        "global_batch": 8,
        "micro_batch": 2,
        "sample_log": True,
        "optimizer": {"kind": "adamw", "lr": 0.01},
        "schedule": {"warmup_steps": 2},
    },
    "validation": {"every_steps": 1000, "max_rows_per_source": 4},
    "checkpoint": {"every_steps": 4, "every_s": None, "keep": 2},
    "tracking": {"log_every_steps": 1, "measure_peak": False},
    "generate": {"max_tokens": 16},
    "chat": {
        "row_tokens": 160,
        "held_out": 0.1,
        "conversations": [{"name": "dialogs", "path": "gone"}],
        "pairs": [{"name": "sister", "path": "gone"}, {"name": "order", "path": "gone"}],
        "prompts": [{"name": "questions", "path": "gone"}],
    },
    "sft": {
        "steps": 12,
        "global_batch": 8,
        "micro_batch": 2,
        "sample_log": True,
        "optimizer": {"kind": "adamw", "lr": 0.003},
        "schedule": {"warmup_steps": 2},
    },
    "reward": {
        "steps": 12,
        "global_batch": 6,
        "micro_batch": 2,
        "sample_log": True,
        "optimizer": {"kind": "adamw", "lr": 0.003},
        "schedule": {"warmup_steps": 2},
    },
    "dpo": {
        "steps": 12,
        "global_batch": 6,
        "micro_batch": 2,
        "sample_log": True,
        "optimizer": {"kind": "adamw", "lr": 0.001},
        "schedule": {"warmup_steps": 2},
    },
    "grpo": {
        "steps": 12,
        "global_batch": 6,
        "micro_batch": 2,
        "group_size": 4,
        "max_tokens": 8,
        "reward": "tests.support.rewards:share_of_vowels",
        "sample_log": True,
        "optimizer": {"kind": "adamw", "lr": 0.003},
        "schedule": {"warmup_steps": 2},
    },
}


def make_small_data(folder: Path) -> Path:
    """Corpus, tokenizer and shards of 400 poems and 40 pages of WordNet, 300 dialogs, 160 pairs and 100 prompts."""
    sources = []
    for name, count in (("poetry", 400), ("wordnet", 40)):
        box = SourceSection(
            name=name, path=f"box:{ {'poetry': 'chinese-poetry', 'wordnet': 'wordnet-glosses'}[name] }.jsonl.zst"
        )
        file = folder / "raw" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        documents = islice(read_source(box, CorpusSection()), count)
        lines = [json.dumps({"text": each.text}, ensure_ascii=False) for each in documents if isinstance(each, Document)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sources.append({"name": name, "path": str(file)})
    config = load_config_values(SMALL | {"corpus": {"sources": sources, "held_out": 0.1}})
    prepare(config.corpus, folder / "corpus")
    make_tokenizer(config.tokenizer, config.model.vocab_size, folder / "corpus", folder / "tokenizer")
    vocab_size = config.model.vocab_size
    encode_corpus(config.tokens, vocab_size, folder / "corpus", folder / "tokenizer", folder / "tokens", lambda *_: None)
    chat = chat_of_box(folder)
    for kind, name in (("conversations", "chat"), ("pairs", "pairs"), ("prompts", "prompts")):
        encode_chats(chat, config.chat_row_tokens, kind, vocab_size, folder / "tokenizer", folder / name)  # type: ignore[arg-type]
    return folder


def chat_of_box(folder: Path) -> ChatSection:
    """The small config's chat section over the first rows of the box's files, which are written to FOLDER/raw."""
    section: dict[str, Any] = json.loads(json.dumps(SMALL["chat"]))
    for source, box, count in zip(
        [*section["conversations"], *section["pairs"], *section["prompts"]],
        ("wordnet-dialogs", "wordnet-sister-pairs", "wordnet-order-pairs", "wordnet-dialogs"),
        (300, 80, 80, 100),
        strict=True,
    ):
        (found,) = files_at(f"box:{box}.jsonl.zst", "tests", (".jsonl",))
        file = folder / "raw-chat" / f"{source['name']}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with opened(found) as stream:
            file.write_bytes(b"".join(islice(stream, count)))
        source["path"] = str(file)
    return ChatSection.model_validate(section)


def load_config_values(values: dict[str, Any]) -> Config:
    """A config from plain values."""
    return Config.model_validate(values)


def write_config(path: Path, data: Path, **changes: Any) -> Path:
    """A config file for the small data; `changes` are dotted keys with double underscores for the dots."""
    values = json.loads(json.dumps(SMALL)) | {"run_dir": str(path.parent / "run"), "data_dir": str(data)}
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    load_config(path)
    return path
