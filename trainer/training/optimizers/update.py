"""The update of a model's weights: AdamW, or Muon for the blocks' matrices with AdamW for the rest.

It works on this process's part of every weight, which an engine hands over: whole tensors, or rows of them. Nothing here waits
for the device: the factor of the gradients and the verdict whether to move at all are tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config_training import OptimizerSection
from trainer.training.optimizers.muon import Sharing, update_scale

EXP_AVG, EXP_AVG_SQ, MOMENTUM = "exp_avg", "exp_avg_sq", "momentum"


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step's place in the schedule decides."""

    lr: float
    weight_decay: float


def goes_by_muon(name: str, num_dims: int, config: OptimizerSection) -> bool:
    """Whether a parameter is a matrix that Muon moves: those of the blocks, not the embedding, whose rows are looked up."""
    return config.kind == "muon" and num_dims == 2 and "embed_tokens" not in name


def decays(name: str, num_dims: int, config: OptimizerSection) -> bool:
    """Whether a parameter decays: matrices do, norms never, the embedding as configured."""
    return num_dims >= 2 and (config.decay_embedding or "embed_tokens" not in name)


def state_names(name: str, num_dims: int, config: OptimizerSection) -> list[str]:
    """Names of the optimizer tensors of a parameter, as a checkpoint holds them; each has the parameter's shape."""
    kinds = (MOMENTUM,) if goes_by_muon(name, num_dims, config) else (EXP_AVG, EXP_AVG_SQ)
    return [f"{kind}.{name}" for kind in kinds]


def adamw_groups(names: Mapping[str, Tensor], config: OptimizerSection) -> list[dict[str, object]]:
    """AdamW's two groups: what decays, and what does not."""
    decayed = [tensor for name, tensor in names.items() if decays(name, tensor.dim(), config)]
    plain = [tensor for name, tensor in names.items() if not decays(name, tensor.dim(), config)]
    return [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]


class Update:
    """Weights, optimizer state and how they move, of this process's part of a model."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        config: OptimizerSection,
        make_sharing: Callable[[Sequence[torch.Size]], Sharing],
        dtype: torch.dtype,
    ) -> None:
        """`weights` share their memory with the model; `shapes` are those of the whole parameters.

        `make_sharing` is given the shapes of Muon's matrices, and `dtype` is that of Muon's iteration.
        """
        self._config, self._dtype = config, dtype
        self._matrices = {name: w for name, w in weights.items() if goes_by_muon(name, w.dim(), config)}
        self._sharing = make_sharing([shapes[name] for name in self._matrices]) if self._matrices else None
        self._scales = {name: update_scale(shapes[name]) for name in self._matrices}
        self._momenta = {name: torch.zeros_like(weight) for name, weight in self._matrices.items()}
        self._others = {name: w for name, w in weights.items() if name not in self._matrices}
        self._steps: list[Tensor] = []
        self._adamw = self._make_adamw()

    def apply(self, gradients: Mapping[str, Tensor], rates: Rates, scale: Tensor, move: Tensor) -> None:
        """Collective with Muon: move the weights by `scale` x gradient where `move`, a boolean scalar, is true."""
        for name, weight in self._others.items():
            weight.grad = gradients[name]
        for group, decay in zip(self._adamw.param_groups, (rates.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = rates.lr, decay
        # the fused kernel divides gradients by one and leaves everything alone if the other is not zero
        self._adamw.grad_scale = 1.0 / scale  # type: ignore[attr-defined]
        self._adamw.found_inf = (~move).float()  # type: ignore[attr-defined]
        self._adamw.step()
        if self._sharing is not None:
            self._apply_muon(self._sharing, gradients, rates, scale, move)

    def tensors(self) -> dict[str, Tensor]:
        """Optimizer state by its name in a checkpoint; the tensors themselves."""
        momenta = {f"{MOMENTUM}.{name}": momentum for name, momentum in self._momenta.items()}
        moments = {
            f"{kind}.{name}": self._adamw.state[weight][kind]
            for name, weight in self._others.items()
            for kind in (EXP_AVG, EXP_AVG_SQ)
        }
        return moments | momenta

    def set_applied_steps(self, count: int) -> None:
        """Tell AdamW how many updates its moments have seen, after they were loaded."""
        for step in self._steps:
            step.fill_(float(count))

    @torch.no_grad()
    def _apply_muon(self, sharing: Sharing, gradients: Mapping[str, Tensor], rates: Rates, scale: Tensor, move: Tensor) -> None:
        names = list(self._matrices)
        mu = self._config.momentum
        zero = torch.zeros((), device=scale.device)
        # a gradient that is not finite must not get into the momentum, not even times zero
        updates = [torch.where(move, gradients[name] * scale, zero) for name in names]
        momenta = [self._momenta[name] for name in names]
        torch._foreach_mul_(momenta, torch.where(move, mu, 1.0))
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(updates, momenta, alpha=mu)
        directions = sharing.orthogonalise(updates, self._dtype)
        weights = [self._matrices[name] for name in names]
        torch._foreach_mul_(weights, torch.where(move, 1.0 - rates.lr * rates.weight_decay, 1.0))
        for name, weight, direction in zip(names, weights, directions, strict=True):
            weight.add_(torch.where(move, direction.to(weight.dtype), zero), alpha=-rates.lr * self._scales[name])

    def _make_adamw(self) -> torch.optim.AdamW:
        config = self._config
        device = next(iter(self._others.values())).device
        groups = adamw_groups(self._others, config)
        # one pass over memory: a third of the time on CPU (docs/lab.md); it also knows how to skip without asking the host
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
        for weight in self._others.values():
            step = torch.zeros((), dtype=torch.float32, device=device)
            optimizer.state[weight] = {"step": step, EXP_AVG: torch.zeros_like(weight), EXP_AVG_SQ: torch.zeros_like(weight)}
            self._steps.append(step)
        return optimizer
