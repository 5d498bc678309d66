"""The step loop that all training stages share.

A step: its micro-batches, this rank's share of them; one reduction; one update, or none if a number is not finite. Everything
that the processes have to agree on (stop, save) travels in that reduction. A step is a function of (seed, step); a signal
leaves off amid a step by undoing it, so what is saved is always the state between two steps.

On a GPU the host is a step ahead of what it knows: it reads a step's outcome while the next one runs. `state` is what is known.
"""

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain

import torch

from trainer.checkpoint.format import CheckpointManifest, TrainingState
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import CheckpointSection
from trainer.config_training import TrainingSection
from trainer.errors import DivergedError, Preempted
from trainer.events import EpochDone, Preempting, StepSkipped, TrainingFinished
from trainer.signals import StopRequest
from trainer.tokens.order import Order
from trainer.tracking.hub import Tracker
from trainer.training.batches import Loader, MicroBatch
from trainer.training.engines.protocol import Engine, Outcome, Pending, Share, drain
from trainer.training.meter import Meter
from trainer.training.objective import TOKENS, Objective
from trainer.training.optimizers.update import Rates
from trainer.training.peers import Peers
from trainer.training.profiling import no_profiler
from trainer.training.sample_log import SampleLog
from trainer.training.schedule import lr_factor, weight_decay_factor
from trainer.training.validation import Measure


