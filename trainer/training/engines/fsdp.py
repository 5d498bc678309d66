"""FSDP2: weights, gradients and optimizer state lie in rows over the processes; PyTorch's fully_shard fetches each block's
weights for its turn. Gradients are summed in the last micro-batch of a step.

In bf16 a block's matrices travel and multiply in bf16, and nothing else is rounded: the residual stream, the rotary tables,
norms and the embedding stay in fp32, as autocast leaves them in the other engines. One group of fully_shard has one type, so
every process keeps norms whole, and their gradients travel with the counts: less than a thousandth of a model's weights.

Every forward and backward pass is collective, so all processes run equally many: see `Engine.in_lockstep`.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE
from trainer.config_training import TrainingSection
from trainer.model.gpt import GPT
from trainer.training.batches import Batch
from trainer.training.engines.protocol import Gate, Pending, Share, figures_of, state_shapes
from trainer.training.optimizers.muon import RowSharded, row_counts
from trainer.training.optimizers.update import Rates, Update
from trainer.world import World


class FullySharded:
    """An Engine whose processes each hold some rows of every parameter. Needs a process group, also of one process."""

    in_lockstep = True

    def __init__(
        self,
        module: nn.Module,
        model: GPT,
        config: TrainingSection,
        world: World,
        device: torch.device,
        matmul_dtype: torch.dtype = torch.float32,
        reshard_after_forward: bool = True,
    ) -> None:
        """`module` makes the loss of a batch and holds `model`, whose parameters are trained."""
        self._module, self._config, self._world, self._device = module, config, world, device
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._mesh = init_device_mesh(device.type, (world.size,))
        sums = torch.bfloat16 if config.gradient_dtype == "bf16" else torch.float32
        rounded = None if matmul_dtype == torch.float32 else matmul_dtype
        vectors = {parameter for parameter in module.parameters() if parameter.dim() == 1}
        shard = partial(fully_shard, mesh=self._mesh, ignored_params=vectors)
        for block in model.layers:
            policy = MixedPrecisionPolicy(param_dtype=rounded, reduce_dtype=sums, cast_forward_inputs=False)
            shard(block, mp_policy=policy, reshard_after_forward=reshard_after_forward)
        self._root: FSDPModule = shard(module, mp_policy=MixedPrecisionPolicy(reduce_dtype=sums, cast_forward_inputs=False))
        for part in module.modules():
            if isinstance(part, FSDPModule):
                # plain sums: the division by the step's targets comes once, at the end
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        self._parameters = {name: each for name, each in model.named_parameters() if name in self._shapes}
        self._weights = {name: _local(parameter.detach()) for name, parameter in self._parameters.items()}
        self._vectors = [name for name, parameter in self._parameters.items() if parameter in vectors]
        sharing = partial(RowSharded, rank=world.rank, world_size=world.size)
        self._update = Update(self._weights, self._shapes, config.optimizer, sharing, matmul_dtype)
        self._gate = Gate(config.clip_norm, device)

    def start_step(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self._module(batch)
        return loss

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._root.set_requires_gradient_sync(last)
        loss.backward()

    def finish_step(self, share: Share, rates: Rates) -> Pending:
        gradients = {name: _local(parameter.grad) for name, parameter in self._parameters.items()}
        rows = [gradient for name, gradient in gradients.items() if name not in self._vectors]
        squares = torch.stack(torch._foreach_norm(rows)).square().sum()
        counts = torch.cat([figures_of(share, self._device), squares.view(1)])
        vectors = [gradients[name] for name in self._vectors]
        summed = torch.cat([counts, *vectors])
        distributed.all_reduce(summed)
        counts, flat = summed.split([len(counts), len(summed) - len(counts)])
        gradients |= zip(self._vectors, flat.split([len(vector) for vector in vectors]), strict=True)
        factor, move, pending = self._gate.open(counts[:-1], counts[-1] + flat.square().sum())
        self._update.apply(gradients, rates, factor, move)
        return pending

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, weight in self._weights.items():
            yield MODEL_FILE, name, self._whole(name, weight)
        for state, tensor in self._update.tensors().items():
            yield OPTIMIZER_FILE, state, self._whole(_parameter_of(state), tensor)

    def shapes(self) -> dict[str, dict[str, torch.Size]]:
        return state_shapes(self._shapes, self._config.optimizer)

    def load(self, name: str, whole: Tensor) -> None:
        target = self._update.tensors()[name]
        if _parameter_of(name) in self._vectors:
            target.copy_(whole)
            return
        target.copy_(whole.split(row_counts(whole.shape[0], self._world.size))[self._world.rank])

    def set_applied_steps(self, count: int) -> None:
        self._update.set_applied_steps(count)

    def close(self) -> None:
        """Nothing is held that Python does not let go of."""

    def _whole(self, parameter: str, part: Tensor) -> Tensor:
        """Collective: the whole of a tensor that is laid out like a parameter."""
        if parameter in self._vectors:
            return part
        shape = self._shapes[parameter]
        stride = torch.empty(shape, device="meta").stride()
        sharded = DTensor.from_local(part, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
        return sharded.full_tensor()


def _local(tensor: Tensor | None) -> Tensor:
    """This process's rows, or a vector; they share their memory with the parameter."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    if tensor is None or tensor.dim() != 1:
        raise TypeError(f"fully_shard left a {type(tensor).__name__} where a DTensor belongs")
    return tensor


def _parameter_of(state: str) -> str:
    """`exp_avg.NAME` is a state of parameter NAME."""
    return state.partition(".")[2]
