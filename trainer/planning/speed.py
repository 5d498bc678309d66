"""Time of an optimizer step, by engine: a roofline for the GPU, rings for the network. No torch."""

from dataclasses import dataclass

from trainer.planning.hardware import Cluster, Gpu
from trainer.planning.job import Job
from trainer.planning.memory import DDP, LOSS_CHUNK, Engine, layer_bytes_per_token

ATTAINABLE = 0.7
"""Share of the datasheet's FLOPS that products reach: our choice. The best one on an H100 reaches 780 of 989 TFLOPS (Chillee's
gist 2ec89696), usual shapes less. Attention reaches about half but skips the masked half, which PaLM's count includes."""

PASSES = 5
"""How often eager mode moves each byte that autograd keeps: written, read by the next kernel, read in the backward pass, its
gradient written and read."""
COMPILED_PASSES = 2
"""What torch.compile's fusion leaves of it."""

LAYER_OPERATIONS = 145
"""Kernels of one layer, forward and backward, counted by a dispatch mode on our model."""
COMPILED_LAYER_OPERATIONS = 40
"""Our guess of what fusion leaves."""
LOSS_OPERATIONS = 20
"""Of each chunk of logits."""
DISPATCH_S = 5e-6
"""Seconds in which Python and PyTorch start a kernel: an assumption, 4 to 10 us are usual."""

CAST_BYTES = 16
"""Traffic per parameter and micro-batch: weights cast to bf16, gradients cast back and added up in fp32."""
UPDATE_BYTES = 44
"""Traffic per parameter and step: gradients zeroed, measured and scaled (16), fused AdamW (28)."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step on the busiest GPU."""

    compute_s: float
    exposed_s: float
    """Communication that no computation hides."""
    dispatch_bound: bool
    """Starting the kernels takes longer than running them."""

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.compute_s + self.exposed_s


def step_time(job: Job, engine: Engine, cluster: Cluster) -> StepTime:
    """One step; the busiest GPU computes ceil(V / n) of the V micro-batches.

    ddp and ZeRO 0 and 1 sum gradients once a step, after the last micro-batch. ZeRO-2 and 3 share them out in each
    micro-batch, FSDP2 in the last; FSDP2 and ZeRO-3 gather the weights for every forward and every backward pass. What
    travels beside computation is hidden, except for a layer's part at the edge.
    """
    num_parameters, rounds = job.model.num_parameters, job.rounds(cluster.num_gpus)
    weights, gradients, _ = engine.state_bytes()
    running_s, dispatching_s = micro_batch_s(job, cluster.gpu), _dispatch_s(job)
    one_s = max(running_s, dispatching_s)
    shares = cluster.num_gpus if engine.stage >= 1 else 1
    update_s = num_parameters / shares * UPDATE_BYTES / (1e9 * cluster.gpu.memory_gb_per_s)
    scatter_s = cluster.all_gather_s(num_parameters * min(gradients, job.reduce_bytes))
    if engine.stage == 3:
        gathers_s = 2 * cluster.all_gather_s(num_parameters * job.element_bytes)
        last_s = _exposed(gathers_s + scatter_s, one_s, job)
        exposed_s = last_s + (rounds - 1) * (last_s if engine.reduces_each else _exposed(gathers_s, one_s, job))
    elif engine.stage == 0:
        exposed_s = _exposed(2 * scatter_s, one_s * 2 / 3, job) if job.overlap and engine is DDP else 2 * scatter_s
    else:
        gather_s = cluster.all_gather_s(num_parameters * weights)
        exposed_s = gather_s + (rounds * _exposed(scatter_s, one_s * 2 / 3, job) if engine.reduces_each else scatter_s)
    return StepTime(rounds * one_s + update_s, exposed_s, dispatching_s > running_s)


def micro_batch_s(job: Job, gpu: Gpu) -> float:
    """Seconds in which a GPU runs the kernels of one micro-batch, forward and backward.

    A roofline (Williams et al. 2009): each product takes the longer of its FLOPs and its bytes, which with a small hidden size
    K is the bytes (K = 512 has 256 FLOP per byte, an H100 could do 295). Between products, elementwise kernels move what
    autograd keeps. FLOPs add up to PaLM's 6 N + 12 L d T per token, a third more per layer with checkpointing.
    """
    model, tokens, width = job.model, job.tokens_per_micro_batch, job.element_bytes
    flops_per_s = ATTAINABLE * 1e12 * (gpu.bf16_tflops if width == 2 else gpu.fp32_tflops)
    bytes_per_s = 1e9 * gpu.memory_gb_per_s

    def product_s(k: int, n: int) -> float:
        size_bytes = width * (tokens * k + k * n + tokens * n)
        return max(2 * tokens * k * n / flops_per_s, size_bytes / bytes_per_s)

    hidden, kv_size, ffn = model.hidden_size, model.num_kv_heads * model.head_size, model.ffn_size
    products_s = 2 * product_s(hidden, hidden) + 2 * product_s(hidden, kv_size) + 3 * product_s(hidden, ffn)
    forward_s = products_s + 4 * tokens * job.row_tokens * hidden / flops_per_s
    passes = COMPILED_PASSES if job.compiled else PASSES
    elementwise_bytes = passes * tokens * layer_bytes_per_token(model, width)
    layer_s = (4 if job.checkpointing else 3) * forward_s + elementwise_bytes / bytes_per_s
    logits_bytes = tokens * model.vocab_size * (32 + 6 * width)
    head_s = 3 * product_s(hidden, model.vocab_size) + logits_bytes / bytes_per_s
    casts_s = CAST_BYTES * model.num_parameters / bytes_per_s if width == 2 else 0.0
    return model.num_layers * layer_s + head_s + casts_s


def _dispatch_s(job: Job) -> float:
    """Seconds in which the CPU starts the kernels of one micro-batch."""
    each = COMPILED_LAYER_OPERATIONS if job.compiled else LAYER_OPERATIONS
    if job.checkpointing:
        each = each * 4 // 3
    chunks = -(-job.tokens_per_micro_batch // LOSS_CHUNK)
    return DISPATCH_S * (each * job.model.num_layers + LOSS_OPERATIONS * chunks)


def _exposed(communication_s: float, compute_s: float, job: Job) -> float:
    """What is left of communication beside computation: at least one layer's part, which has nothing to hide behind."""
    return max(communication_s - compute_s, communication_s / job.model.num_layers)
