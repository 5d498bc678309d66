"""A plan: each engine's memory, time and efficiency for one job on one cluster, and what to change. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.planning.hardware import Cluster
from trainer.planning.job import Job
from trainer.planning.memory import ENGINES, FSDP, USABLE, Engine, Memory, memory_of
from trainer.planning.speed import StepTime, step_time

_WORTH = 1.03
"""A change is advised if it makes a step this many times faster."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One engine's figures."""

    engine: str
    memory: Memory
    fits: bool
    time: StepTime | None
    """None where a GPU would have no micro-batch."""
    tokens_per_s: float | None
    efficiency: float | None
    """Tokens per second of a GPU, as a share of what one GPU alone would reach on the same step."""
    mfu: float | None
    """PaLM's FLOPs (ModelSection.flops_per_token) over the datasheet's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All engines, and notes on what cannot work or could work better."""

    engines: tuple[EnginePlan, ...]
    notes: tuple[str, ...]


def make_plan(job: Job, cluster: Cluster) -> Plan:
    """Predict every engine."""
    rows = tuple(_engine_plan(job, engine, cluster) for engine in ENGINES)
    if job.num_micro_batches < cluster.num_gpus:
        notes = [_too_many_gpus(job, cluster)]
    else:
        notes = [*_idle_note(job, cluster), *_speed_notes(job, cluster, rows)]
    return Plan(rows, (*notes, *_memory_notes(job, cluster)))


def fits(job: Job, engine: Engine, cluster: Cluster) -> bool:
    """Whether the job stays within the usable part of each GPU's memory."""
    return memory_of(job, engine, cluster.num_gpus).total <= USABLE * 1e9 * cluster.gpu.memory_gb


def tokens_per_s(job: Job, engine: Engine, cluster: Cluster) -> float:
    """Positions a second over all GPUs."""
    return job.tokens_per_step / step_time(job, engine, cluster).total_s


def best_micro_batch(job: Job, engine: Engine, cluster: Cluster) -> int | None:
    """The fastest size that fits and leaves each GPU work; of nearly equal ones the smallest, which takes the least memory."""
    jobs = [replace(job, micro_batch=size) for size in job.micro_batches_for(cluster.num_gpus)]
    speeds = {each.micro_batch: tokens_per_s(each, engine, cluster) for each in jobs if fits(each, engine, cluster)}
    return next((size for size, speed in speeds.items() if speed * _WORTH >= max(speeds.values())), None)


def _engine_plan(job: Job, engine: Engine, cluster: Cluster) -> EnginePlan:
    memory = memory_of(job, engine, cluster.num_gpus)
    enough = fits(job, engine, cluster)
    if job.num_micro_batches < cluster.num_gpus:
        return EnginePlan(engine.name, memory, enough, None, None, None, None)
    speed = tokens_per_s(job, engine, cluster)
    alone = tokens_per_s(job, engine, replace(cluster, num_gpus=1))
    peak_tflops = cluster.gpu.bf16_tflops if job.element_bytes == 2 else cluster.gpu.fp32_tflops
    mfu = speed * job.model.flops_per_token(job.row_tokens) / (cluster.num_gpus * peak_tflops * 1e12)
    time = step_time(job, engine, cluster)
    return EnginePlan(engine.name, memory, enough, time, speed, speed / (cluster.num_gpus * alone), mfu)


def _too_many_gpus(job: Job, cluster: Cluster) -> str:
    raise_batch = f"raise pretrain.global_batch to {cluster.num_gpus * job.micro_batch} or more"
    smaller = job.micro_batches_for(cluster.num_gpus)
    lower = f"lower pretrain.micro_batch to {smaller[-1]}, or " if smaller else ""
    return (
        f"{cluster.num_gpus} GPUs are more than the {job.num_micro_batches} micro-batches of a step "
        f"(global_batch {job.global_batch} / micro_batch {job.micro_batch}): {lower}{raise_batch}"
    )


