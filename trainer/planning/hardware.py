"""GPUs, the links between them, and what a collective costs. Datasheet rates; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from trainer.errors import UsageError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU by its datasheet: dense rates without sparsity, and bf16 products that are summed in float32."""

    bf16_tflops: float
    fp32_tflops: float
    memory_gb: float
    memory_gb_per_s: float
    peer_gb_per_s: float
    """To the other GPUs of its node, each direction: NVLink, or PCIe where there is none."""


@dataclass(frozen=True, slots=True)
class Link:
    """What connects nodes."""

    gb_per_s: float
    """Line rate, each direction."""
    each_gpu: bool = False
    """One for each GPU; otherwise one for a node, shared by its GPUs."""


GPUS: Mapping[str, Gpu] = {
    "b200": Gpu(2250, 80, 180, 8000, 900),
    "h200": Gpu(989, 67, 141, 4800, 450),
    "h100": Gpu(989, 67, 80, 3350, 450),
    "a100-80": Gpu(312, 19.5, 80, 2039, 300),
    "a100-40": Gpu(312, 19.5, 40, 1555, 300),
    "l40s": Gpu(362, 91.6, 48, 864, 32),
    "5090": Gpu(209.5, 104.8, 32, 1792, 64),
    "4090": Gpu(165.2, 82.6, 24, 1008, 32),
    "3090": Gpu(71.2, 35.6, 24, 936, 32),
}

LINKS: Mapping[str, Link] = {
    "10GbE": Link(1.25),
    "25GbE": Link(3.125),
    "100GbE": Link(12.5),
    "200Gb-IB": Link(25),
    "400Gb-IB": Link(50),
    "8x400Gb-IB": Link(50, each_gpu=True),
    "nvlink": Link(450, each_gpu=True),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal GPUs in equal nodes; the last node may be less full."""

    gpu: Gpu
    num_gpus: int
    gpus_per_node: int
    link: Link

    @property
    def num_nodes(self) -> int:
        """Nodes that the GPUs fill."""
        return -(-self.num_gpus // self.gpus_per_node)

    def all_reduce_s(self, size_bytes: float) -> float:
        """Seconds to sum so many bytes over all GPUs and give the sums to each.

        A ring moves 2 (n - 1) / n of the bytes over each member's link and no algorithm moves fewer (Patarasuk and Yuan 2009).
        Here a ring within each node, then one between nodes in which the GPUs of a node share its link, each with its own
        part of the bytes. Line rates and no latency: a floor of the real time, which is far off below about 1 MB.
        """
        local = min(self.num_gpus, self.gpus_per_node)
        nodes = self.num_nodes
        node_gb_per_s = self.link.gb_per_s * (local if self.link.each_gpu else 1)
        within_s = 2 * (local - 1) / local * size_bytes / (1e9 * self.gpu.peer_gb_per_s)
        between_s = 2 * (nodes - 1) / nodes * size_bytes / (1e9 * node_gb_per_s)
        return within_s + between_s

    def all_gather_s(self, size_bytes: float) -> float:
        """Seconds to give so many bytes, of which each GPU holds its share, to all; a reduce-scatter takes as long."""
        return self.all_reduce_s(size_bytes) / 2


def gpu_named(name: str) -> Gpu:
    """A GPU of GPUS; raises UsageError with all names."""
    return _named(name, GPUS, "--gpu")


def link_named(name: str) -> Link:
    """A link of LINKS; raises UsageError with all names."""
    return _named(name, LINKS, "--link")


_Kind = TypeVar("_Kind")


def _named(name: str, table: Mapping[str, _Kind], option: str) -> _Kind:
    for known, value in table.items():
        if known.lower() == name.lower():
            return value
    raise UsageError(f"{option} {name!r} is not known; known: {', '.join(table)}")
