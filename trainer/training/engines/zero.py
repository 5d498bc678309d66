"""DeepSpeed's ZeRO (arXiv 1910.02054), stages 0 to 3, behind the same protocol; the only file that imports deepspeed.

DeepSpeed's own config follows from ours (`deepspeed_config`). Weights stay float32 and products take the run's precision by
autocast inside the module, as with the other engines. Gradients arrive as a mean over the processes, so each loss is scaled by
their number; the division by the step's targets goes through the loss scale. Whether a step moves the weights is DeepSpeed's
own verdict on the norm.

Moments by parameter name are reached by DeepSpeed's public accessors; where they are made before the first step, so that a
checkpoint can be loaded into them, names of its internals are used, in `_parts_of_optimizer` alone.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, distributed, nn

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE
from trainer.config_engine import DeepSpeedSection
from trainer.config_training import OptimizerSection, TrainingSection
from trainer.errors import ConfigError
from trainer.extras import missing
from trainer.training.batches import Batch
from trainer.training.engines.protocol import Pending, Share, figures_of, in_order, state_shapes
from trainer.training.optimizers.update import EXP_AVG, EXP_AVG_SQ, Rates, decays
from trainer.world import World

_BUCKET_NUMBERS = 25_000_000
"""Numbers that travel at once: 100 MB. DeepSpeed's default takes 2 GB of memory for them."""


