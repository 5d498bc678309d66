"""Config of what follows pretraining: chat data, instruction tuning, preferences. No torch."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config_section import NOT_IDENTITY, Section, added_later
from trainer.config_training import OptimizerSection, ScheduleSection, TrainingSection

LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]


class ChatSourceSection(Section):
    """One named source of conversations or preference pairs."""

    name: SourceName
    """The name under which validation and reports list it."""
    path: Annotated[str, Field(min_length=1)] = Field(json_schema_extra=dict(NOT_IDENTITY))
    """A file, a folder or a glob of .jsonl files, also .gz or .zst; `box:NAME` is a file of the box."""


class ChatSection(Section):
    """Conversations, preference pairs and prompts, in MiniMind's JSON lines."""

    conversations: tuple[ChatSourceSection, ...] = ()
    """Sources of `{"conversations": [...]}`, for sft."""
    pairs: tuple[ChatSourceSection, ...] = ()
    """Sources of `{"chosen": [...], "rejected": [...]}`, for reward and dpo."""
    prompts: tuple[ChatSourceSection, ...] = ()
    """Sources of `{"conversations": [...]}`, for grpo: an answer of the assistant at the end is left out and written anew."""
    held_out: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Share held out for validation, chosen by the hash of what stands before the last answer: no question is on both sides."""
    row_tokens: Annotated[int, Field(ge=8, le=1 << 20)] | None = None
    """Length of a row of conversations, pairs or prompts, in tokens; longer ones are left out. Unset: tokens.row_tokens."""
    max_bad_lines: NonNegativeInt = 100
    """Encoding fails when more lines than this break a rule."""

    @model_validator(mode="after")
    def _names_differ(self) -> "ChatSection":
        for field in ("conversations", "pairs", "prompts"):
            names = [source.name for source in getattr(self, field)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{field}: source name {name!r} is used twice; each source needs its own")
        return self


class LoraSection(Section):
    """Low-rank adapters (arXiv 2106.09685): the weights stay, and products of two thin matrices are added to them."""

    rank: PositiveInt = 8
    """Width of the thin matrices."""
    alpha: PositiveFloat = 16.0
    """What they add is scaled by alpha / rank."""
    targets: Annotated[tuple[LinearName, ...], Field(min_length=1)] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Which of the blocks' matrices get adapters."""


class TuningOptimizerSection(OptimizerSection):
    """The optimizer, with small steps and no decay."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: the blocks' matrices move by orthogonalised momentum; embedding and norms stay with AdamW at the same rate."""
    lr: PositiveFloat = 1e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decay of the matrices, per step and unit of learning rate; never applied to norms."""


class DpoOptimizerSection(TuningOptimizerSection):
    """The optimizer of dpo, with smaller steps still."""

    lr: PositiveFloat = 1e-5
    """Peak learning rate."""


class TuningScheduleSection(ScheduleSection):
    """The learning rate over the run, as a factor of its peak."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: half a cosine after the warm-up; wsd: warm-up, stable, then a decay by 1 - sqrt (arXiv 2405.18392)."""
    warmup_steps: NonNegativeInt = 10
    """Linear rise from zero to the peak, in steps."""


class TuningSection(TrainingSection):
    """What the stages after pretraining share: small steps from weights that are good already."""

    global_batch: PositiveInt = 64
    """Rows per optimizer step over all processes."""
    micro_batch: PositiveInt = 4
    """Rows in one forward and backward pass; it must divide global_batch."""
    optimizer: TuningOptimizerSection = TuningOptimizerSection()
    """The optimizer and its rates."""
    schedule: TuningScheduleSection = TuningScheduleSection()
    """The learning rate over time."""
    lora: LoraSection | None = None
    """Train low-rank adapters alone; unset: all weights."""

    @model_validator(mode="after")
    def _adapters_go_by_adamw(self) -> "TuningSection":
        if self.lora is not None and self.optimizer.kind == "muon":
            raise ValueError("lora works with optimizer.kind adamw: a thin matrix has no orthogonal update; set optimizer.kind")
        return self


class SftSection(TuningSection):
    """Instruction tuning: the assistant's tokens of conversations, each given all before it."""


