"""Config of training: how long, in what batches, by which optimizer and schedule. No torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config_section import Section, nearest_divisors, unidentified

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class OptimizerSection(Section):
    """AdamW (arXiv 1711.05101), or Muon (kellerjordan.github.io/posts/muon) for the matrices of the blocks."""

    kind: Literal["adamw", "muon"] = "muon"
    """muon: the blocks' matrices move by orthogonalised momentum; embedding and norms stay with AdamW at the same rate. It
    reaches AdamW's loss in about half of the tokens (docs/lab.md)."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate. Muon's updates have the size of AdamW's (arXiv 2502.16982), so one rate serves both."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of the two moments, per step."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """Decay of the matrices, per step and unit of learning rate; never applied to norms."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """muon: decay of the momentum, per step."""
    decay_embedding: bool = False
    """Decay the tied embedding too."""


class ScheduleSection(Section):
    """The learning rate over the run, as a factor of its peak."""

    kind: Literal["cosine", "wsd", "constant"] = "wsd"
    """cosine: half a cosine after the warm-up; wsd: warm-up, stable, then a decay by 1 - sqrt (arXiv 2405.18392), which ended
    lower with each of three seeds (docs/lab.md)."""
    warmup_steps: NonNegativeInt = 100
    """Linear rise from zero to the peak, in steps."""
    decay_fraction: Fraction = 0.4
    """wsd: share of all steps in which the rate falls."""
    final_ratio: Fraction = 0.05
    """The last step's rate as a factor of the peak."""
    weight_decay: Literal["constant", "linear"] = "constant"
    """constant: `optimizer.weight_decay` in every step; linear: it falls to zero over the run."""


class TrainingSection(Section):
    """What every training stage has: how long, in what batches, by which optimizer."""

    epochs: PositiveInt | None = None
    """Passes over the rows; 1 when neither epochs nor steps is given."""
    steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    global_batch: PositiveInt = 256
    """Rows per optimizer step over all processes: part of what determines the result, so never a function of the world size."""
    micro_batch: PositiveInt = 16
    """Rows in one forward and backward pass; it must divide global_batch."""
    batch_warmup_steps: NonNegativeInt = 0
    """Steps in which the batch grows in a straight line to global_batch, in whole micro-batches; 0: full from the start."""
    batch_warmup_start: PositiveInt | None = None
    """Rows in the first step of the batch warm-up, a multiple of micro_batch; unset: one micro-batch."""
    optimizer: OptimizerSection = OptimizerSection()
    """The optimizer and its rates."""
    schedule: ScheduleSection = ScheduleSection()
    """The learning rate over time."""
    clip_norm: PositiveFloat | None = 1.0
    """Gradients are scaled down to this global L2 norm; null: never."""
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type in which gradients travel between processes: bf16 halves the traffic of slow links and rounds the sum."""
    max_skipped_in_a_row: PositiveInt = unidentified(10)
    """Steps whose loss or gradient is not finite are skipped; this many in a row end the run."""
    stop_after: PositiveInt | None = unidentified(None)
    """Save and end after this step although the schedule goes on: splits one run over several sessions."""
    sample_log: bool = unidentified(False)
    """Write step and sample ids of every micro-batch under RUN/sample_log, so that anyone can check the order from outside."""

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches in a full step, and so the largest world size."""
        return self.global_batch // self.micro_batch

    @property
    def written_tokens(self) -> int:
        """Tokens that the stage may write behind a row."""
        return 0

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both given; remove one of them")
        if self.global_batch % self.micro_batch:
            nearest = nearest_divisors(self.global_batch, self.micro_batch)
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide global_batch {self.global_batch}; nearest: {nearest}"
            )
        if self.steps is not None and self.schedule.warmup_steps >= self.steps > 1:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} must be below steps {self.steps}; set it to "
                f"{self.steps // 10}, for example"
            )
        start = self.batch_warmup_start
        if start is not None and not self.batch_warmup_steps:
            raise ValueError(f"batch_warmup_start {start} needs batch_warmup_steps: the steps in which the batch grows")
        if start is not None and (start % self.micro_batch or start > self.global_batch):
            raise ValueError(
                f"batch_warmup_start {start} is not a multiple of micro_batch {self.micro_batch} up to "
                f"global_batch {self.global_batch}"
            )
        return self


class PretrainSection(TrainingSection):
    """Next-token prediction over all documents."""
