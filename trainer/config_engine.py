"""Config of engines: how a model is laid out over the processes. No torch."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from trainer.config_section import NOT_IDENTITY, Section

_DEEPSPEED_DECIDED = {
    "train_batch_size": "pretrain.global_batch",
    "train_micro_batch_size_per_gpu": "pretrain.micro_batch",
    "gradient_accumulation_steps": "pretrain.global_batch, micro_batch and the number of processes",
    "gradient_clipping": "pretrain.clip_norm",
    "gradient_allreduce_op": "the trainer, which divides by a step's targets",
    "gradient_predivide_factor": "the trainer, which divides by a step's targets",
    "prescale_gradients": "the trainer, which divides by a step's targets",
    "communication_data_type": "pretrain.gradient_dtype",
    "data_types": "precision",
    "amp": "precision",
    "elasticity": "the trainer: any number of processes from one checkpoint",
    "optimizer": "pretrain.optimizer",
    "scheduler": "pretrain.schedule",
    "bf16": "precision",
    "fp16": "precision",
    "torch_autocast": "precision",
    "zero_optimization.stage": "engine.deepspeed.zero_stage",
    "zero_optimization.offload_optimizer": "engine.deepspeed.offload_optimizer",
    "zero_optimization.offload_param": "engine.deepspeed.offload_parameters",
    "activation_checkpointing": "activation_checkpointing",
    "checkpoint": "the section checkpoint: its format is the same for every engine",
}
"""Keys of DeepSpeed's config that follow from ours, and from what."""


class DeepSpeedSection(Section):
    """DeepSpeed's own settings, for engine deepspeed."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is shared out among the processes: 1 optimizer state, 2 gradients too, 3 weights too (arXiv 1910.02054)."""
    offload_optimizer: bool = False
    """Keep optimizer state and update in main memory (stages 1 to 3)."""
    offload_parameters: bool = False
    """Keep weights in main memory between their uses (stage 3)."""
    extra: dict[str, Any] = Field(default={}, json_schema_extra=dict(NOT_IDENTITY))
    """Further keys of DeepSpeed's config, as its documentation names them; keys that this config decides are refused."""

    @model_validator(mode="after")
    def _stage_can(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3; it is 0")
        if self.offload_parameters and self.zero_stage < 3:
            raise ValueError(f"offload_parameters needs zero_stage 3; it is {self.zero_stage}")
        for path, ours in _DEEPSPEED_DECIDED.items():
            section, _, key = path.partition(".")
            given = self.extra.get(section)
            if section in self.extra and (not key or (isinstance(given, dict) and key in given)):
                raise ValueError(f"extra.{path} is decided by {ours}; remove it from extra")
        return self


class EngineSection(Section):
    """How weights, gradients and optimizer state are laid out over the processes. The numbers do not depend on it."""

    kind: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """ddp: all of it on every process; fsdp: shared out by PyTorch (FSDP2); deepspeed: shared out by ZeRO's stages."""
    bucket_mb: PositiveFloat | None = None
    """ddp: start to sum gradients in buckets of this size while the last micro-batch still computes; unset: all at its end."""
    reshard_after_forward: bool = True
    """fsdp: drop each block's weights between forward and backward pass; false: more memory, fewer transfers."""
    deepspeed: DeepSpeedSection = DeepSpeedSection()
    """Settings of engine deepspeed."""

    @model_validator(mode="after")
    def _kind_can(self) -> Self:
        if self.kind != "ddp" and self.bucket_mb is not None:
            raise ValueError(
                f"bucket_mb is a setting of kind ddp; the kind is {self.kind}, which overlaps by itself: remove it"
            )
        return self
