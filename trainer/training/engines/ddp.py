"""Data parallelism: every process holds the whole model; gradients are summed once per step.

All gradients live in one flat float32 buffer whose tail carries the step's counts and votes, so that a step has exactly one
collective, whatever the number of micro-batches.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor, distributed, nn

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE
from trainer.config import OptimizerSection
from trainer.world import World


@dataclass(frozen=True, slots=True)
class StepSums:
    """What the processes tell each other in a step's one reduction; sums over all of them."""

    loss: float = 0.0
    """Nats of all targets."""
    targets: float = 0.0
    """Target tokens; below 2**24, which the config holds to, so exact in float32."""
    stop: float = 0.0
    """Processes that were asked to stop."""
    aborted: float = 0.0
    """Processes that left off amid the step because of it: the step is undone."""
    save: float = 0.0
    """Processes for which a checkpoint is due by the clock."""


class DataParallel:
    """Gradients, optimizer and their state of one model, equal on all processes."""

    def __init__(self, model: nn.Module, config: OptimizerSection, world: World, device: torch.device) -> None:
        self._world = world
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        self._flat = torch.zeros(sum(sizes) + len(fields(StepSums)), device=device)
        *views, self._tail = self._flat.split([*sizes, len(fields(StepSums))])
        self._gradients = self._flat[: sum(sizes)]
        for parameter, view in zip(self._parameters.values(), views, strict=True):
            parameter.grad = view.view_as(parameter)
        self._optimizer = _adamw(self._parameters, config, device)

    def start_step(self) -> None:
        """Forget the last step's gradients."""
        self._flat.zero_()

    def reduce(self, sums: StepSums) -> StepSums:
        """Collective, once per step: sum gradients and counts over all processes."""
        self._tail.copy_(torch.tensor(astuple(sums)))
        if self._world.size > 1:
            distributed.all_reduce(self._flat)
        return StepSums(*self._tail.tolist())

    def apply(self, lr: float, num_targets: float, clip_norm: float | None) -> float:
        """Turn summed gradients into means per target, clip them, update the weights; returns the norm before clipping.

        A norm that is not finite changes nothing. Gradients are equal on all processes, so they all decide alike.
        """
        norm = torch.linalg.vector_norm(self._gradients).item() / num_targets
        if not norm < float("inf"):
            return norm
        scale = 1.0 / num_targets
        if clip_norm is not None and norm > clip_norm:
            scale *= clip_norm / norm
        self._gradients.mul_(scale)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        return norm

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The state by file and name, as a checkpoint holds it; the tensors themselves, not copies."""
        moments = {
            f"{moment}.{name}": self._optimizer.state[parameter][moment]
            for moment in ("exp_avg", "exp_avg_sq")
            for name, parameter in self._parameters.items()
        }
        return {MODEL_FILE: dict(self._parameters), OPTIMIZER_FILE: moments}

    def set_applied_steps(self, count: int) -> None:
        """Tell AdamW how many updates its moments have seen, after they were loaded."""
        for parameter in self._parameters.values():
            self._optimizer.state[parameter]["step"].fill_(float(count))


def _adamw(parameters: Mapping[str, nn.Parameter], config: OptimizerSection, device: torch.device) -> torch.optim.AdamW:
    """AdamW with its state made at once: matrices decay, norms never, the embedding as configured."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        is_matrix = parameter.dim() >= 2 and (config.decay_embedding or "embed_tokens" not in name)
        (decayed if is_matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")  # one pass over memory: a third of the time on CPU (docs/lab.md)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
    for parameter in parameters.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
