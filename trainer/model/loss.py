"""Cross-entropy over the vocabulary without keeping the logits of a whole batch.

Shapes: N positions, C hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK_POSITIONS = 1024
"""Positions whose logits exist at the same time: 1,024 x 6,400 in float32 are 26 MB."""


def next_token_loss(hidden_BTC: Tensor, embedding_VC: Tensor, targets_BT: Tensor, used_N: Tensor | None) -> Tensor:
    """Sum of the negative log-probabilities of targets, in nats; a float32 scalar.

    `used_N` are the places in the flattened (B T) of the targets that count; None: all. They come from the host: finding them
    here would make it wait for the device.
    """
    hidden_NC = hidden_BTC.flatten(0, 1)
    targets_N = targets_BT.flatten()
    if used_N is not None:
        hidden_NC, targets_N = hidden_NC.index_select(0, used_N), targets_N.index_select(0, used_N)
    if torch.is_grad_enabled():
        dtype = torch.get_autocast_dtype(hidden_NC.device.type) if _autocast(hidden_NC) else hidden_NC.dtype
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden_NC, embedding_VC, targets_N, dtype)
        return loss
    chunks = zip(hidden_NC.split(CHUNK_POSITIONS), targets_N.split(CHUNK_POSITIONS), strict=True)
    total = torch.zeros((), device=hidden_NC.device)
    for hidden, targets in chunks:
        total += functional.cross_entropy(functional.linear(hidden, embedding_VC).float(), targets, reduction="sum")
    return total


def target_log_probs(hidden_BTC: Tensor, embedding_VC: Tensor, targets_BT: Tensor, places_N: Tensor) -> Tensor:
    """Log-probability of each target that counts, float32 of shape (N,), to differentiate where gradients are enabled.

    `places_N` are the targets' places in the flattened (B T). Logits are made chunk by chunk, and again in the backward pass.
    """
    hidden_NC = hidden_BTC.flatten(0, 1).index_select(0, places_N)
    targets_N = targets_BT.flatten().index_select(0, places_N)
    parts = []
    for start in range(0, max(1, len(places_N)), CHUNK_POSITIONS):
        hidden, targets = hidden_NC[start : start + CHUNK_POSITIONS], targets_N[start : start + CHUNK_POSITIONS]
        if torch.is_grad_enabled():
            parts.append(checkpoint(_log_probs, hidden, embedding_VC, targets, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_log_probs(hidden, embedding_VC, targets))
    return torch.cat(parts)


def _log_probs(hidden_NC: Tensor, embedding_VC: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = functional.linear(hidden_NC, embedding_VC).float()
    return logits_NV.gather(1, targets_N[:, None]).squeeze(1) - logits_NV.logsumexp(dim=1)


def _autocast(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient is made in the forward pass, chunk by chunk, while the logits are at hand: no logits are kept or made twice.

    d loss / d logits = softmax(logits) - onehot(target). Its worth on CPU is in docs/lab.md.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NC: Tensor, embedding_VC: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        weight_VC = embedding_VC.to(dtype)
        loss = torch.zeros((), device=hidden_NC.device)
        grad_hidden_NC = torch.empty_like(hidden_NC)
        grad_weight_VC = torch.zeros_like(embedding_VC)
        with torch.autocast(hidden_NC.device.type, enabled=False):
            for start in range(0, len(targets_N), CHUNK_POSITIONS):
                hidden = hidden_NC[start : start + CHUNK_POSITIONS].to(dtype)
                targets = targets_N[start : start + CHUNK_POSITIONS, None]
                logits = (hidden @ weight_VC.T).float()
                # softmax by hand: torch's log_softmax and an exp of it would pass over the logits four times
                logits -= logits.amax(dim=1, keepdim=True)
                target_logits = logits.gather(1, targets)
                grad_logits = logits.exp_()
                sums = grad_logits.sum(dim=1, keepdim=True)
                loss += (sums.log() - target_logits).sum()
                grad_logits /= sums
                grad_logits.scatter_add_(1, targets, torch.full_like(sums, -1))
                grad_logits = grad_logits.to(dtype)
                grad_hidden_NC[start : start + CHUNK_POSITIONS] = grad_logits @ weight_VC
                grad_weight_VC += grad_logits.T @ hidden
        ctx.save_for_backward(grad_hidden_NC, grad_weight_VC)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_NC, grad_weight_VC = ctx.saved_tensors
        return grad_hidden_NC * grad_loss, grad_weight_VC * grad_loss, None, None
