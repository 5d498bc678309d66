"""`trainer bench`: run the measurements and print them."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from trainer import __version__
from trainer.bench.measuring import PresetFigures, measure_preset
from trainer.cores import cores
from trainer.training.engines.making import group_of_engines
from trainer.training.peers import choose_device, joined
from trainer.world import World

_PATIENCE_S = 1200.0
"""Processes wait this long for one that measures or compiles alone."""


def bench(
    presets: Sequence[str], seconds: float, world: World, *, compiled: bool, as_json: bool, trace_folder: Path | None
) -> None:
    """Collective: measure presets in turn; the first process prints a table, or JSON, to stdout."""
    device = choose_device("auto", world.local_rank)
    with joined(world, device, _PATIENCE_S) as peers, group_of_engines():
        machine = describe_machine(world)
        results = []
        for preset in presets:
            if world.is_first:
                print(f"bench: {preset} ...", file=sys.stderr, flush=True)
            trace = trace_folder / f"trace-{preset}.json" if trace_folder else None
            figures = measure_preset(preset, seconds, peers, compiled=compiled, trace=trace)
            results += [figures] if figures else []
    if not world.is_first:
        return
    if as_json:
        print(json.dumps({"machine": machine, "presets": [asdict(each) for each in results]}, indent=1))
        return
    print("; ".join(f"{key} {value}" for key, value in machine.items()))
    for figures in results:
        print("\n".join(["", *lines_of(figures)]))


def lines_of(figures: PresetFigures) -> list[str]:
    """A preset's figures as lines of text."""
    saves = figures.saves
    head = (
        f"{figures.preset}: {figures.num_parameters:,} parameters, "
        f"{figures.rows_per_turn} rows of {figures.row_tokens} tokens a step; "
        f"matrix products reach {figures.peak_tflops:.3f} TFLOPS"
    )
    columns = (
        "loop",
        "processes",
        "useful tok/s",
        "x plain",
        "positions x",
        "MFU",
        "data wait",
        "+ MB",
        "first step s",
        "turns",
    )
    rows = [
        (
            loop.name,
            str(loop.processes),
            f"{loop.useful_tokens_per_s:,.0f}",
            f"{loop.useful_ratio:.2f}",
            f"{loop.positions_ratio:.2f}",
            f"{loop.mfu:.0%}",
            f"{loop.data_wait_share:.2%}",
            f"{loop.memory_mb:,.0f}",
            f"{loop.first_turn_s:.1f}",
            str(loop.turns),
        )
        for loop in figures.loops
    ]
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
    return [
        head,
        *table,
        f"checkpoint of {saves.size_mb:.0f} MB: the loop waits {saves.stall_ms_p50:.0f} ms p50, "
        f"{saves.stall_ms_max:.0f} ms at most; written in {saves.write_s_p50:.2f} s p50",
        f"encoding: {figures.encode_mb_per_s:.1f} MB per CPU-second, tokenizers {figures.encode_mb_per_s_tokenizers:.1f}",
    ]


def describe_machine(world: World) -> dict[str, str]:
    """The machine and the versions that figures belong to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    return {
        "device": device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": str(cores()),
        "processes": str(world.size),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "trainer": __version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
