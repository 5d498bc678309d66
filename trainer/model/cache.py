"""Keys and values of the positions that a model has seen, so that writing a token costs one position and not all of them.

Shapes: L layers, N slots, B slots of one forward pass, K key and value heads, S positions, T new positions, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config import ModelSection
from trainer.model.attention import DocumentMask


@dataclass(frozen=True, slots=True)
class CacheWindow:
    """The slots of one forward pass, and where each one's T new positions lie. Made anew for every pass."""

    keys_LBKSD: Tensor
    values_LBKSD: Tensor
    positions_BT: Tensor
    mask: DocumentMask
    """Each new position sees those of its own slot up to itself; what other texts left behind them stays unseen."""

    def extend(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new positions of a layer; returns its keys and values up to the longest slot's last one."""
        rows_B1 = torch.arange(len(self.positions_BT), device=self.positions_BT.device)[:, None]
        keys_BKSD, values_BKSD = self.keys_LBKSD[layer], self.values_LBKSD[layer]
        keys_BKSD[rows_B1, :, self.positions_BT] = k_BKTD.transpose(1, 2)
        values_BKSD[rows_B1, :, self.positions_BT] = v_BKTD.transpose(1, 2)
        return keys_BKSD, values_BKSD


class KeyValueCache:
    """Memory for N texts of at most `max_positions` each, taken at once. The slots know no lengths: whoever writes does.

    It costs 2 L K D numbers for each position of each slot.
    """

    def __init__(self, config: ModelSection, num_slots: int, max_positions: int, device: torch.device) -> None:
        shape = (config.num_layers, num_slots, config.num_kv_heads, max_positions, config.head_size)
        self._keys_LNKSD = torch.zeros(shape, device=device)
        self._values_LNKSD = torch.zeros(shape, device=device)
        self.num_slots = num_slots
        self.max_positions = max_positions

    def window(self, first: int, lengths: Sequence[int], num_new: int) -> CacheWindow:
        """For a pass over the slots from `first` on, which hold so many positions each and get `num_new` more."""
        device = self._keys_LNKSD.device
        end, longest = first + len(lengths), max(lengths) + num_new
        positions_BT = torch.tensor(lengths, device=device)[:, None] + torch.arange(num_new, device=device)
        seen_BTS = torch.arange(longest, device=device) <= positions_BT[:, :, None]
        return CacheWindow(
            self._keys_LNKSD[:, first:end, :, :longest],
            self._values_LNKSD[:, first:end, :, :longest],
            positions_BT,
            DocumentMask((), dense=seen_BTS[:, None]),
        )

    def copy(self, source: int, target: int, num_positions: int) -> None:
        """Give a slot the first positions of another."""
        for each in (self._keys_LNKSD, self._values_LNKSD):
            each[:, target, :, :num_positions] = each[:, source, :, :num_positions]
