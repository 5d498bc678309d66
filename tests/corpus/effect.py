"""make corpus-effect: does a model notice? Clean held-out bits per byte after training on raw and on cleaned text.

    pages, poems --write_raw--> texts/, held_out.json; texts/ --trainer prepare, tokenizer, encode--> ARM/
    ARM/ --trainer pretrain--> ARM-SEED/ --score by held_out.json--> bits per byte

| arm      | text                                                                                                |
|----------|-----------------------------------------------------------------------------------------------------|
| raw      | all text of the pages, and both forms and editions of what comes twice                              |
| language | of these the documents in English and Chinese                                                       |
| cleaned  | main text, repaired, in these languages, by the quality rules, without repeated lines and near-duplicates |

Raw is what the packages hold: the Python documentation as HTML with its menus and indexes, a manual as HTML and as Markdown, a
book in seven languages, Tang poems in two editions. Held out are whole pages and poems in every form; what is scored is not
their HTML but the source text that they were made from, as paragraphs without layout: no step of the pipeline has a say in
what is clean. All arms see the same number of tokens, each by a tokenizer of its own; bits per byte compare across tokenizers.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml

from tests.corpus import truth
from tests.support.tables import table
from trainer.config_loading import load_config
from trainer.evaluation.scoring import log_probabilities
from trainer.evaluation.tasks import Continuation
from trainer.inference.loading import load_model
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import END_OF_TEXT, TOKENIZER_FILE, TextEncoder
from trainer.training.peers import choose_device
from trainer.training.precision import Numerics

HELD_OUT_EVERY = 12
"""One page of so many is held out."""
NUM_HELD_OUT_POEMS = 400
MAX_HELD_OUT_CHARS = 20_000
LANGUAGES = ("en", "zh", "de", "es", "fr", "ja", "ru")
"""Languages of the book that lie in the raw text."""
NUM_POEMS = 12_000
"""Poems of the second edition in the raw text, beside 3,600 of the first and their likes in the second."""

_LANGUAGE = {"language": {"identify": True, "keep": ["en", "zh"]}, "html": {"main_content": False}}
_CLEANING = {
    "repair": True,
    "language": _LANGUAGE["language"],
    "quality": {"english": "gopher", "chinese": "web"},
    "harmful": {"use_default": True},
}
ARMS: dict[str, dict[str, Any]] = {
    "raw": {"steps": {"html": {"main_content": False}}},
    "language": {"steps": _LANGUAGE},
    "cleaned": {"steps": _CLEANING, "repeated_lines": {"max_documents": 20}, "near_duplicates": {"enabled": True}},
}


def write_raw(cache: Path, folder: Path) -> None:
    """FOLDER/texts/SOURCE/ with the texts to train on, and FOLDER/held_out.json with {source: [text]}."""
    held_out: dict[str, list[str]] = {}
    python, manual = truth.files_of(truth.PYTHON_PAGES, cache), truth.files_of(truth.ANARCHISM, cache)
    for name, files, pages in (
        ("python-docs", python, truth.python_pages(python)),
        ("anarchism", manual, truth.anarchism_pages(manual)),
    ):
        chosen = {page.name: page.source for page in pages[::HELD_OUT_EVERY]}
        held_out[name] = [_prose(source) for source in chosen.values()]
        names = {re.sub(r"\.html$", "", page).rpartition("/")[2] for page in chosen}
        for path, content in files.items():
            stem = re.sub(r"(\.rst\.txt|\.html|\.md|\.md\.gz)$", "", path.rpartition("/")[2])
            if stem not in names and not path.endswith(".rst.txt"):
                _write(folder / "texts" / name / path.replace("/", "_"), content)
    for path, content in truth.files_of(truth.HANDBOOK, cache).items():
        match = re.search(r"/html/([a-z]{2})-[A-Z]{2}/", path)
        if match and match[1] in LANGUAGES:
            _write(folder / "texts" / "handbook" / path.replace("/", "_"), content)
    files = truth.files_of(truth.POEMS, cache)
    poems, written = truth.poem_truth(files), _poems_as_written(files)
    held_out["poetry"] = [written[poem] for poem in poems.first[:NUM_HELD_OUT_POEMS]]
    leave_out = {second for first, second in poems.same if first < NUM_HELD_OUT_POEMS}
    first = poems.first[NUM_HELD_OUT_POEMS:]
    same = [poems.second[second] for first, second in sorted(poems.same) if first >= NUM_HELD_OUT_POEMS]
    others = [poem for number, poem in enumerate(poems.second) if number not in leave_out]
    chosen_poems = [written[poem] for poem in [*first, *same, *others[:NUM_POEMS]]]
    lines = [json.dumps({"text": poem}, ensure_ascii=False) for poem in chosen_poems]
    _write(folder / "texts" / "poetry" / "poems.jsonl", "\n".join(lines).encode() + b"\n")
    _write(folder / "held_out.json", json.dumps(held_out, ensure_ascii=False).encode())


def _prose(source: str) -> str:
    """A page's words without layout: marks of emphasis, quotation and line ends say which form an arm has kept, not more."""
    marks = r"\*\*|``|(?<![A-Za-z0-9])[_*]|[_*](?![A-Za-z0-9])|^ *>|^([=~^*#-])\1+$"
    plain = re.sub(marks, "", source, flags=re.M)
    return "\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", plain) if paragraph.strip())


