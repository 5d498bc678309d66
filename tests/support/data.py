"""A small real data set and configs for it."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from trainer.config import Config, CorpusSection, SourceSection
from trainer.config_loading import load_config
from trainer.corpus.preparing import prepare
from trainer.corpus.reading import Document, read_source
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
}


def make_small_data(folder: Path) -> Path:
    """Corpus, tokenizer and shards of 400 poems and 40 pages of WordNet, in about a second."""
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
    return folder


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
