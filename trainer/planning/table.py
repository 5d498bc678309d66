"""`trainer plan`: a plan, or the comparison with published figures, as text or JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from trainer.planning.hardware import Cluster
from trainer.planning.job import Job
from trainer.planning.measured import Comparison
from trainer.planning.plan import EnginePlan, Plan


def plan_lines(job: Job, cluster: Cluster, plan: Plan, gpu: str, link: str) -> list[str]:
    """A heading, one table with a row for each engine, and the notes. GPU and link by their names."""
    columns = (
        "engine", "weights+grads", "optimizer", "activations", "total GB", "fits",
        "compute ms", "exposed ms", "step ms", "tokens/s", "MFU", "efficiency",
    )  # fmt: skip
    nodes = f"{cluster.num_nodes} nodes over {link}" if cluster.num_nodes > 1 else "one node"
    kept = "activation checkpointing" if job.checkpointing else "no activation checkpointing"
    return [
        f"{job.model.num_parameters:,} parameters, {job.num_micro_batches} micro-batches of {job.micro_batch} x "
        f"{job.row_tokens} tokens a step, {kept}{', compiled' if job.compiled else ''}",
        f"{cluster.num_gpus} x {gpu}, {nodes}; predicted, not measured: --compare shows how far off",
        "",
        *_table([columns, *(_cells(row) for row in plan.engines)]),
        *(f"- {note}" for note in plan.notes),
    ]


def compare_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """One table: published figure, prediction, ratio, and what the model leaves out."""
    columns = ("what", "published", "predicted", "unit", "ratio", "kind", "band")
    rows = [
        (
            each.point.what, _number(each.point.value), _number(each.predicted), each.point.unit,
            f"{each.ratio:.2f}", each.point.kind, f"{each.point.band[0]:g}..{each.point.band[1]:g}",
        )
        for each in comparisons
    ]  # fmt: skip
    about: dict[str, list[str]] = {}
    for each in comparisons:
        about.setdefault(f"{each.point.source}. {each.point.remark}".rstrip(), []).append(each.point.what)
    notes = [f"- {'; '.join(whats)}: {note}" for note, whats in about.items()]
    return [*_table([columns, *rows], left=(0, 3, 5)), *notes]


def plan_json(job: Job, cluster: Cluster, plan: Plan) -> str:
    """The same as JSON; bytes and seconds."""
    engines = [{**asdict(row), "memory": {**asdict(row.memory), "total": row.memory.total}} for row in plan.engines]
    values = {"job": {**asdict(job), "model": job.model.model_dump()}, "cluster": asdict(cluster)}
    return json.dumps({**values, "engines": engines, "notes": plan.notes}, indent=1)


def compare_json(comparisons: Sequence[Comparison]) -> str:
    """The comparison as JSON."""
    return json.dumps(
        [
            {
                "what": each.point.what,
                "published": each.point.value,
                "predicted": each.predicted,
                "unit": each.point.unit,
                "ratio": each.ratio,
                "kind": each.point.kind,
                "band": each.point.band,
                "source": each.point.source,
                "remark": each.point.remark,
            }
            for each in comparisons
        ],
        indent=1,
    )


def _cells(row: EnginePlan) -> tuple[str, ...]:
    memory = row.memory
    sizes = (memory.weights_and_gradients, memory.optimizer, memory.activations, memory.total)
    cells = (row.engine, *(f"{size / 1e9:.2f}" for size in sizes), "yes" if row.fits else "no")
    if row.time is None or row.tokens_per_s is None:
        return (*cells, *("-" * 6))
    times = (row.time.compute_s, row.time.exposed_s, row.time.total_s)
    return (
        *cells, *(f"{1000 * each:,.1f}" for each in times),
        f"{row.tokens_per_s:,.0f}", f"{row.mfu:.0%}", f"{row.efficiency:.0%}",
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