def _poems_as_written(files: truth.Files) -> dict[str, str]:
    """A poem with its marks and lines, by its Han characters alone."""
    texts = ["\n".join(poem["paragraphs"]) for _, content in sorted(files.items()) for poem in json.loads(content)]
    return {truth.han_alone(text): text for text in texts}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def run_file(folder: Path, arm: str, seed: int, steps: int, stages: Sequence[str]) -> Path:
    """The run file of an arm; runs of the same arm share its data."""
    sources = [
        {"name": path.name, "path": str(path), "language": "zh" if path.name == "poetry" else "en"}
        for path in sorted((folder / "texts").iterdir())
    ]
    values = {
        "preset": "tiny",
        "name": f"{arm}-{seed}",
        "run_dir": str(folder / f"{arm}-{seed}"),
        "data_dir": str(folder / arm),
        "seed": seed,
        "stages": list(stages),
        "corpus": {"sources": sources, "cut_text_chars": 5_000_000, **ARMS[arm]},  # a page of either form is one document
        "pretrain": {"steps": steps, "micro_batch": 16},
        "validation": {"every_steps": steps},
        "checkpoint": {"every_steps": steps},
    }
    file = folder / f"{arm}-{seed}.yaml"
    file.write_text(yaml.safe_dump({"trainer": values}, allow_unicode=True), encoding="utf-8")
    return file


def run(file: Path) -> None:
    """`trainer run`, its output beside the run file. Raises CalledProcessError."""
    with file.with_suffix(".log").open("wb") as log:
        subprocess.run([sys.executable, "-m", "trainer", "run", "--config", str(file)], stdout=log, stderr=log, check=True)


def _windows(encoder: TextEncoder, text: str, row_tokens: int) -> Iterator[Continuation]:
    ids = [END_OF_TEXT, *encoder.encode(text)]
    for start in range(1, len(ids), row_tokens - 1):
        part = ids[start : start + row_tokens - 1]
        yield Continuation([ids[start - 1]], part, len(part))


def score(file: Path, held_out: dict[str, list[str]]) -> dict[str, float]:
    """Bits per byte of held-out texts by source and over all, in windows of a row, by the run's own tokenizer."""
    config = load_config(file, [], None)
    folder, device = RunFolder.of(config), choose_device("auto", 0)
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    loaded = load_model(config, folder, device, config.tokens.row_tokens)
    numerics = Numerics.of(config, loaded.precision, device)
    bits, sizes = {}, {}
    for source, texts in held_out.items():
        cut = [text[:MAX_HELD_OUT_CHARS] for text in texts]
        windows = [window for text in cut for window in _windows(encoder, text, config.tokens.row_tokens)]
        bits[source] = -sum(log_probabilities(loaded.model, numerics, windows, 16)) / math.log(2)
        sizes[source] = sum(len(text.encode()) for text in cut)
    return {source: bits[source] / sizes[source] for source in bits} | {"all": sum(bits.values()) / sum(sizes.values())}


def _amounts(folder: Path, arm: str) -> tuple[int, str]:
    """Documents kept, and MB of text by source."""
    manifest = json.loads((folder / arm / "corpus" / "manifest.json").read_bytes())
    sizes: dict[str, int] = {}
    documents = 0
    for part in manifest["parts"]:
        sizes[part["source"]] = sizes.get(part["source"], 0) + part["text_bytes"]
        documents += part["documents"]
    return documents, ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())


def main() -> None:
    """Entry point."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrain-run" / "registry"
    parser = argparse.ArgumentParser(prog="python -m tests.corpus.effect", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=["all", "prepare", "train"], default="all", help="train: elsewhere, by a GPU"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/corpus-effect"), help="where it works (%(default)s)")
    parser.add_argument("--cache", type=Path, default=cache, help="folder of downloads (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (%(default)s)")
    parser.add_argument("--steps", type=int, default=1600, help="steps of each (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (%(default)s)")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.what != "train":
        write_raw(options.cache, folder)
        for arm in ARMS:
            run(run_file(folder, arm, 0, options.steps, ["prepare", "tokenizer", "encode"]))
        print(table("Text of each arm", ("arm", "documents", "MB by source"), [(arm, *_amounts(folder, arm)) for arm in ARMS]))
    if options.what != "prepare":
        train(folder, options.seeds, options.steps, options.jobs)


def train(folder: Path, seeds: int, steps: int, jobs: int) -> None:
    """Train and score every arm with every seed; prints the table."""
    files = {(arm, seed): run_file(folder, arm, seed, steps, ["pretrain"]) for seed in range(1, seeds + 1) for arm in ARMS}
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, files.values()))
    held_out = json.loads((folder / "held_out.json").read_bytes())
    scores = {key: score(file, held_out) for key, file in files.items()}
    sources = [*held_out, "all"]
    rows = []
    for arm in ARMS:
        of_arm = [scores[arm, seed] for seed in range(1, seeds + 1)]
        cells = [
            f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            for values in ([s[n] for s in of_arm] for n in sources)
        ]
        rows.append((arm, *cells))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    title = (
        f"Bits per byte of clean held-out text, tiny preset, {steps} steps, {seeds} seeds: mean (least to greatest), on {where}"
    )
    print(table(title, ("trained on", *sources), rows))
    print(json.dumps({f"{arm}-{seed}": values for (arm, seed), values in scores.items()}), file=sys.stderr)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