class RewardSection(TuningSection):
    """A reward model of pairs of answers (arXiv 2203.02155 eq. 1); a row holds both answers of a pair."""

    global_batch: PositiveInt = 32
    """Rows per optimizer step over all processes."""
    micro_batch: PositiveInt = 2
    """Rows in one forward and backward pass; it must divide global_batch."""


class DpoSection(TuningSection):
    """Direct preference optimisation (arXiv 2305.18290) over pairs of answers; a row holds both answers of a pair."""

    global_batch: PositiveInt = 32
    """Rows per optimizer step over all processes."""
    micro_batch: PositiveInt = 2
    """Rows in one forward and backward pass; it must divide global_batch."""
    optimizer: DpoOptimizerSection = DpoOptimizerSection()
    """The optimizer and its rates."""
    beta: PositiveFloat = 0.1
    """How firmly the policy is held to the reference."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid: the log-odds of DPO; ipo: a squared distance, which does not run away from clear pairs (arXiv 2310.12036).

    sigmoid sums log-ratios over an answer's tokens, ipo averages them, as its authors and TRL do.
    """
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """sigmoid: share of pairs that are taken to be labelled the wrong way round (conservative DPO)."""

    @model_validator(mode="after")
    def _smoothing_fits(self) -> "DpoSection":
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing is a setting of loss sigmoid; the loss is ipo: remove one of them")
        return self


class GrpoOptimizerSection(TuningOptimizerSection):
    """The optimizer of grpo, with the smallest steps of all."""

    lr: PositiveFloat = 1e-6
    """Peak learning rate."""


class GrpoSection(TuningSection):
    """Group relative policy optimisation (arXiv 2402.03300): several answers to a prompt, each judged beside the others.

    A row is a prompt. Answers are drawn from the model's own distribution, which the formulas ask for.
    """

    global_batch: PositiveInt = 16
    """Prompts per optimizer step over all processes."""
    micro_batch: PositiveInt = 2
    """Prompts whose answers are written and learned from at once; it must divide global_batch."""
    optimizer: GrpoOptimizerSection = GrpoOptimizerSection()
    """The optimizer and its rates."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt."""
    max_tokens: PositiveInt = 64
    """Longest answer, in tokens, its end token among them."""
    reward: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """`module:function`, called as function(prompt, answer, expected) with three texts; it returns a number, more is better.

    Unset: a reward model judges. docs/alignment.md says what the texts are.
    """
    reward_from: Annotated[str, Field(min_length=1)] | None = None
    """Checkpoints of a reward model: a step, a folder of steps, or a run folder; unset: this run's stage `reward`."""
    loss: Literal["clipped", "cispo"] = "clipped"
    """clipped: the ratio's gain is clipped, as in PPO; cispo: the ratio is a clipped weight, so no token is left out
    (arXiv 2506.13585)."""
    clip_low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """clipped: a token's ratio to the policy that wrote it counts down to 1 - clip_low; cispo has no lower limit."""
    clip_high: PositiveFloat = 0.2
    """A token's ratio to the policy that wrote it counts up to 1 + clip_high; larger than clip_low keeps more variety
    (arXiv 2503.14476). For cispo, 4 is usual."""
    beta: Annotated[float, Field(ge=0.0)] = 0.04
    """Weight of the KL from the model that grpo starts from; 0: none, and no copy of that model in memory."""
    kl_by_ratio: bool = added_later(False)
    """Multiply each token's KL by its ratio, which makes it unbiased for answers of older weights (arXiv 2512.02556)."""
    scale_advantages: bool = True
    """Divide a group's advantages by the deviation of its rewards; without, easy and hard prompts weigh alike
    (arXiv 2503.20783)."""
    length_norm: Literal["answer", "constant"] = "answer"
    """answer: a token's weight is 1 / its answer's length; constant: 1 / max_tokens, so that long wrong answers do not pay
    (arXiv 2503.20783)."""
    updates_per_rollout: PositiveInt = 1
    """Steps whose answers the same weights write. With 1, each answer is learned from by the weights that wrote it: the ratio
    is 1 and nothing is clipped. More takes one more copy of the model."""

    @property
    def written_tokens(self) -> int:
        return self.max_tokens

    @model_validator(mode="after")
    def _one_judge(self) -> "GrpoSection":
        if self.reward is not None and self.reward_from is not None:
            raise ValueError("reward names a function and reward_from a model; remove one of them")
        return self
