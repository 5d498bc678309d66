"""The GPT: Llama's layers, so that its weights need no tricks to be read elsewhere (Qwen3's with `qk_norm`).

Shapes: B rows, T positions, C hidden size, H query heads, K key and value heads, D head size, F SwiGLU width, V vocabulary.
Names of modules and parameters are Hugging Face's.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.config import ModelSection
from trainer.model.attention import DocumentMask, attend
from trainer.model.cache import CacheWindow


class RotaryPositions(nn.Module):
    """Rotations that turn queries and keys by their position (RoFormer, arXiv 2104.09864), in Llama's halves layout."""

    def __init__(self, head_size: int, theta: float, num_positions: int) -> None:
        super().__init__()
        frequencies = theta ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float64), frequencies).repeat(1, 2)
        self.cos_SD: Tensor
        self.sin_SD: Tensor
        self.register_buffer("cos_SD", angles.cos().float(), persistent=False)
        self.register_buffer("sin_SD", angles.sin().float(), persistent=False)

    def forward(self, num_positions: int) -> tuple[Tensor, Tensor]:
        return self.cos_SD[:num_positions], self.sin_SD[:num_positions]

    def at(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations of rows that stand at positions of their own, each (B, 1, T, D): one for all heads."""
        return self.cos_SD[positions_BT][:, None], self.sin_SD[positions_BT][:, None]


def rotate(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle; the angles are the same for all rows, or (B, 1, T, D)."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


def as_operand(x: Tensor) -> Tensor:
    """In the type of matrix products: autocast would convert it anew for each of several products that share it."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245)."""

    def __init__(self, config: ModelSection, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_size = config.head_size
        width, kv_width = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x_BTC: Tensor, turn_TD: tuple[Tensor, Tensor], mask: DocumentMask | None, window: CacheWindow | None
    ) -> Tensor:
        batch, seq_len, _ = x_BTC.shape
        q_BTHD = self.q_proj(x_BTC).view(batch, seq_len, -1, self.head_size)
        k_BTKD = self.k_proj(x_BTC).view(batch, seq_len, -1, self.head_size)
        v_BKTD = self.v_proj(x_BTC).view(batch, seq_len, -1, self.head_size).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHD, k_BTKD = self.q_norm(q_BTHD), self.k_norm(k_BTKD)
        q_BHTD = rotate(q_BTHD.transpose(1, 2), *turn_TD).to(v_BKTD.dtype)
        k_BKTD = rotate(k_BTKD.transpose(1, 2), *turn_TD).to(v_BKTD.dtype)
        if window is not None:
            k_BKTD, v_BKTD = window.extend(self.layer, k_BKTD, v_BKTD)
        out_BHTD = attend(q_BHTD, k_BKTD, v_BKTD, mask)
        return self.o_proj(out_BHTD.transpose(1, 2).reshape(batch, seq_len, -1))


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.down_proj = nn.Linear(config.ffn_size, config.hidden_size, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))


class Block(nn.Module):
    """One layer: attention and feed-forward, each on the normalised stream, each added to it."""

    def __init__(self, config: ModelSection, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)
        self.recompute = False
        """Keep only the input for the backward pass and compute the block again there."""

    def forward(
        self, x_BTC: Tensor, turn_TD: tuple[Tensor, Tensor], mask: DocumentMask | None, window: CacheWindow | None
    ) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.compute, x_BTC, turn_TD, mask, window, use_reentrant=False)
        return self.compute(x_BTC, turn_TD, mask, window)

    def compute(
        self, x_BTC: Tensor, turn_TD: tuple[Tensor, Tensor], mask: DocumentMask | None, window: CacheWindow | None
    ) -> Tensor:
        """The block itself: the part that is compiled, so that what engines hang around `forward` stays outside."""
        x_BTC = x_BTC + self.dropout(self.self_attn(as_operand(self.input_layernorm(x_BTC)), turn_TD, mask, window))
        return x_BTC + self.dropout(self.mlp(as_operand(self.post_attention_layernorm(x_BTC))))


class GPT(nn.Module):
    """Token ids to hidden states; the embedding's transpose turns those into logits (tied weights)."""

    def __init__(self, config: ModelSection, num_positions: int) -> None:
        """`num_positions` is the longest row or text that will be seen; it costs 8 D bytes each."""
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.rotary = RotaryPositions(config.head_size, config.rope_theta, num_positions)

    def compile_blocks(self) -> None:
        """Run each block through torch.compile. All blocks have one shape, so one compilation serves them all."""
        for block in self.blocks:
            block.compute = torch.compile(block.compute, dynamic=False)  # type: ignore[method-assign]

    def recompute_blocks(self) -> None:
        """Trade work for memory: keep each block's input only, and compute the rest again in the backward pass."""
        for block in self.blocks:
            block.recompute = True

    @property
    def blocks(self) -> Iterator[Block]:
        """The layers, typed."""
        for layer in self.layers:
            assert isinstance(layer, Block)
            yield layer

    def forward(self, ids_BT: Tensor, mask: DocumentMask | None = None, window: CacheWindow | None = None) -> Tensor:
        """Hidden states (B, T, C) behind the last norm. A window of a cache brings the positions before, and its own mask."""
        if window is None:
            turn_TD = self.rotary(ids_BT.shape[1])
        else:
            turn_TD, mask = self.rotary.at(window.positions_BT), window.mask
        x_BTC = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTC = layer(x_BTC, turn_TD, mask, window)
        return self.norm(x_BTC)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all V ids, float32, for hidden states (..., C)."""
        return functional.linear(hidden, self.embed_tokens.weight).float()

    def init_weights(self, seed: int) -> None:
        """Normal(0, 0.02), the two outputs of each block scaled by 1 / sqrt(2 L) (GPT-2). Drawn on CPU: equal on any device."""
        generator = torch.Generator().manual_seed(seed)
        output_std = 0.02 / math.sqrt(2 * self.config.num_layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 1:
                    parameter.fill_(1.0)
                else:
                    std = output_std if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
