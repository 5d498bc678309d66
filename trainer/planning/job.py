"""What of a config a plan depends on."""

from dataclasses import dataclass

from trainer.config import Config, ModelSection


@dataclass(frozen=True, slots=True)
class Job:
    """A model and the batches that it is trained on."""

    model: ModelSection
    row_tokens: int
    global_batch: int
    micro_batch: int
    element_bytes: int = 2
    """Bytes of a number in matrix products: 2 for bf16, 4 for fp32."""
    compiled: bool = False
    checkpointing: bool = False
    """Keep each block's input only, and compute the block again in the backward pass."""
    overlap: bool = False
    """ddp sums gradients in buckets while the last micro-batch still computes."""
    reduce_bytes: int = 4
    """Bytes of a gradient on its way between GPUs."""

    @staticmethod
    def of(config: Config) -> "Job":
        """The pretraining of a config. Precision `auto` is bf16: all GPUs that plans know have it."""
        return Job(
            model=config.model,
            row_tokens=config.tokens.row_tokens,
            global_batch=config.pretrain.global_batch,
            micro_batch=config.pretrain.micro_batch,
            element_bytes=4 if config.precision == "fp32" else 2,
            compiled=config.compile,
            checkpointing=config.activation_checkpointing,
            overlap=config.engine.bucket_mb is not None,
            reduce_bytes=2 if config.pretrain.gradient_dtype == "bf16" else 4,
        )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, and so the largest world size."""
        return self.global_batch // self.micro_batch

    @property
    def tokens_per_step(self) -> int:
        """Positions of a step."""
        return self.global_batch * self.row_tokens

    @property
    def tokens_per_micro_batch(self) -> int:
        """Positions of a micro-batch."""
        return self.micro_batch * self.row_tokens

    def rounds(self, num_gpus: int) -> int:
        """Micro-batches of the busiest GPU in a step."""
        return -(-self.num_micro_batches // num_gpus)

    def micro_batches_for(self, num_gpus: int) -> list[int]:
        """Sizes of a micro-batch that divide the global batch and leave every GPU at least one, ascending."""
        most = self.global_batch // num_gpus
        return [size for size in range(1, most + 1) if self.global_batch % size == 0]
