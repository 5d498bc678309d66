"""Data parallelism: every process holds the whole model; gradients are summed once per step.

All gradients live in one flat float32 buffer whose tail carries the step's counts and votes, so that a step has exactly one
reduction, whatever the number of micro-batches. With `bucket_mb` that reduction is cut into parts which start, in one fixed
order, as soon as the last micro-batch has made their gradients; each number still travels once.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, distributed, nn

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE
from trainer.config_training import TrainingSection
from trainer.training.batches import Batch
from trainer.training.engines.protocol import NUM_SUMS, Gate, Pending, Share, figures_of, state_shapes
from trainer.training.objective import Objective
from trainer.training.optimizers.muon import Replicated
from trainer.training.optimizers.update import Rates, Update
from trainer.world import World


class DataParallel:
    """An Engine whose processes each hold everything."""

    in_lockstep = False

    def __init__(
        self,
        module: Objective,
        model: nn.Module,
        config: TrainingSection,
        world: World,
        device: torch.device,
        matmul_dtype: torch.dtype = torch.float32,
        bucket_mb: float | None = None,
    ) -> None:
        """`module` makes the loss of a batch and holds `model`, whose parameters are trained."""
        self._module, self._config, self._world, self._device = module, config, world, device
        # backward makes the gradients of the last layers first, so these stand first and can leave first
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._parameters = dict(reversed(named))
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        num_figures = NUM_SUMS + len(module.figures)
        self._flat = torch.zeros(sum(sizes) + num_figures, device=device)
        *views, self._tail = self._flat.split([*sizes, num_figures])
        self._all_gradients = self._flat[: sum(sizes)]
        for parameter, view in zip(self._parameters.values(), views, strict=True):
            parameter.grad = view.view_as(parameter)
        self._gradients = {name: parameter.grad for name, parameter in self._parameters.items() if parameter.grad is not None}
        self._shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        weights = {name: parameter.detach() for name, parameter in self._parameters.items()}
        sharing = partial(Replicated, rank=world.rank, world_size=world.size)
        self._update = Update(weights, self._shapes, config.optimizer, sharing, matmul_dtype)
        self._gate = Gate(config.clip_norm, device)
        self._reduction = _Reduction(self._flat, num_figures, config.gradient_dtype == "bf16", world.size)
        if bucket_mb is not None and world.size > 1:
            self._reduction.cut(list(self._parameters.values()), bucket_mb)

    def start_step(self) -> None:
        self._flat.zero_()
        self._reduction.start()

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self._module(batch)
        return loss

    def backward(self, loss: Tensor, *, last: bool) -> None:
        if last:
            self._reduction.gradients_are_final()
        loss.backward()

    def finish_step(self, share: Share, rates: Rates) -> Pending:
        self._tail.copy_(figures_of(share, self._device))
        self._reduction.finish()
        squared_norm = torch.linalg.vector_norm(self._all_gradients).square()
        factor, move, pending = self._gate.open(self._tail, squared_norm)
        self._update.apply(self._gradients, rates, factor, move)
        return pending

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, parameter in self._parameters.items():
            yield MODEL_FILE, name, parameter.detach()
        for name, tensor in self._update.tensors().items():
            yield OPTIMIZER_FILE, name, tensor

    def shapes(self) -> dict[str, dict[str, torch.Size]]:
        return state_shapes(self._shapes, self._config.optimizer)

    def load(self, name: str, whole: Tensor) -> None:
        self._update.tensors()[name].copy_(whole)

    def set_applied_steps(self, count: int) -> None:
        self._update.set_applied_steps(count)

    def close(self) -> None:
        """Nothing is held that Python does not let go of."""


class _Reduction:
    """Sums a flat buffer over all processes, whole or in parts that leave one after another."""

    def __init__(self, flat: Tensor, num_exact: int, compressed: bool, world_size: int) -> None:
        """The last `num_exact` numbers always travel as float32; the others as bf16 if `compressed`."""
        self._flat, self._compressed, self._world_size = flat, compressed, world_size
        cut = len(flat) - num_exact
        self._parts = [flat[:cut], flat[cut:]] if compressed else [flat]
        self._awaited = [0] * len(self._parts)
        self._missing: list[int] = []
        self._started: list[tuple[Tensor, Tensor, distributed.Work | None]] = []
        self._final = False

    def cut(self, parameters: list[nn.Parameter], bucket_mb: float) -> None:
        """Let parts of about this size start on their own; `parameters` in the buffer's order."""
        borders, awaited, at, of_part = [0], [0], 0, []
        for parameter in parameters:
            of_part.append(len(borders) - 1)
            awaited[-1] += 1
            at += parameter.numel()
            if (at - borders[-1]) * self._flat.element_size() >= bucket_mb * 1e6 and parameter is not parameters[-1]:
                borders.append(at)
                awaited.append(0)
        exact = [self._flat[at:]] if self._compressed else []
        ends = [*borders[1:], at if self._compressed else len(self._flat)]
        self._parts = [self._flat[start:end] for start, end in zip(borders, ends, strict=True)] + exact
        # the part with the counts is complete only at the end
        self._awaited = [*awaited, 1] if exact else [*awaited[:-1], awaited[-1] + 1]
        for parameter, part in zip(parameters, of_part, strict=True):
            parameter.register_post_accumulate_grad_hook(partial(self._note, part))

    def start(self) -> None:
        """A step begins."""
        self._missing, self._started, self._final = list(self._awaited), [], False

    def gradients_are_final(self) -> None:
        """What is accumulated from here on is the step's last."""
        self._final = True

    def finish(self) -> None:
        """Collective: the sums are in the buffer when the device gets here."""
        if self._world_size == 1:
            return
        while len(self._started) < len(self._parts):
            self._start_next()
        for part, travelling, work in self._started:
            if work is not None:
                work.wait()
            if travelling is not part:
                part.copy_(travelling)

    def _note(self, part: int, _: Tensor) -> None:
        if not self._final:
            return
        self._missing[part] -= 1
        while len(self._started) < len(self._parts) and self._missing[len(self._started)] == 0:
            self._start_next()

    def _start_next(self) -> None:
        part = self._parts[len(self._started)]
        exact = part is self._parts[-1] or not self._compressed
        travelling = part if exact else part.bfloat16()
        self._started.append((part, travelling, distributed.all_reduce(travelling, async_op=True)))
