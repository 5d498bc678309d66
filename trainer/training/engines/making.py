"""The engine that a config asks for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.config_engine import EngineSection
from trainer.config_training import TrainingSection
from trainer.model.gpt import GPT
from trainer.training.engines.protocol import Engine
from trainer.training.objective import Objective
from trainer.training.peers import Peers


def make_engine(
    engine: EngineSection,
    training: TrainingSection,
    module: Objective,
    model: GPT,
    peers: Peers,
    matmul_dtype: torch.dtype,
) -> Engine:
    """Collective: lay out `model`, which `module` makes a loss of, over the processes. Raises UsageError or
    ConfigError.

    Engines are imported when they are chosen: FSDP2 takes a second, DeepSpeed three.
    """
    if engine.kind == "fsdp":
        from trainer.training.engines.fsdp import FullySharded

        reshard = engine.reshard_after_forward
        return FullySharded(module, model, training, peers.world, peers.device, matmul_dtype, reshard)
    if engine.kind == "deepspeed":
        from trainer.training.engines.zero import Zero

        return Zero(module, model, training, engine.deepspeed, peers.world, peers.device)
    from trainer.training.engines.ddp import DataParallel

    return DataParallel(module, model, training, peers.world, peers.device, matmul_dtype, engine.bucket_mb)


@contextmanager
def group_of_engines() -> Iterator[None]:
    """Collective: engines share a process group inside the block; DeepSpeed, if one was its, lets go of it at the end."""
    try:
        yield
    finally:
        zero = sys.modules.get("trainer.training.engines.zero")
        if zero is not None:
            zero.end_group()