@dataclass
class TrainingLoop:
    """One training run from `state` on, in this process."""

    stage: str
    module: Objective
    """Makes the loss; told when to train and when to evaluate."""
    config: TrainingSection
    checkpointing: CheckpointSection
    seed: int
    order: Order
    loader: Loader
    engine: Engine
    measures: Sequence[Measure]
    """What is measured on held-out rows, in this order."""
    validate_every: int
    state: TrainingState
    manifest: Callable[[TrainingState], CheckpointManifest]
    writer: CheckpointWriter | None
    """The writer of the process that writes for all; None on the others."""
    tracker: Tracker
    meter: Meter
    stop: StopRequest
    peers: Peers
    sample_log: SampleLog | None = None
    compiled: bool = False
    """The model compiles itself when it is first used, for training and for validation each."""
    reads_late: bool = False
    """Read what a step reports when the next one is under way, so that a device never waits for the host."""
    profiler: Callable[[], AbstractContextManager[Callable[[], None]]] = no_profiler

    def __post_init__(self) -> None:
        self._begun = self._saved_step = self.state.step
        self._saved_at = self._epoch_started = time.monotonic()
        self._pending: deque[tuple[Pending, Rates]] = deque()
        self._votes = _Votes()

    def run(self) -> TrainingState:
        """Collective: train to the last step and save. Raises Preempted once the state is saved, or DivergedError.

        Signals must be deferred meanwhile.
        """
        started = time.monotonic()
        self.meter.leave_out_time_since_step()
        last_step = min(self.order.num_steps, self.config.stop_after or self.order.num_steps)
        if self.peers.any(self.stop.requested):
            self._save_and_leave()
        if self.compiled:
            self.module.eval()
            for measure in self.measures:
                measure.warm_up(self.engine.loss)
            self.module.train()
            self.meter.leave_out_time_since_step()
        with self.profiler() as step_is_done, garbage_collection_at_leisure():
            while self._begun < last_step:
                if self._begun % self.validate_every == 0:
                    self._validate()
                self._step()
                step_is_done()
        self._validate()
        self._save(must=True)
        finished = TrainingFinished(
            step=self.state.step,
            stage=self.stage,
            complete=self.state.step == self.order.num_steps,
            duration_s=time.monotonic() - started,
            skipped_steps=self.state.skipped_steps,
        )
        self.tracker.emit(finished)
        return self.state

    def _step(self) -> None:
        """Collective: one optimizer step, then what follows from its votes or from those of the step before."""
        step = self._begun
        if self.module.replaces_kept(step):
            self._take_in(but=0)
            if self._votes.stop:
                self._save_and_leave()
        rates = self._rates(step)
        self._pending.append((self.engine.finish_step(self._accumulate(step), rates), rates))
        self._begun += 1
        checkpoint_due = self._begun % self.checkpointing.every_steps == 0
        self._take_in(but=1 if self.reads_late and not checkpoint_due else 0)
        if self._votes.stop or self._votes.save:
            self._take_in(but=0)
        if self._votes.stop:
            self._save_and_leave()
        if self._votes.save or checkpoint_due:
            self._votes.save = False
            self._save(must=False)

    def _rates(self, step: int) -> Rates:
        optimizer, schedule, num_steps = self.config.optimizer, self.config.schedule, self.order.num_steps
        return Rates(
            optimizer.lr * lr_factor(schedule, step, num_steps),
            optimizer.weight_decay * weight_decay_factor(schedule, step, num_steps),
        )

    def _accumulate(self, step: int) -> Share:
        """Gradients of this process's micro-batches of a step, summed."""
        self.engine.start_step()
        self.module.start_step(step)
        loss_sum = torch.zeros((), device=self.peers.device)
        figures = torch.zeros(len(self.module.figures), device=self.peers.device)
        targets = 0
        micro_batches = self.loader.micro_batches(step)
        while (micro := self._next(micro_batches)) is not None:
            self.peers.world.heartbeat.beat()
            if self.stop.requested and not self.engine.in_lockstep:
                return Share(loss_sum, 0, stop=True, aborted=True, figures=figures)
            if self.sample_log is not None and micro.number is not None:
                self.sample_log.write(step, micro.number, micro.ids)
            seed_noise(self.seed, step, micro.number or 0)
            loss = self.engine.loss(micro.batch)
            self.engine.backward(loss, last=micro.is_last)
            loss_sum += loss.detach()
            if self.module.noted is not None:
                figures += self.module.noted
            targets += micro.batch.num_targets
        return Share(loss_sum, targets, self.stop.requested, save=self._save_is_due_by_clock(), figures=figures)

    def _next(self, micro_batches: Iterator[MicroBatch]) -> MicroBatch | None:
        with self.meter.waiting_for_data():
            return next(micro_batches, None)

    def _take_in(self, *, but: int) -> None:
        """Learn what the steps under way reported, all of them but the newest few."""
        while len(self._pending) > but:
            pending, rates = self._pending.popleft()
            outcome = pending.read()
            if outcome.aborted:
                # the engine has not moved the weights since, so later steps that are under way count as never begun, too
                self._pending.clear()
                self._begun = self.state.step
                self._votes.stop = True
                return
            figures = dict(zip(self.module.figures, outcome.figures, strict=True))
            self._advance(outcome, tokens=int(figures.get(TOKENS, outcome.targets)))
            self.meter.finish_step(self.state, outcome, figures, rates.lr)
            self._tell_saves()
            if self.meter.report_is_due(self.state.step):
                self.tracker.emit(self.meter.report(self.module.told))
            self._note_epoch()
            if self.state.skipped_in_a_row >= self.config.max_skipped_in_a_row:
                raise DivergedError(
                    f"step {self.state.step}: {self.state.skipped_in_a_row} steps in a row had no finite loss or gradient; "
                    "lower the learning rate, or look at the rows of these steps (sample_log)"
                )
            self._votes.stop |= outcome.stop > 0
            self._votes.save |= outcome.save > 0

    def _advance(self, outcome: Outcome, *, tokens: int) -> None:
        state = self.state
        self.state = TrainingState(
            step=state.step + 1,
            tokens_seen=state.tokens_seen + tokens,
            skipped_steps=state.skipped_steps + (not outcome.applied),
            skipped_in_a_row=0 if outcome.applied else state.skipped_in_a_row + 1,
        )
        if not outcome.applied:
            finite = math.isfinite(outcome.loss)
            reason = "gradient norm is not finite" if finite else f"loss sum {outcome.loss}"
            self.tracker.emit(StepSkipped(step=self.state.step, reason=reason, skipped_in_a_row=self.state.skipped_in_a_row))

    def _note_epoch(self) -> None:
        before, now = (self.order.start_of_step(step) // self.order.num_rows for step in (self.state.step - 1, self.state.step))
        if now > before:
            duration_s = time.monotonic() - self._epoch_started
            self.tracker.emit(EpochDone(step=self.state.step, epoch=now, epoch_time_s=duration_s))
            self._epoch_started = time.monotonic()

    def _validate(self) -> None:
        """Collective: the measures now; leaves with the state saved if a stop is asked for meanwhile."""
        self._take_in(but=0)
        if self._votes.stop:
            self._save_and_leave()
        self.module.eval()
        for measure in self.measures:
            in_lockstep = self.engine.in_lockstep
            found = measure.measure(self.engine.loss, self._is_stopped, in_lockstep=in_lockstep)
            if found is None:
                self._save_and_leave()
            else:
                self.tracker.emit(found, step=self.state.step)
        self.module.train()
        self.meter.leave_out_time_since_step()

    def _is_stopped(self) -> bool:
        """Whether a stop is asked for; measures ask between their batches."""
        self.peers.world.heartbeat.beat()
        return self.stop.requested

    def _save_is_due_by_clock(self) -> bool:
        every_s = self.checkpointing.every_s
        return self.peers.world.is_first and every_s is not None and time.monotonic() - self._saved_at > every_s

    def _save(self, *, must: bool) -> None:
        """Collective: save the state, unless it is saved. Without `must` it may be put off while another save is under way."""
        wanted = self.state.step > self._saved_step
        if self.engine.in_lockstep and not must:
            wanted = wanted and not self.peers.any(self.writer is not None and self.writer.busy)
        elif not must:
            wanted = wanted and self.writer is not None and not self.writer.busy
        if wanted and self.writer is not None:
            kept = self.module.kept(self.state.step)
            shapes = self.engine.shapes() | {file: {key: each.shape for key, each in of.items()} for file, of in kept.items()}
            more = ((file, name, tensor) for file, of in kept.items() for name, tensor in of.items())
            self.writer.save(shapes, chain(self.engine.tensors(), more), lambda: self.manifest(self.state))
        elif wanted:
            drain(self.engine.tensors())
        if wanted:
            self._saved_step, self._saved_at = self.state.step, time.monotonic()
        try:
            if must and self.writer is not None:
                self.writer.finish()
        finally:
            self._tell_saves()

    def _tell_saves(self) -> None:
        """Tell the saves that ended since the last look."""
        for outcome in self.writer.outcomes() if self.writer is not None else ():
            self.tracker.emit(outcome)

    def _save_and_leave(self) -> None:
        """Collective: save the state between two steps, then end as preempted."""
        self._take_in(but=0)
        self.tracker.emit(Preempting(step=self.state.step, signal=self.stop.signal_name))
        self._save(must=True)
        raise Preempted(
            f"{self.stop.signal_name}: stopped after step {self.state.step} and saved; start the same command again to go on"
        )


@dataclass
class _Votes:
    """What the processes asked for in steps taken in so far."""

    stop: bool = False
    save: bool = False


@contextmanager
def garbage_collection_at_leisure() -> Iterator[None]:
    """Python's cyclic garbage is not looked for amid steps, where a full pass takes as long as a step on a GPU.

    A step leaves none behind: tensors go when their last reference does. What exists now is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def seed_noise(seed: int, step: int, micro_batch: int) -> None:
    """Make dropout and sampling a function of (seed, step, micro-batch), so of neither rank nor world size."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + micro_batch * 0x94D049BB133111EB) % 2**63
    torch.manual_seed(mixed)
