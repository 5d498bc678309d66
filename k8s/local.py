"""The same run on this machine: what the pods would do, under torchrun."""

import sys
from collections.abc import Sequence
from pathlib import Path

from k8s.run import Run

_VARIABLES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""As the entrypoint sets it: without it a process that comes back hangs all (trainer.elastic.local)."""


def local_command(
    run: Run, name: str, file: Path, overrides: Sequence[str], processes: int | None
) -> tuple[list[str], dict[str, str]]:
    """Command and variables; the run folder is runs/NAME-HASH, so a local run never meets another one."""
    arguments = [run.values.stage, "--config", str(file), "--set", f"name={name}", "--set", f"run_dir=runs/{name}"]
    for text in overrides:
        if text.startswith("trainer."):
            arguments += ["--set", text.removeprefix("trainer.")]
    if run.values.wandb.enabled:
        arguments.append("--use_wandb")
    count = processes or run.values.processes_per_node
    if count == 1:
        return [sys.executable, "-m", "trainer", *arguments], {}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(count)]
    torchrun += ["--max-restarts", str(run.values.max_restarts), "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    return [*torchrun, "-m", "trainer", *arguments], _VARIABLES
