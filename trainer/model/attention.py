"""Causal attention that never crosses a document's border.

Shapes: B rows, T positions, S keys seen, H query heads, K key and value heads, G = H / K queries per key head, D head size.

On CPU the scores are plain matrix products over a few blocks of queries, each against the keys up to its end: torch's fused CPU
kernel takes a quarter of a bf16 training step for 7% of its FLOPs, and blocks skip most of the masked half (docs/lab.md).
Elsewhere it is FlexAttention, whose kernel skips blocks of the mask that are empty, or `scaled_dot_product_attention`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from trainer.config import FLEX_MIN_HEAD_SIZE

if TYPE_CHECKING:  # importing it takes torch's compiler with it, 3 s at each start of a process
    from torch.nn.attention.flex_attention import BlockMask

Kind = Literal["blocks", "sdpa", "flex"]
"""How attention is computed: blocks of matrix products, torch's fused attention, or FlexAttention."""

_NUM_BLOCKS = 4
_MIN_BLOCK = 64
"""Below this many queries a block's overhead outweighs what it skips."""


@dataclass(frozen=True, slots=True)
class DocumentMask:
    """Which earlier positions each position may look at: those of its own document. Made once per forward pass."""

    blocks: tuple[tuple[int, int, Tensor], ...]
    """blocks: per block of queries its start, its end and an additive mask of shape (B, 1, 1, block, end)."""
    dense: Tensor | None = None
    """sdpa, and generation from a cache: True where a query may look, of shape (B, 1, T, S)."""
    flex: "BlockMask | None" = None
    """flex: the mask of each block of the (T, T) scores."""

    @staticmethod
    def of(documents_BT: Tensor, dtype: torch.dtype, kind: Kind = "blocks") -> "DocumentMask":
        """The mask of rows whose positions carry document numbers. `dtype` is that of the scores."""
        batch, seq_len = documents_BT.shape
        if kind == "flex":
            return DocumentMask((), flex=_block_mask(documents_BT, batch, seq_len))
        allowed_BTT = (documents_BT[:, :, None] == documents_BT[:, None, :]).tril()
        if kind == "sdpa":
            return DocumentMask((), dense=allowed_BTT[:, None])
        size = max(_MIN_BLOCK, -(-seq_len // _NUM_BLOCKS))
        blocks = []
        for start in range(0, seq_len, size):
            end = min(start + size, seq_len)
            allowed = allowed_BTT[:, start:end, :end]
            mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, -torch.inf)
            blocks.append((start, end, mask[:, None, None]))
        return DocumentMask(tuple(blocks))


def attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: DocumentMask | None) -> Tensor:
    """Attention's output, (B, H, T, D).

    With a mask: training, T = S, or generation from a cache. Without: rows of one document each, T = S.
    """
    if mask is not None and mask.flex is not None:
        attention = _flex(q_BHTD.device.type)
        return attention(q_BHTD, k_BKSD, v_BKSD, block_mask=mask.flex, enable_gqa=True)
    if mask is not None and mask.dense is None:
        return _attend_in_blocks(q_BHTD, k_BKSD, v_BKSD, mask)
    if mask is not None:
        return functional.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=mask.dense, enable_gqa=True)
    return functional.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, is_causal=True, enable_gqa=True)


def _attend_in_blocks(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, mask: DocumentMask) -> Tensor:
    batch, num_heads, seq_len, head_size = q_BHTD.shape
    num_kv_heads = k_BKTD.shape[1]
    group = num_heads // num_kv_heads
    q_BKGTD = q_BHTD.view(batch, num_kv_heads, group, seq_len, head_size) * head_size**-0.5
    k_BKDT = k_BKTD.transpose(2, 3)
    outputs = []
    for start, end, mask_B11ts in mask.blocks:
        # the G heads of a group lie one after another in the rows of one product, so keys are not copied for each of them
        q = q_BKGTD[:, :, :, start:end].reshape(batch, num_kv_heads, group * (end - start), head_size)
        scores = (q @ k_BKDT[..., :end]).view(batch, num_kv_heads, group, end - start, end)
        weights = torch.softmax(scores + mask_B11ts, dim=-1).to(v_BKTD.dtype)
        output = weights.view(batch, num_kv_heads, group * (end - start), end) @ v_BKTD[:, :, :end]
        outputs.append(output.view(batch, num_kv_heads, group, end - start, head_size))
    return torch.cat(outputs, dim=3).view(batch, num_heads, seq_len, head_size)


def kind_for(
    wanted: Literal["auto", "blocks", "sdpa", "flex"], device: torch.device, head_size: int, *, compiled: bool
) -> Kind:
    """What `auto` means: blocks on CPU, FlexAttention in compiled models on cuda, else torch's fused attention."""
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "blocks"
    flex = device.type == "cuda" and compiled and head_size >= FLEX_MIN_HEAD_SIZE
    return "flex" if flex else "sdpa"


def _block_mask(documents_BT: Tensor, batch: int, seq_len: int) -> "BlockMask":
    from torch.nn.attention.flex_attention import create_block_mask

    def in_same_document(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (documents_BT[b, query] == documents_BT[b, key]) & (query >= key)

    return create_block_mask(in_same_document, batch, None, seq_len, seq_len, device=documents_BT.device)


def _flex(device_type: str) -> Callable[..., Tensor]:
    """FlexAttention; on cuda compiled, without which it would make all T x T scores. A compiled model compiles it along."""
    from torch.nn.attention.flex_attention import flex_attention

    attention: Callable[..., Tensor] = flex_attention
    return _compiled_flex() if device_type == "cuda" and not torch.compiler.is_compiling() else attention


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
