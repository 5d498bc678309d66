"""How a model computes on this machine: its precision, chosen by measuring and not by name, and what follows from it."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from trainer.config import Config
from trainer.model.attention import Kind, kind_for
from trainer.training.peers import Peers

_SIZE = {"cpu": 512, "mps": 2048, "cuda": 8192}
_MIN_TIME_S = 0.05
_BF16_GAIN = 1.2
"""bf16 must be this much faster to be chosen: below, its rounding buys nothing."""


@dataclass(frozen=True)
class Numerics:
    """How a model computes here: the resolved precision, and what follows from it."""

    precision: str
    """fp32 or bf16, of matrix products."""
    device: torch.device
    attention: Kind

    @staticmethod
    def of(config: Config, precision: str, device: torch.device) -> "Numerics":
        """With a precision that is known already."""
        kind = kind_for(config.attention, device, config.model.head_size, compiled=config.compile)
        return Numerics(precision, device, kind)

    @staticmethod
    def agreed(config: Config, peers: Peers) -> "Numerics":
        """Collective: with `auto`, bf16 only where it is faster on every process."""
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if peers.all(bf16_pays(peers.device)) else "fp32"
        return Numerics.of(config, precision, peers.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """A context in which matrix products have this precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """Trillions of floating-point operations a second in square matrix products, about 0.1 s of measuring."""
    size = _SIZE[device.type]
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    (a @ b).sum().item()
    best, repeats, spent_s = 0.0, 1, 0.0
    while spent_s < _MIN_TIME_S:
        started = time.perf_counter()
        for _ in range(repeats):
            product = a @ b
        product[0, 0].item()
        duration_s = time.perf_counter() - started
        best = max(best, 2 * size**3 * repeats / duration_s / 1e12)
        spent_s += duration_s
        repeats = min(2 * repeats, 64)
    return best


def bf16_pays(device: torch.device) -> bool:
    """Whether to compute in bf16 here: on cuda where the GPU has it, on CPU where a measurement says that it is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return False
    # A CPU without bf16 instructions emulates them up to 80 times slower: a small product tells, in a hundredth of the time.
    size = 128
    a, b = torch.randn(size, size), torch.randn(size, size)
    times_s = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, y = a.to(dtype), b.to(dtype)
        x @ y
        best = min(_timed(x, y) for _ in range(3))
        times_s[dtype] = best
    if times_s[torch.bfloat16] > 4 * times_s[torch.float32]:
        return False
    return matmul_tflops(device, torch.bfloat16) > _BF16_GAIN * matmul_tflops(device, torch.float32)


def _timed(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ b
    return time.perf_counter() - started