def _idle_note(job: Job, cluster: Cluster) -> Iterator[str]:
    """Where micro-batches do not share out evenly."""
    rounds, left = job.rounds(cluster.num_gpus), job.num_micro_batches % cluster.num_gpus
    if not left:
        return
    idle = 1 - job.num_micro_batches / (rounds * cluster.num_gpus)
    even = [size for size in job.micro_batches_for(cluster.num_gpus) if job.global_batch // size % cluster.num_gpus == 0]
    way_out = f"pretrain.micro_batch {even[-1]} shares them out evenly" if even else "another number of GPUs wastes less"
    yield (
        f"{job.num_micro_batches} micro-batches on {cluster.num_gpus} GPUs: {left} GPUs compute {rounds}, the others "
        f"{rounds - 1}, and {idle:.0%} of the GPUs' time is idle; {way_out}"
    )


def _speed_notes(job: Job, cluster: Cluster, rows: tuple[EnginePlan, ...]) -> Iterator[str]:
    fitting = [(row.tokens_per_s or 0.0, engine, row) for row, engine in zip(rows, ENGINES, strict=True) if row.fits]
    _, engine, row = max(fitting or [(0.0, FSDP, rows[1])], key=lambda each: each[0])
    best = best_micro_batch(job, engine, cluster)
    if best is not None:
        faster = replace(job, micro_batch=best)
        gain = tokens_per_s(faster, engine, cluster) / tokens_per_s(job, engine, cluster)
        count = f"{faster.rounds(cluster.num_gpus)} on the busiest GPU"
        if best == job.micro_batch or (row.fits and gain < _WORTH):
            yield f"micro_batch {job.micro_batch} is as good as any for {engine.name}: {job.num_micro_batches} a step"
        else:
            more = f", {gain:.2f} times as fast" if row.fits else ", and it fits"
            yield f"pretrain.micro_batch {best} is best for {engine.name}: {faster.num_micro_batches} a step, {count}{more}"
    if row.time is not None and row.time.exposed_s > 0.2 * row.time.total_s:
        share = f"{row.time.exposed_s / row.time.total_s:.0%}"
        yield f"{engine.name} waits for the network {share} of a step: {_network_way_out(job, engine)}"
    if row.time is not None and row.time.dispatch_bound:
        yield "the GPU waits for Python, which starts its kernels: a larger pretrain.micro_batch or compile helps"


def _network_way_out(job: Job, engine: Engine) -> str:
    ways = "a larger pretrain.micro_batch" if engine.stage >= 2 else "a larger pretrain.global_batch"
    if job.reduce_bytes < engine.state_bytes()[1]:
        return f"{ways} has it wait less often, a faster --link less long"
    return f"{ways} has it wait less often, pretrain.gradient_dtype bf16 halves what gradients take"


def _memory_notes(job: Job, cluster: Cluster) -> Iterator[str]:
    """For engines that do not fit, a way out that does."""
    ways_out: dict[str, list[str]] = {}
    for engine in ENGINES:
        if not fits(job, engine, cluster):
            ways_out.setdefault(_memory_way_out(job, engine, cluster), []).append(engine.name)
    for way_out, names in ways_out.items():
        yield f"above the {USABLE * cluster.gpu.memory_gb:.1f} GB that are usable: {', '.join(names)}; {way_out}"


def _memory_way_out(job: Job, engine: Engine, cluster: Cluster) -> str:
    sizes = [size for size in job.micro_batches_for(cluster.num_gpus)[::-1] if size < job.micro_batch]
    checkpointed = replace(job, checkpointing=True)
    for size in sizes:
        if fits(replace(job, micro_batch=size), engine, cluster):
            return f"pretrain.micro_batch {size} fits"
    for size in (job.micro_batch, *sizes):
        if fits(replace(checkpointed, micro_batch=size), engine, cluster):
            smaller = f" with pretrain.micro_batch {size}" if size < job.micro_batch else ""
            return f"activation_checkpointing{smaller} fits, for a third more computation"
    least = replace(checkpointed, micro_batch=1)
    for other in (each for each in (FSDP, *ENGINES) if each is not engine):
        if fits(least, other, cluster):
            return f"not even with activation_checkpointing and micro_batch 1; {other.name} would"
    return "no engine fits: take more or larger GPUs, or a smaller model"
