"""What the step loop needs of an engine, and what a step tells all processes.

An engine lays out weights, gradients and optimizer state over the processes. The loop hands it batches and gets losses; the
numbers do not depend on the engine.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE
from trainer.config_training import OptimizerSection
from trainer.training.batches import Batch
from trainer.training.optimizers.update import Rates, state_names


@dataclass(frozen=True, slots=True)
class Share:
    """What one process brings to a step besides gradients."""

    loss: Tensor
    """Nats of its targets, a float32 scalar on the device."""
    targets: int
    stop: bool = False
    """This process was asked to stop."""
    aborted: bool = False
    """It left off amid the step because of that: the step is undone on all."""
    save: bool = False
    """A checkpoint is due by this process's clock."""
    figures: Tensor | None = None
    """What the objective noted of its micro-batches, summed; float32 on the device."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step as all processes know it: sums over all of them, and what became of the update."""

    loss: float
    """Nats of all targets."""
    targets: float
    """Target tokens; below 2**24, which the config holds to, so exact in float32."""
    stop: float
    """Processes that were asked to stop."""
    aborted: float
    """Processes that left off amid the step: it counts as never begun."""
    save: float
    """Processes for which a checkpoint is due."""
    norm: float
    """L2 norm of the mean gradient before clipping."""
    applied: float
    """1 if the weights moved; 0 if loss or gradient were not finite."""
    figures: tuple[float, ...] = ()
    """What the objective noted, summed over the processes."""


NUM_SUMS = 5
"""The first fields of an Outcome, which are summed over the processes; behind them come the objective's figures."""


class Pending:
    """An outcome that may still be on its way from the device. A device-to-host copy runs behind the step's own work."""

    def __init__(self, figures: Tensor) -> None:
        """`figures` are the fields of an Outcome in their order, float32."""
        self._event: torch.cuda.Event | None = None
        if figures.device.type == "cuda":
            self._figures = torch.empty(len(figures), pin_memory=True)
            self._figures.copy_(figures, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._figures = figures.clone()

    def read(self) -> Outcome:
        """The outcome, once the device has got there."""
        if self._event is not None:
            self._event.synchronize()
        known = self._figures.tolist()
        loss, targets, stop, aborted, save, norm, applied, *figures = known
        return Outcome(loss, targets, stop, aborted, save, norm, applied, tuple(figures))


class Engine(Protocol):
    """Weights, gradients and optimizer state of one model over all processes."""

    in_lockstep: bool
    """Forward passes and `tensors` are collective: all processes run equally many, on empty batches where one has less work."""

    def start_step(self) -> None:
        """Forget the last step's gradients."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over a batch's targets; a scalar to differentiate where gradients are enabled."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients; `last` for this process's last one of the step."""
        ...

    def finish_step(self, share: Share, rates: Rates) -> Pending:
        """Collective: sum over all processes, divide by the step's targets, clip, move the weights.

        They do not move if a number is not finite or a process left off amid the step; after the latter they never move again.
        """
        ...

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Collective where `in_lockstep`: the whole state as (file, name, tensor) of a checkpoint, always in the same order.

        Whole tensors on the first process, one at a time; what the others get is of no use.
        """
        ...

    def shapes(self) -> dict[str, dict[str, torch.Size]]:
        """Shapes of the state's tensors by file and name."""
        ...

    def load(self, name: str, whole: Tensor) -> None:
        """Take over one whole tensor of a checkpoint's optimizer file, or this process's part of it.

        Weights are in the model before an engine lays it out.
        """
        ...

    def set_applied_steps(self, count: int) -> None:
        """After loading: how many updates the optimizer's state has seen."""
        ...

    def close(self) -> None:
        """Collective: no more steps will come."""
        ...


def figures_of(share: Share, device: torch.device) -> Tensor:
    """A share as the summed part of an Outcome, float32: five numbers and the objective's, without waiting for the device."""
    counts = torch.tensor([float(share.targets), float(share.stop), float(share.aborted), float(share.save)])
    if device.type == "cuda":
        counts = counts.pin_memory().to(device, non_blocking=True)
    noted = [] if share.figures is None else [share.figures]
    return torch.cat([share.loss.detach().view(1), counts.to(device), *noted])


def in_order(sums: Tensor, norm: Tensor, applied: Tensor) -> Tensor:
    """An Outcome's fields in their order."""
    return torch.cat([sums[:NUM_SUMS], norm.view(1), applied.view(1), sums[NUM_SUMS:]])


class Gate:
    """Decides on the device, from a step's sums, whether the weights move and by what factor of the gradient sum."""

    def __init__(self, clip_norm: float | None, device: torch.device) -> None:
        self._clip_norm = clip_norm
        self._halted = torch.zeros((), dtype=torch.bool, device=device)

    def open(self, sums: Tensor, squared_norm: Tensor) -> tuple[Tensor, Tensor, Pending]:
        """The factor, whether to move, and the outcome, for summed figures and the squared norm of the summed gradient."""
        loss, targets, aborted = sums[0], sums[1], sums[3]
        norm = squared_norm.sqrt() / targets
        # once a step was left off, later ones that are under way must not move the weights either
        self._halted |= aborted > 0
        move = torch.isfinite(loss) & torch.isfinite(norm) & (targets > 0) & ~self._halted
        factor = 1.0 / targets
        if self._clip_norm is not None:
            factor = torch.where(norm > self._clip_norm, factor * self._clip_norm / norm, factor)
        return factor, move, Pending(in_order(sums, norm, move.float()))


def state_shapes(parameters: Mapping[str, torch.Size], config: OptimizerSection) -> dict[str, dict[str, torch.Size]]:
    """Shapes of a checkpoint's tensors by file and name, for parameters of these shapes."""
    moments = {state: shape for name, shape in parameters.items() for state in state_names(name, len(shape), config)}
    return {MODEL_FILE: dict(parameters), OPTIMIZER_FILE: moments}


def drain(tensors: Iterator[tuple[str, str, Tensor]]) -> None:
    """Collective: take part in gathering a state that another process writes."""
    deque(tensors, maxlen=0)