class Zero:
    """An Engine over DeepSpeed. Needs a process group, also of one process."""

    in_lockstep = True

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        config: TrainingSection,
        section: DeepSpeedSection,
        world: World,
        device: torch.device,
    ) -> None:
        """`module` makes the loss of a batch and holds `model`. Raises MissingDependencyError or ConfigError."""
        self._deepspeed = _imported(device)
        self._config, self._world, self._device, self._stage = config, world, device, section.zero_stage
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        optimizer = config.optimizer
        self._adamw = torch.optim.AdamW(
            _groups(self._parameters, optimizer), lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps, fused=True
        )
        try:
            self._engine, *_ = self._deepspeed.initialize(
                model=module,
                optimizer=self._adamw,
                config=deepspeed_config(config, section),
                dist_init_required=False,
            )
        except (ValueError, AssertionError, self._deepspeed.DeepSpeedConfigError) as error:
            raise ConfigError(f"engine.deepspeed.extra: DeepSpeed refuses its config: {error}") from None
        self._make_moments()

    def start_step(self) -> None:
        """DeepSpeed forgets gradients when it has applied them."""

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self._engine(batch)
        return loss

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed divides by the number of processes: what is wanted is the sum
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def finish_step(self, share: Share, rates: Rates) -> Pending:
        figures = figures_of(share, self._device)
        distributed.all_reduce(figures)
        targets = figures[1].item()
        for group, decay in zip(self._engine.optimizer.param_groups, (rates.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = rates.lr, decay
        norm, applied = self._step_whole(targets) if self._stage == 0 else self._step_sharded(targets)
        return Pending(in_order(figures.cpu(), torch.tensor(norm), torch.tensor(float(applied))))

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        utils = self._deepspeed.utils
        for name, parameter in self._parameters.items():
            yield MODEL_FILE, name, parameter if self._stage == 0 else utils.safe_get_full_fp32_param(parameter)
        for name, parameter in self._parameters.items():
            for kind in (EXP_AVG, EXP_AVG_SQ):
                if self._stage == 0:
                    yield OPTIMIZER_FILE, f"{kind}.{name}", self._adamw.state[parameter][kind]
                else:
                    yield OPTIMIZER_FILE, f"{kind}.{name}", utils.safe_get_full_optimizer_state(parameter, kind)

    def shapes(self) -> dict[str, dict[str, torch.Size]]:
        return state_shapes(self._shapes, self._config.optimizer)

    def load(self, name: str, whole: Tensor) -> None:
        kind, _, parameter_name = name.partition(".")
        parameter = self._parameters[parameter_name]
        if self._stage == 0:
            self._adamw.state[parameter][kind].copy_(whole)
        else:
            self._deepspeed.utils.safe_set_full_optimizer_state(parameter, whole.to(self._device), kind)

    def set_applied_steps(self, count: int) -> None:
        for state in self._adamw.state.values():
            state["step"].fill_(float(count))

    def close(self) -> None:
        self._engine.destroy()

    def _step_whole(self, targets: float) -> tuple[float, bool]:
        """Stage 0 clips, but neither scales nor looks for numbers that are not finite: that is done here."""
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        torch._foreach_div_(gradients, max(1.0, targets))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item()
        if not norm < float("inf"):
            self._engine.zero_grad()
            return norm, False
        self._engine.step()
        return norm, True

    def _step_sharded(self, targets: float) -> tuple[float, bool]:
        optimizer = self._engine.optimizer
        optimizer.override_loss_scale(max(1.0, targets))
        self._engine.step()
        optimizer.override_loss_scale(1.0)
        return float(self._engine.get_global_grad_norm()), bool(self._engine.was_step_applied())

    def _make_moments(self) -> None:
        """Moments of zero for what this process updates, which DeepSpeed would make in its first step only."""
        for part in _parts_of_optimizer(self._engine.optimizer, self._stage, list(self._parameters.values())):
            step = torch.zeros((), dtype=torch.float32, device=part.device)
            self._adamw.state[part] = {"step": step, EXP_AVG: torch.zeros_like(part), EXP_AVG_SQ: torch.zeros_like(part)}
        if hasattr(self._engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


def end_group() -> None:
    """Collective: end the process group, torch's with it: what DeepSpeed keeps of one would break engines of the next."""
    from deepspeed import comm

    if comm.is_initialized():
        comm.destroy_process_group()


def deepspeed_config(config: TrainingSection, section: DeepSpeedSection) -> dict[str, Any]:
    """DeepSpeed's config for ours. Batch sizes are ours alone: DeepSpeed is told when a step ends."""
    defaults = {"zero_optimization": {"reduce_bucket_size": _BUCKET_NUMBERS, "allgather_bucket_size": _BUCKET_NUMBERS}}
    zero: dict[str, Any] = {"stage": section.zero_stage}
    if section.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if section.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if section.zero_stage == 3:
        zero["memory_efficient_linear"] = False  # it replaces torch's linear function for the whole process
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip_norm or 0.0,
        "zero_optimization": zero,
        # the optimizer is torch's AdamW, also where its state is offloaded: DeepSpeed's own would be compiled at first use
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.gradient_dtype == "bf16":
        ours["communication_data_type"] = "bf16"
    return _merged(_merged(defaults, section.extra), ours)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _parts_of_optimizer(optimizer: Any, stage: int, parameters: list[nn.Parameter]) -> list[Tensor]:
    """The tensors that AdamW updates on this process: parameters in stage 0, else flat parts of parameter groups."""
    if stage == 0:
        return list(parameters)
    parts: list[Tensor] = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    return parts


def _imported(device: torch.device) -> ModuleType:
    """DeepSpeed, quiet, on the process group that is there. Raises MissingDependencyError if it is not there."""
    if device.type == "cpu":
        # read once, at import; without it DeepSpeed looks for GPUs
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it even in a group of one
    try:
        import deepspeed
        from deepspeed import comm
        from deepspeed.utils import logger
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "deepspeed":
            raise
        raise missing("deepspeed", "engine.kind deepspeed") from None
    logger.setLevel(logging.ERROR)
    if device.type == "cpu":
        # a reduction through shared memory that would be compiled for minutes at first use; gloo does the same
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not comm.is_initialized():
        comm.init_distributed(dist_backend=distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    module: ModuleType = deepspeed
    return module


def _groups(names: Mapping[str, Tensor], config: OptimizerSection) -> list[dict[str, object]]:
    """What decays, and what does not."""
    decayed = [tensor for name, tensor in names.items() if decays(name, tensor.dim(), config)]
    plain = [tensor for name, tensor in names.items() if not decays(name, tensor.dim(), config)]
    return [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
