"""Optimizers and schedules on the corpus of `make corpus`: the runs behind docs/lab.md, "Muon against AdamW" and "Schedules".

    make corpus
    .venv/bin/python docs/experiments/optimizers.py run          # about an hour on two cores; what is done is skipped
    .venv/bin/python docs/experiments/optimizers.py table

Each run is `trainer pretrain` with the preset tiny and one change. Held-out bits per byte every 100 steps.
"""

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path("runs/optimizers")
CORPUS = Path("data/registry")
SOURCES = [("python", "python-docs"), ("linux", "linux-docs"), ("linux-zh", "linux-docs-zh"), ("wordnet", "wordnet-glosses")]
BRACKETS = {"adamw": ["0.001", "0.002", "0.004"], "muon": ["0.004", "0.008", "0.016"]}
BEST = {"adamw": "0.002", "muon": "0.008"}
SEEDS = [1, 2, 3]
STEPS, HALF = 600, 300
SCHEDULES = {
    "cosine": ["pretrain.schedule={kind: cosine, warmup_steps: 40, final_ratio: 0.05}"],
    "batch-warmup": ["pretrain.batch_warmup_steps=120"],
    "linear-decay": ["pretrain.schedule.weight_decay=linear"],
}
"""What changes against Muon's best runs, whose schedule is the preset's: WSD, full batches, constant weight decay."""


def runs() -> list[tuple[str, str, int, int]]:
    """(optimizer, rate, seed, steps) of every run."""
    bracket = [(kind, rate, 1, STEPS) for kind, rates in BRACKETS.items() for rate in rates]
    seeds = [(kind, rate, seed, STEPS) for kind, rate in BEST.items() for seed in SEEDS[1:]]
    return [*bracket, *seeds, ("muon", BEST["muon"], 1, HALF)]


def config() -> Path:
    """The runs' common config file; corpus, tokenizer and shards are made once."""
    sources = [{"name": name, "path": f"{CORPUS}/{file}.jsonl.zst"} for name, file in [*SOURCES, ("poetry", "chinese-poetry")]]
    values = {
        "preset": "tiny",
        "data_dir": str(ROOT / "data"),
        "precision": "fp32",
        "device": "cpu",
        "corpus": {"held_out": 0.03, "sources": sources},
        "validation": {"every_steps": 100, "max_rows_per_source": 120},
        "checkpoint": {"every_steps": 10_000, "every_s": None},
        "tracking": {"log_every_steps": 50, "measure_peak": False},
    }
    ROOT.mkdir(parents=True, exist_ok=True)
    path = ROOT / "config.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def trainer(stage: str, folder: Path, *settings: str) -> None:
    arguments = [part for setting in (f"run_dir={folder}", *settings) for part in ("--set", setting)]
    command = [sys.executable, "-m", "trainer", stage, "--config", str(config()), *arguments]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def train_schedule(name: str, seed: int) -> None:
    optimizer = f"pretrain.optimizer={{kind: muon, lr: {BEST['muon']}}}"
    trainer("pretrain", ROOT / f"{name}-seed{seed}", optimizer, f"seed={seed}", f"pretrain.steps={STEPS}", *SCHEDULES[name])


def folder_of(kind: str, rate: str, seed: int, steps: int) -> Path:
    return ROOT / f"{kind}-{rate}-seed{seed}-{steps}"


def train_all() -> None:
    for stage in ("prepare", "tokenizer", "encode"):
        trainer(stage, ROOT / "data")
    with ThreadPoolExecutor(os.cpu_count()) as cores:  # one thread each
        list(cores.map(lambda run: train(*run), runs()))
        list(cores.map(lambda run: train_schedule(*run), product(SCHEDULES, SEEDS)))


def train(kind: str, rate: str, seed: int, steps: int) -> None:
    settings = [f"pretrain.optimizer={{kind: {kind}, lr: {rate}}}", f"seed={seed}", f"pretrain.steps={steps}"]
    trainer("pretrain", folder_of(kind, rate, seed, steps), *settings)


def curve(folder: Path) -> dict[int, float]:
    """Held-out bits per byte by step."""
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return {event["step"]: event["bits_per_byte"] for event in events if event["event"] == "validated"}


def print_table() -> None:
    curves = {run: curve(folder_of(*run)) for run in runs() if (folder_of(*run) / "events.jsonl").exists()}
    for (kind, rate, seed, steps), by_step in curves.items():
        print(f"{kind:6} {rate:6} seed {seed} {steps:4}  " + "  ".join(f"{bits:.3f}" for bits in by_step.values()))
    for kind, rate in BEST.items():
        ends = [by_step[STEPS] for run, by_step in curves.items() if run[:2] == (kind, rate) and STEPS in by_step]
        print(f"{kind} {rate}: mean {statistics.mean(ends):.3f}, {min(ends):.3f} to {max(ends):.3f} over {len(ends)} seeds")
    for name in SCHEDULES:
        by_seed = [curve(ROOT / f"{name}-seed{seed}") for seed in SEEDS if (ROOT / f"{name}-seed{seed}" / "DONE").exists()]
        for seed, by_step in zip(SEEDS, by_seed, strict=False):
            print(f"{name:12} seed {seed}  " + "  ".join(f"{bits:.3f}" for bits in by_step.values()))
        if by_seed:
            print(f"{name}: mean {statistics.mean(by_step[STEPS] for by_step in by_seed):.3f}")


if __name__ == "__main__":
    {"run": train_all, "table": print_table}[sys.argv[1]]()
