"""Speeds of the step loop: tokens per second, waiting for data, model FLOPs utilisation, time left."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from trainer.checkpoint.format import TrainingState
from trainer.events import StepsDone
from trainer.tokens.order import Order
from trainer.training.engines.protocol import Outcome
from trainer.training.objective import TOKENS


class Meter:
    """Adds up what happens between two reports. What a save holds up counts as part of a step, validation does not."""

    def __init__(self, order: Order, every_steps: int, flops_per_token: int, peak_tflops: float | None) -> None:
        self._order = order
        self._every_steps = every_steps
        self._flops_per_token = flops_per_token
        self._peak_tflops = peak_tflops
        self._finished_at = time.monotonic()
        self._clear()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The block reads a batch."""
        started = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - started

    def finish_step(self, state: TrainingState, outcome: Outcome, figures: Mapping[str, float], lr: float) -> None:
        """A step ended; its figures are those of all processes."""
        now = time.monotonic()
        self._duration_s += now - self._finished_at
        self._finished_at = now
        self._steps += 1
        self._loss += outcome.loss
        self._targets += outcome.targets
        self._tokens += figures.get(TOKENS, outcome.targets)
        for name, value in figures.items():
            self._figures[name] = self._figures.get(name, 0.0) + value
        self._state, self._lr, self._norm = state, lr, outcome.norm

    def leave_out_time_since_step(self) -> None:
        """What happened since the last step was not part of one."""
        self._finished_at = time.monotonic()

    def report_is_due(self, step: int) -> bool:
        """Whether enough steps have passed, or the last one has."""
        return step % self._every_steps == 0 or step == self._order.num_steps

    def report(self, told: Callable[[Mapping[str, float], float], dict[str, float]]) -> StepsDone:
        """The figures since the last report; `told` makes means of those that the objective noted."""
        step = self._state.step
        tokens_per_s = self._tokens / self._duration_s
        step_time_s = self._duration_s / self._steps
        tflops = tokens_per_s * self._flops_per_token / 1e12
        positions = self._order.start_of_step(step)
        event = StepsDone(
            step=step,
            loss=self._loss / max(1.0, self._targets),
            lr=self._lr,
            grad_norm=self._norm,
            epoch=positions / self._order.num_rows,
            tokens_seen=self._state.tokens_seen,
            tokens_per_s=tokens_per_s,
            step_time_s=step_time_s,
            data_wait_share=self._wait_s / self._duration_s,
            mfu=tflops / self._peak_tflops if self._peak_tflops else None,
            eta_s=(self._order.num_steps - step) * step_time_s,
            figures=told(self._figures, self._targets),
        )
        self._clear()
        return event

    def _clear(self) -> None:
        self._duration_s = self._wait_s = self._loss = self._targets = self._tokens = 0.0
        self._figures: dict[str, float] = {}
        self._steps = 0
