"""What `trainer bench` compares: the plain loop first, then the trainer with each engine and option."""

from dataclasses import dataclass, field
from importlib.util import find_spec

from trainer.training.peers import Peers

PLAIN = "plain"


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    name: str
    precision: str
    processes: int = 1
    settings: dict[str, object] = field(default_factory=dict)
    """Config keys that differ from the preset's."""


def entries_for(peers: Peers, precision: str, *, compiled: bool) -> list[Entry]:
    """The rows for so many processes: the trainer with AdamW, which every engine has, then one change each."""
    world_size = peers.world.size
    rows: list[tuple[str, int, dict[str, object]]] = [
        ("trainer", 1, {}),
        ("muon", 1, {"pretrain.optimizer.kind": "muon"}),
        ("recomputing", 1, {"activation_checkpointing": True}),
    ]
    if peers.device.type == "cuda":
        rows.append(("flex attention", 1, {"attention": "flex"}))
    if compiled:
        rows.append(("compiled", 1, {"compile": True}))
    if world_size > 1:
        rows += [
            ("ddp", world_size, {}),
            ("ddp muon", world_size, {"pretrain.optimizer.kind": "muon"}),
            ("ddp overlapped", world_size, {"engine.bucket_mb": 25.0}),
            ("ddp bf16 sums", world_size, {"pretrain.gradient_dtype": "bf16"}),
            ("fsdp", world_size, {"engine.kind": "fsdp"}),
        ]
        if compiled:
            rows.append(("ddp compiled", world_size, {"compile": True}))
        if find_spec("deepspeed") is not None:
            rows += [(f"ZeRO-{stage}", world_size, _zero(stage)) for stage in (0, 1, 2, 3)]
    base: dict[str, object] = {"pretrain.optimizer.kind": "adamw"}
    entries = [Entry(name, precision, processes, base | settings) for name, processes, settings in rows]
    if precision == "bf16":
        entries.append(Entry("trainer in fp32", "fp32", 1, base))
    return [Entry(PLAIN, "fp32"), *entries]


def _zero(stage: int) -> dict[str, object]:
    return {"engine.kind": "deepspeed", "engine.deepspeed.zero_stage": stage}
