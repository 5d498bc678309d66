"""The step loop that all training stages share.

A step: its micro-batches, this rank's share of them; one reduction; one update, or none if a number is not finite. Everything
that the processes have to agree on (stop, save) travels in that reduction. A step is a function of (seed, step); a signal
leaves off amid a step by undoing it, so what is saved is always the state between two steps.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.checkpoint.format import CheckpointManifest, TrainingState
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import CheckpointSection, TrainingSection
from trainer.errors import DivergedError, Preempted
from trainer.events import EpochDone, Preempting, StepSkipped, TrainingFinished
from trainer.signals import StopRequest
from trainer.tokens.order import Order, share_of_rank
from trainer.tokens.shards import TokenRows
from trainer.tracking.hub import Tracker
from trainer.training.batches import Batch, read_batch
from trainer.training.engines.ddp import DataParallel, StepSums
from trainer.training.meter import Meter
from trainer.training.peers import Peers
from trainer.training.sample_log import SampleLog
from trainer.training.schedule import lr_factor
from trainer.training.validation import Validator


class Stage(Protocol):
    """What a training stage adds to the loop."""

    @property
    def name(self) -> str:
        """The stage's name."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Sum of nats over a batch's targets, a scalar to differentiate."""
        ...


@dataclass
class TrainingLoop:
    """One training run from `state` on, in this process."""

    stage: Stage
    config: TrainingSection
    checkpointing: CheckpointSection
    seed: int
    order: Order
    rows: TokenRows
    engine: DataParallel
    validator: Validator
    validate_every: int
    state: TrainingState
    manifest: Callable[[TrainingState], CheckpointManifest]
    writer: CheckpointWriter | None
    """The writer of the process that writes for all; None on the others."""
    tracker: Tracker
    meter: Meter
    stop: StopRequest
    peers: Peers
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    sample_log: SampleLog | None = None

    def __post_init__(self) -> None:
        self._saved_step = self.state.step
        self._saved_at = self._epoch_started = time.monotonic()

    def run(self) -> TrainingState:
        """Collective: train to the last step and save. Raises Preempted once the state is saved, or DivergedError.

        Signals must be deferred meanwhile.
        """
        started = time.monotonic()
        self.meter.leave_out_time_since_step()
        last_step = min(self.order.num_steps, self.config.stop_after or self.order.num_steps)
        if self.peers.any(self.stop.requested):
            self._save_and_leave()
        while self.state.step < last_step:
            if self.state.step % self.validate_every == 0 and self.state.step:
                self._validate()
            self._step()
        self._validate()
        self._save(must=True)
        finished = TrainingFinished(
            step=self.state.step,
            stage=self.stage.name,
            complete=self.state.step == self.order.num_steps,
            duration_s=time.monotonic() - started,
            skipped_steps=self.state.skipped_steps,
        )
        self.tracker.emit(finished)
        return self.state

    def _step(self) -> None:
        """Collective: one optimizer step, then what follows from its votes."""
        step = self.state.step
        self.meter.start_step()
        sums = self.engine.reduce(self._accumulate(step))
        if sums.aborted:
            self._save_and_leave()
        lr = self.config.optimizer.lr * lr_factor(self.config.schedule, step, self.order.num_steps)
        finite = math.isfinite(sums.loss) and sums.targets > 0
        norm = self.engine.apply(lr, sums.targets, self.config.clip_norm) if finite else math.nan
        self._advance(sums, math.isfinite(norm))
        self.meter.finish_step(self.state, sums, lr, norm)
        self._tell_saves()
        if self.meter.report_is_due(self.state.step):
            self.tracker.emit(self.meter.report())
        self._note_epoch()
        if self.state.skipped_in_a_row >= self.config.max_skipped_in_a_row:
            raise DivergedError(
                f"step {self.state.step}: {self.state.skipped_in_a_row} steps in a row had no finite loss or gradient; "
                "lower the learning rate, or look at the rows of these steps (sample_log)"
            )
        if sums.stop:
            self._save_and_leave()
        if sums.save or self.state.step % self.checkpointing.every_steps == 0:
            self._save(must=False)

    def _accumulate(self, step: int) -> StepSums:
        """Gradients of this rank's micro-batches of a step, summed."""
        self.engine.start_step()
        micro_batches = self.order.micro_batches_of_step(step)
        loss_sum = torch.zeros((), device=self.peers.device)
        targets = 0
        for number in share_of_rank(len(micro_batches), self.peers.world.rank, self.peers.world.size):
            if self.stop.requested:
                return StepSums(stop=1.0, aborted=1.0)
            if self.sample_log is not None:
                self.sample_log.write(step, number, micro_batches[number])
            with self.meter.waiting_for_data():
                batch = read_batch(self.rows, micro_batches[number], self.order.micro_batch, self.peers.device)
            seed_noise(self.seed, step, number)
            with self.autocast():
                loss = self.stage.loss(batch)
            loss.backward()
            loss_sum += loss.detach()
            targets += batch.num_targets
        return StepSums(loss_sum.item(), targets, stop=float(self.stop.requested), save=float(self._save_is_due_by_clock()))

    def _advance(self, sums: StepSums, applied: bool) -> None:
        state = self.state
        self.state = TrainingState(
            step=state.step + 1,
            tokens_seen=state.tokens_seen + int(sums.targets),
            skipped_steps=state.skipped_steps + (not applied),
            skipped_in_a_row=0 if applied else state.skipped_in_a_row + 1,
        )
        if not applied:
            reason = f"loss sum {sums.loss}" if not math.isfinite(sums.loss) else "gradient norm is not finite"
            self.tracker.emit(StepSkipped(step=self.state.step, reason=reason, skipped_in_a_row=self.state.skipped_in_a_row))

    def _note_epoch(self) -> None:
        before, now = (
            min(step * self.order.global_batch, self.order.num_positions) // self.order.num_rows
            for step in (self.state.step - 1, self.state.step)
        )
        if now > before:
            duration_s = time.monotonic() - self._epoch_started
            self.tracker.emit(EpochDone(step=self.state.step, epoch=now, epoch_time_s=duration_s))
            self._epoch_started = time.monotonic()

    def _validate(self) -> None:
        """Collective: bits per byte now; leaves with the state saved if a stop is asked for meanwhile."""
        if len(self.validator.rows) == 0:
            return
        self.stage.model.eval()
        with self.autocast():
            validated = self.validator.measure(self.stage.loss, lambda: self.stop.requested)
        self.stage.model.train()
        if validated is None:
            self._save_and_leave()
        else:
            self.tracker.emit(validated, step=self.state.step)
        self.meter.leave_out_time_since_step()

    def _save_is_due_by_clock(self) -> bool:
        every_s = self.checkpointing.every_s
        return self.writer is not None and every_s is not None and time.monotonic() - self._saved_at > every_s

    def _save(self, *, must: bool) -> None:
        """Save the state, unless it is saved. Without `must` it may be put off while another save is under way."""
        if self.writer is None:
            return
        if self.state.step > self._saved_step and (must or not self.writer.busy):
            self.writer.save(self.engine.tensors(), lambda: self.manifest(self.state))
            self._saved_step, self._saved_at = self.state.step, time.monotonic()
        try:
            if must:
                self.writer.finish()
        finally:
            self._tell_saves()

    def _tell_saves(self) -> None:
        """Tell the saves that ended since the last look."""
        for outcome in self.writer.outcomes() if self.writer is not None else ():
            self.tracker.emit(outcome)

    def _save_and_leave(self) -> None:
        """Collective: save the state between two steps, then end as preempted."""
        self.tracker.emit(Preempting(step=self.state.step, signal=self.stop.signal_name))
        self._save(must=True)
        raise Preempted(
            f"{self.stop.signal_name}: stopped after step {self.state.step} and saved; start the same command again to go on"
        )


def seed_noise(seed: int, step: int, micro_batch: int) -> None:
    """Make dropout and sampling a function of (seed, step, micro-batch), so of neither rank nor world size."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + micro_batch * 0x94D049BB133111EB) % 2**63
    torch.manual_seed(mixed)
