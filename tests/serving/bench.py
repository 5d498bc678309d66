"""`make bench-serve`: tokens/s of a server with 8 clients and with 1, beside transformers on the same weights in the same run.

Random weights of a preset's shape: speed does not depend on what they say. All read the same prompts of 64 ids and write 128
greedily; the loops take turns, and each figure is a median. Server, clients and transformers share the machine's cores.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import yaml

from tests.support.data import make_small_data
from tests.support.models import save_run
from trainer.config import Config
from trainer.config_loading import load_config
from trainer.inference.engine import Engine
from trainer.inference.sampling import Sampling
from trainer.model.gpt import GPT

PROMPT_TOKENS, NEW_TOKENS = 64, 128
CLIENTS = (1, 8)
FIRST_ID = 40
"""Ids below are special tokens."""


@dataclass(frozen=True)
class Turn:
    """One turn of a loop."""

    tokens_per_s: float
    first_token_s: list[float]


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    dice = random.Random(1)
    return [[dice.randrange(FIRST_ID, vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


async def _ask(client: httpx.AsyncClient, prompt: list[int]) -> tuple[int, float]:
    """Tokens written, and seconds to the first event."""
    body = {"model": "bench", "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}
    started, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=body | {"stream_options": {"include_usage": True}}) as response:
        async for line in response.aiter_lines():
            first = first or time.perf_counter() - started
            if line.startswith("data: {") and '"usage":{' in line:
                tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    return tokens, first


def server_turn(url: str, num_clients: int) -> Turn:
    """So many clients, each with a connection of its own, at once."""

    async def all_of_them() -> list[tuple[int, float]]:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300) as client:
            return list(await asyncio.gather(*(_ask(client, prompt) for prompt in prompts(num_clients, 500))))

    started = time.perf_counter()
    results = asyncio.run(all_of_them())
    return Turn(sum(tokens for tokens, _ in results) / (time.perf_counter() - started), [first for _, first in results])


def engine_turn(engine: Engine, count: int) -> Turn:
    """The engine alone, without HTTP and text."""
    started, first, tokens = time.perf_counter(), {}, 0
    for prompt in prompts(count, 500):
        engine.add(prompt, Sampling(max_tokens=NEW_TOKENS, temperature=0.0))
    while not engine.is_idle:
        for written in engine.step():
            first.setdefault(written.writing, time.perf_counter() - started)
            tokens += 1
    return Turn(tokens / (time.perf_counter() - started), list(first.values()))


def transformers_turn(model: Any, count: int) -> Turn:
    """One batch by `generate`; its first token is a generation of one token."""
    ids = torch.tensor(prompts(count, 500))
    settings: dict[str, Any] = {"do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    with torch.inference_mode():
        started = time.perf_counter()
        model.generate(ids, max_new_tokens=1, **settings)
        first = time.perf_counter() - started
        started = time.perf_counter()
        made = model.generate(ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, **settings)
        seconds = time.perf_counter() - started
    return Turn((made.shape[1] - PROMPT_TOKENS) * count / seconds, [first] * count)


def make_run(preset: str, folder: Path) -> tuple[Config, Path, GPT]:
    """A run folder with random weights of a preset's shape."""
    data = folder / "data"
    data.mkdir()
    make_small_data(data)
    values = {"preset": preset, "run_dir": str(folder / "run"), "data_dir": str(data), "serve": {"model_name": "bench"}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    config = load_config(path)
    model = GPT(config.model, PROMPT_TOKENS + NEW_TOKENS)
    model.init_weights(1)
    save_run(config, model)
    return config, path, model.eval()


@contextmanager
def serving(config: Path) -> Iterator[str]:
    """A server process while the block runs; gives its address."""
    command = [sys.executable, "-m", "trainer", "serve", "--config", str(config), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r" at (http://[^;\s]+)", line):
                yield found[1]
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def bench(preset: str, turns: int) -> None:
    import transformers

    from trainer.export.exporting import export
    from trainer.run_folder import RunFolder

    with tempfile.TemporaryDirectory() as name:
        config, path, model = make_run(preset, Path(name))
        out = export(config, RunFolder.of(config), Path(name) / "export", "hf", "float32")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
        engine = Engine(model, max(CLIENTS), PROMPT_TOKENS + NEW_TOKENS)
        with serving(path) as url:
            loops: dict[str, Callable[[int], Turn]] = {
                "server": lambda count: server_turn(url, count),
                "engine alone": lambda count: engine_turn(engine, count),
                "transformers": lambda count: transformers_turn(theirs, count),
            }
            taken: dict[tuple[str, int], list[Turn]] = {}
            for turn in range(turns + 1):
                for count in CLIENTS:
                    for loop, run in loops.items():
                        made = run(count)
                        if turn:  # the first one warms up
                            taken.setdefault((loop, count), []).append(made)
                        print(f"{preset}: {loop}, {count} at once: {made.tokens_per_s:,.0f} tokens/s", file=sys.stderr)
    _print(preset, config, taken, turns)


def _print(preset: str, config: Config, taken: dict[tuple[str, int], list[Turn]], turns: int) -> None:
    few, many = CLIENTS
    print(f"\n{preset}: {config.model.num_parameters:,} parameters, fp32, {turns} turns each\n")
    print(
        f"| loop | tokens/s, {few} | tokens/s, {many} | ratio | first token ms, {few}: median | {many}: median | {many}: last |"
    )
    print("|---|---|---|---|---|---|---|")
    for loop in dict.fromkeys(loop for loop, _ in taken):
        speeds = {count: statistics.median(turn.tokens_per_s for turn in taken[loop, count]) for count in CLIENTS}
        ratio = statistics.median(
            b.tokens_per_s / a.tokens_per_s for a, b in zip(taken[loop, few], taken[loop, many], strict=True)
        )
        firsts = {count: [1000 * s for turn in taken[loop, count] for s in turn.first_token_s] for count in CLIENTS}
        last = statistics.median(1000 * max(turn.first_token_s) for turn in taken[loop, many])
        print(
            f"| {loop} | {speeds[few]:,.0f} | {speeds[many]:,.0f} | {ratio:.2f} | {statistics.median(firsts[few]):.0f} "
            f"| {statistics.median(firsts[many]):.0f} | {last:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--presets", nargs="+", default=["tiny", "minimind-26m"])
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{cores} cores, torch {torch.__version__} with {torch.get_num_threads()} threads, python {platform.python_version()}"
    )
    for preset in options.presets:
        bench(preset, options.turns)


if __name__ == "__main__":
    main()
