"""What a training stage adds to the loop: a module that makes the loss of a batch, and figures that it notes on the way."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from trainer.training.batches import Batch

TOKENS = "tokens"
"""The figure that counts target tokens, where a batch's targets are something else, such as pairs."""


class Objective(nn.Module):
    """Base: makes the sum over a batch's targets of what is minimised, a float32 scalar.

    Besides the loss it may note figures: sums over a micro-batch, float32 of shape (len(figures),), left in `noted`. They
    travel with the step's reduction, so each process learns the sums over all.
    """

    figures: ClassVar[tuple[str, ...]] = ()
    """Names of the figures."""
    noted: Tensor | None = None
    """The last forward pass's figures."""

    def forward(self, batch: Batch) -> Tensor:
        """The loss, summed over the batch's targets."""
        raise NotImplementedError

    def start_step(self, step: int) -> None:
        """A step begins, on the weights as they are now."""

    def replaces_kept(self, step: int) -> bool:
        """Whether `start_step` overwrites what a checkpoint before this step would hold.

        The loop then learns first what became of the steps before: one that was left off is saved with what it began with.
        """
        return False

    def kept(self, step: int) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint after so many steps has to hold besides weights and optimizer: float32 tensors by file and name.

        A run that goes on from one gets them copied into these tensors.
        """
        return {}

    def told(self, sums: Mapping[str, float], targets: float) -> dict[str, float]:
        """Means to report, from sums of the figures over steps that had this many targets."""
        return {name: value / max(1.0, targets) for name, value in sums.items() if name != TOKENS}
