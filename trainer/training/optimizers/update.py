"""The update of a model's weights: AdamW, or Muon for the blocks' matrices with AdamW for the rest.

It works on this process's part of every weight, which an engine hands over: whole tensors, or rows of them. Nothing here waits
for the device: the factor of the gradients and the verdict whether to move at all are tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from trainer.config_training import OptimizerSection
from trainer.model.reward import HEAD
from trainer.training.optimizers.muon import Sharing, update_scale

EXP_AVG, EXP_AVG_SQ, MOMENTUM = "exp_avg", "exp_avg_sq", "momentum"


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step's place in the schedule decides."""

    lr: float
    weight_decay: float


_NO_HIDDEN_MATRICES = ("embed_tokens", HEAD)


def goes_by_muon(name: str, num_dims: int, config: OptimizerSection) -> bool:
    """Whether a parameter is a matrix that Muon moves: those of the blocks.

    Not the embedding, whose rows are looked up, nor the reward head, whose one row would move by the same length whatever its
    gradient.
    """
    return config.kind == "muon" and num_dims == 2 and not any(part in name for part in _NO_HIDDEN_MATRICES)


def decays(name: str, num_dims: int, config: OptimizerSection) -> bool:
    """Whether a parameter decays: matrices do, norms never, the embedding as configured."""
    return num_dims >= 2 and (config.decay_embedding or "embed_tokens" not in name)


def state_names(name: str, num_dims: int, config: OptimizerSection) -> list[str]:
    """Names of the optimizer tensors of a parameter, as a checkpoint holds them; each has the parameter's shape."""
    kinds = (MOMENTUM,) if goes_by_muon(name, num_dims, config) else (EXP_AVG, EXP_AVG_SQ)
    return [f"{kind}.{name}" for kind in kinds]


@dataclass(frozen=True, slots=True)
class _Moments:
    """What AdamW keeps of a parameter."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    """How many updates it has seen, a float32 scalar on the parameter's device."""

    @staticmethod
    def before(weight: Tensor) -> "_Moments":
        step = torch.zeros((), dtype=torch.float32, device=weight.device)
        return _Moments(torch.zeros_like(weight), torch.zeros_like(weight), step)


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
        others = {name: w for name, w in weights.items() if name not in self._matrices}
        self._moments = {name: _Moments.before(weight) for name, weight in others.items()}
        self._groups = [
            {name: w for name, w in others.items() if decays(name, w.dim(), config) is decayed} for decayed in (True, False)
        ]

    def apply(self, gradients: Mapping[str, Tensor], rates: Rates, scale: Tensor, move: Tensor) -> None:
        """Collective with Muon: move the weights by `scale` x gradient where `move`, a boolean scalar, is true."""
        for weights, weight_decay in zip(self._groups, (rates.weight_decay, 0.0), strict=True):
            self._apply_adamw(weights, gradients, rates.lr, weight_decay, scale, move)
        if self._sharing is not None:
            self._apply_muon(self._sharing, gradients, rates, scale, move)

    def tensors(self) -> dict[str, Tensor]:
        """Optimizer state by its name in a checkpoint; the tensors themselves."""
        momenta = {f"{MOMENTUM}.{name}": momentum for name, momentum in self._momenta.items()}
        averages = {f"{EXP_AVG}.{name}": moments.exp_avg for name, moments in self._moments.items()}
        squares = {f"{EXP_AVG_SQ}.{name}": moments.exp_avg_sq for name, moments in self._moments.items()}
        return averages | squares | momenta

    def set_applied_steps(self, count: int) -> None:
        """Tell AdamW how many updates its moments have seen, after they were loaded."""
        for moments in self._moments.values():
            moments.step.fill_(float(count))

    @torch.no_grad()
    def _apply_adamw(
        self,
        weights: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        lr: float,
        weight_decay: float,
        scale: Tensor,
        move: Tensor,
    ) -> None:
        moments = [self._moments[name] for name in weights]
        beta1, beta2 = self._config.betas
        # the function behind torch.optim.AdamW: the class imports torch's compiler, which takes longer than all else at a start
        adamw(
            list(weights.values()),
            [gradients[name] for name in weights],
            [each.exp_avg for each in moments],
            [each.exp_avg_sq for each in moments],
            [],
            [each.step for each in moments],
            # one pass over memory: a third of the time on CPU (docs/lab.md); it divides gradients by grad_scale, and leaves
            # everything alone where found_inf is not zero, without asking the host
            fused=True,
            grad_scale=1.0 / scale,
            found_inf=(~move).float(),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=weight_decay,
            eps=self._config.eps,
            maximize=False,
        )

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
