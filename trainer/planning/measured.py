"""Published figures, and what the model says to each. No torch.

`measured` ones come from other trainers on real GPUs. One constant, speed.ATTAINABLE, was chosen in their sight, so they are no
blind test of it. `calculated` ones are others' arithmetic for the same question: they check our formulas, not the world.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from trainer.config import ModelSection
from trainer.planning.hardware import GPUS, LINKS, Cluster, Gpu, Link
from trainer.planning.job import Job
from trainer.planning.memory import DDP, FSDP, ZERO, memory_of
from trainer.planning.plan import tokens_per_s

_MEASURED_BAND = (0.67, 1.75)
"""Prediction over measurement where the model claims to hold: a first guess before any GPU is rented, mostly too high."""
_EXACT_BAND = (0.95, 1.05)


@dataclass(frozen=True, slots=True)
class Point:
    """A published figure and how to predict it."""

    what: str
    value: float
    unit: str
    source: str
    predict: Callable[[], float]
    kind: Literal["measured", "calculated"] = "measured"
    band: tuple[float, float] = _MEASURED_BAND
    """Least and greatest ratio of prediction to published figure; a test holds the model to it."""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A point and its prediction."""

    point: Point
    predicted: float

    @property
    def ratio(self) -> float:
        """Prediction over published figure."""
        return self.predicted / self.point.value


def compare() -> list[Comparison]:
    """Predict every point."""
    return [Comparison(point, point.predict()) for point in POINTS]


_MINIMIND = ModelSection()
_MINIMIND_64M = ModelSection(hidden_size=768, num_kv_heads=4, ffn_size=2432, qk_norm=True)
_MINIMIND_V1 = ModelSection(num_heads=16, num_kv_heads=8)
_NANOCHAT_D24 = ModelSection(
    vocab_size=32768, hidden_size=1536, num_layers=24, num_heads=12, num_kv_heads=12, ffn_size=4096, qk_norm=True
)
"""Its feed-forward layer has two matrices of 4 x 1536; ours has three, of 8/3 x 1536: the same FLOPs."""
_LLAMA_8B = ModelSection(
    vocab_size=128256, hidden_size=4096, num_layers=32, num_heads=32, num_kv_heads=8, ffn_size=14336, rope_theta=5e5
)
"""With a tied embedding, so 0.5B parameters fewer, none of which multiply."""
_TITAN_H100 = replace(GPUS["h100"], memory_gb=96, memory_gb_per_s=2400)
"""torchtitan's H100 has HBM2e and a limit of 500 W, whose lower clock is not modelled."""


def _one_gpu(model: ModelSection, row_tokens: int, micro_batch: int, gpu: Gpu) -> Callable[[], float]:
    job = Job(model, row_tokens, global_batch=8 * micro_batch, micro_batch=micro_batch)
    return lambda: tokens_per_s(job, DDP, Cluster(gpu, 1, 8, LINKS["100GbE"]))


def _titan(num_gpus: int, *, compiled: bool) -> Callable[[], float]:
    job = Job(_LLAMA_8B, 8192, global_batch=2 * num_gpus, micro_batch=2, compiled=compiled)
    cluster = Cluster(_TITAN_H100, num_gpus, 8, LINKS["8x400Gb-IB"])
    return lambda: tokens_per_s(job, FSDP, cluster) / num_gpus


def _nanochat() -> float:
    job = Job(_NANOCHAT_D24, 1280, global_batch=400, micro_batch=25, compiled=True)
    return tokens_per_s(job, ZERO[1], Cluster(GPUS["h100"], 8, 8, LINKS["100GbE"]))


def _titan_memory_gib() -> float:
    job = Job(_LLAMA_8B, 8192, global_batch=16, micro_batch=2, checkpointing=True)
    return memory_of(job, FSDP, 8).total / 2**30


def _ring_ms(link: Link | None) -> Callable[[], float]:
    """8 GPUs that sum the fp32 gradients of the 26M model: one a node over the link, or all in one node."""
    cluster = Cluster(GPUS["h100"], 8, 8 if link is None else 1, link or LINKS["nvlink"])
    return lambda: 1000 * cluster.all_reduce_s(4 * _MINIMIND.num_parameters)


_TITAN = "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md"
_TITAN_REMARK = "Its limit of 500 W and its selective recomputation are not modelled."
_RING = "25.83M parameters x 4 bytes, 8 ranks, 2 (n - 1) / n over the line rate"

POINTS: tuple[Point, ...] = (
    Point(
        "MiniMind 26M, 3090", 183e3, "tokens/s", "minimind issue 271: 44,160 steps of 32 rows of 512 positions",
        _one_gpu(_MINIMIND, 512, 32, GPUS["3090"]), remark="Padded positions; 46% MFU.",
    ),
    Point(
        "MiniMind 64M, 3090", 99e3, "tokens/s", "minimind README, pretrain_t2t_mini in 1.21 h",
        _one_gpu(_MINIMIND_64M, 340, 32, GPUS["3090"]), remark="Padded positions; 57% MFU.",
    ),
    Point(
        "MiniMind v1 27M, 4090", 231e3, "tokens/s", "minimind issue 60: 111,769 steps of 48 rows in 3.3 h",
        _one_gpu(_MINIMIND_V1, 512, 48, GPUS["4090"]),
        remark="26% MFU; what held it back is not known.",
    ),
    Point(
        "nanochat d24, 8 x H100", 800e3, "tokens/s", "nanochat leaderboard, run 1: 4.33e19 FLOP in 10,949 s",
        _nanochat, remark="50% MFU. Row length is the mean of its attention windows.",
    ),
    Point(
        "Llama 3.1 8B FSDP2, 8 x H100", 5762, "tokens/s/GPU", _TITAN, _titan(8, compiled=False), remark=_TITAN_REMARK,
    ),
    Point(
        "Llama 3.1 8B FSDP2, 8 x H100, compiled", 6667, "tokens/s/GPU", _TITAN, _titan(8, compiled=True),
        remark=_TITAN_REMARK,
    ),
    Point(
        "Llama 3.1 8B FSDP2, 128 x H100, compiled", 6514, "tokens/s/GPU", _TITAN, _titan(128, compiled=True),
        remark=_TITAN_REMARK,
    ),
    Point(
        "its efficiency, 8 to 128 GPUs", 6514 / 6667, "ratio", _TITAN,
        lambda: _titan(128, compiled=True)() / _titan(8, compiled=True)(), band=(0.9, 1.1),
    ),
    Point(
        "its memory on 8 GPUs, at least", 77.0, "GiB", _TITAN, _titan_memory_gib, band=(0.4, 1.0),
        remark="Predicted with full recomputation and chunked logits; it recomputes selectively and keeps 8 GB of logits.",
    ),
    *(
        Point(f"gradient sum of 26M over {name}", value, "ms", _RING, _ring_ms(link), "calculated", _EXACT_BAND)
        for name, value, link in (
            ("100GbE", 14.5, LINKS["100GbE"]), ("25GbE", 58.0, LINKS["25GbE"]),
            ("10GbE", 145.0, LINKS["10GbE"]), ("NVLink", 0.4, None),
        )
    ),
)  # fmt: skip
