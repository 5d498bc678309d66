"""Memory of one GPU, by engine: ZeRO's table for the state, what autograd keeps for the activations. No torch."""

from dataclasses import dataclass

from trainer.config import ModelSection
from trainer.planning.job import Job

USABLE = 0.9
"""Share of a GPU's memory that tensors may fill: the rest is CUDA's context, communication buffers and fragmentation."""

LOSS_CHUNK = 1024
"""Positions whose logits exist at the same time (trainer.model.loss)."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How an engine lays out the state: what its GPUs share out, and when gradients travel.

    Stages as in ZeRO (arXiv 1910.02054): 1 shares out the optimizer's part, 2 gradients too, 3 weights too.
    """

    name: str
    stage: int
    has_masters: bool = False
    """The optimizer's part holds a second fp32 copy of the weights, as DeepSpeed's does."""
    reduces_each: bool = False
    """Gradients are shared out after each micro-batch; else once a step, and whole on each GPU until then."""

    def state_bytes(self) -> tuple[int, int, int]:
        """Bytes per parameter for weights, gradients and AdamW: all fp32, weights are cast for products (ZeRO, section 3.1)."""
        return 4, 4, 12 if self.has_masters else 8


DDP = Engine("ddp", 0)
FSDP = Engine("fsdp", 3)
ZERO = tuple(Engine(f"deepspeed ZeRO-{stage}", stage, has_masters=True, reduces_each=stage >= 2) for stage in range(4))
ENGINES = (DDP, FSDP, *ZERO)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU."""

    weights_and_gradients: float
    """With the copies in which products are computed."""
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights_and_gradients + self.optimizer + self.activations


def memory_of(job: Job, engine: Engine, num_gpus: int) -> Memory:
    """The peak, at the end of the last forward pass of a step."""
    num_parameters, width = job.model.num_parameters, job.element_bytes
    weights, gradients, optimizer = engine.state_bytes()
    by_stage = [num_gpus if engine.stage >= stage else 1 for stage in (1, 2, 3)]
    whole_gradients = not engine.reduces_each and job.rounds(num_gpus) > 1
    state = num_parameters * (weights / by_stage[2] + gradients / (1 if whole_gradients else by_stage[1]))
    if engine.stage == 3:
        # two units at a time, one in use and one on its way, and the gradient of one before it is shared out
        state += largest_unit(job.model) * (2 * width + gradients)
    elif weights > width:
        state += num_parameters * width
    return Memory(state, num_parameters * optimizer / by_stage[0], activation_bytes(job))


def activation_bytes(job: Job) -> float:
    """What the backward pass needs of a micro-batch, the loss included.

    Korthikanti et al. (arXiv 2205.05198) count 34 s b h bytes for a layer of GPT-3 and 5 a s^2 b for its attention's scores,
    which fused attention never stores. `layer_bytes_per_token` is that sum for our layers. With checkpointing a layer keeps
    its input, and one layer at a time all of it.
    """
    model, tokens = job.model, job.tokens_per_micro_batch
    layer = layer_bytes_per_token(model, job.element_bytes)
    if job.checkpointing:
        layers = model.num_layers * 4 * model.hidden_size + layer
    else:
        layers = model.num_layers * layer
    # embedding's output and its gradient, input of the last norm twice, the loss's input and its gradient: float32
    ends = 6 * 4 * model.hidden_size
    # logits of a chunk in fp32 and in the products' precision, the gradient of the head
    loss = min(tokens, LOSS_CHUNK) * model.vocab_size * (4 + 2 * job.element_bytes) + 4 * model.vocab_size * model.hidden_size
    return float(tokens * (layers + ends) + loss)


def layer_bytes_per_token(model: ModelSection, element_bytes: int) -> int:
    """What autograd keeps of one layer for one position, equal to a count of its saved tensors (tests/unit/test_planning.py).

    Per unit of hidden size: 16 bytes for the two norms (input and normalised, fp32), and in the products' precision the
    input of q, k and v, that of gate and up, the rotated queries and the attention's output. Then keys and values;
    gate, its SiLU, up and their product; two numbers a norm and one a head in fp32.
    """
    kv_size = model.num_kv_heads * model.head_size
    hidden = model.hidden_size * (16 + 4 * element_bytes)
    return hidden + (2 * kv_size + 4 * model.ffn_size) * element_bytes + 4 * (model.num_heads + 2)


def largest_unit(model: ModelSection) -> int:
    """Parameters of the largest part that FSDP and ZeRO-3 gather at once: a block, or the embedding."""
    embedding = model.vocab_size * model.hidden_size
    return max(embedding, (model.num_parameters - embedding - model.hidden_size) // model.num_layers)
