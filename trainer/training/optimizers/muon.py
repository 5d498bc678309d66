"""Muon: a matrix moves along its momentum made orthogonal (Keller Jordan, kellerjordan.github.io/posts/muon).

    B <- momentum B + G    U = G + momentum B    O = orthogonalised(U)    W <- (1 - lr decay) W - lr 0.2 sqrt(max(R, C)) O

The factor gives an update the size of AdamW's (arXiv 2502.16982, section 2.2). torch.optim.Muon knows neither several processes
nor any precision but bf16; it is the reference in the tests.

Shapes: N matrices, R rows, C columns.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, distributed

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrices_NRC: Tensor) -> Tensor:
    """U V^T of each matrix U S V^T, roughly: singular values end between 0.7 and 1.2, which trains as well as 1 does.

    A quintic Newton-Schulz iteration; 5 x (4 R^2 C + 2 R^3) FLOPs for R <= C.
    """
    a, b, c = _COEFFICIENTS
    x = matrices_NRC.mT if matrices_NRC.shape[1] > matrices_NRC.shape[2] else matrices_NRC
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices_NRC.shape[1] > matrices_NRC.shape[2] else x


def update_scale(shape: torch.Size) -> float:
    """Factor that gives an orthogonal matrix of this shape a root mean square of 0.2, like AdamW's updates."""
    return 0.2 * math.sqrt(max(shape))


def owners(shapes: Sequence[torch.Size], world_size: int) -> list[list[int]]:
    """Which matrices each rank makes orthogonal: the costliest first, each to the rank with the least work so far."""
    costs = [min(shape) * math.prod(shape) for shape in shapes]
    work = [0] * world_size
    owned: list[list[int]] = [[] for _ in range(world_size)]
    for index in sorted(range(len(shapes)), key=lambda index: (-costs[index], index)):
        rank = work.index(min(work))
        work[rank] += costs[index]
        owned[rank].append(index)
    return owned


class Sharing(Protocol):
    """How the work on matrices is shared. Every method is collective."""

    def orthogonalise(self, updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """This process's part of each matrix, made orthogonal as a whole, computed in `dtype`."""
        ...


class Replicated:
    """Every process has all matrices: each makes its own share orthogonal, and one all-gather spreads them."""

    def __init__(self, shapes: Sequence[torch.Size], rank: int, world_size: int) -> None:
        self._shapes, self._rank = shapes, rank
        self._owned = owners(shapes, world_size)
        self._chunk = max(sum(shapes[index].numel() for index in owned) for owned in self._owned)

    def orthogonalise(self, updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        mine = self._owned[self._rank]
        made = _orthogonalise_alike([updates[index] for index in mine], dtype)
        if len(self._owned) == 1:
            return [made[mine.index(index)] for index in range(len(updates))]
        chunk = torch.zeros(self._chunk, dtype=dtype, device=updates[0].device)
        torch.cat([matrix.flatten() for matrix in made] or [chunk[:0]], out=chunk[: sum(matrix.numel() for matrix in made)])
        gathered = chunk.new_empty(len(self._owned) * self._chunk)
        distributed.all_gather_into_tensor(gathered, chunk)
        results: dict[int, Tensor] = {}
        for owned, part in zip(self._owned, gathered.split(self._chunk), strict=True):
            sizes = [self._shapes[index].numel() for index in owned]
            for index, matrix in zip(owned, part[: sum(sizes)].split(sizes), strict=True):
                results[index] = matrix.view(self._shapes[index])
        return [results[index] for index in range(len(updates))]


class RowSharded:
    """Every process has some rows of each matrix (torch.chunk's): they go to the matrix's owner and come back, orthogonal."""

    def __init__(self, shapes: Sequence[torch.Size], rank: int, world_size: int) -> None:
        self._shapes, self._rank = shapes, rank
        self._owned = owners(shapes, world_size)
        self._rows = [row_counts(shape[0], world_size) for shape in shapes]  # by matrix, by rank

    def orthogonalise(self, updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        mine, ranks = self._owned[self._rank], range(len(self._owned))
        outgoing = [self._size(owned, self._rank) for owned in self._owned]
        incoming = [self._size(mine, rank) for rank in ranks]
        order = [index for owned in self._owned for index in owned]
        received = _exchange(torch.cat([updates[index].to(dtype).flatten() for index in order]), outgoing, incoming)
        pieces: list[list[Tensor]] = [[] for _ in mine]
        for rank, part in zip(ranks, received.split(incoming), strict=True):
            sizes = [self._rows[index][rank] * self._shapes[index][1] for index in mine]
            for place, piece in enumerate(part.split(sizes)):
                pieces[place].append(piece.view(-1, self._shapes[mine[place]][1]))
        made = _orthogonalise_alike([torch.cat(each) for each in pieces], dtype)
        parts = [matrix.split(self._rows[index]) for index, matrix in zip(mine, made, strict=True)]
        answer = [part[rank].flatten() for rank in ranks for part in parts]
        returned = _exchange(torch.cat(answer) if answer else received, incoming, outgoing)
        results: dict[int, Tensor] = {}
        for index, piece in zip(order, returned.split([updates[index].numel() for index in order]), strict=True):
            results[index] = piece.view(updates[index].shape)
        return [results[index] for index in range(len(updates))]

    def _size(self, indices: Sequence[int], rank: int) -> int:
        return sum(self._rows[index][rank] * self._shapes[index][1] for index in indices)


def row_counts(rows: int, world_size: int) -> list[int]:
    """Rows of each rank when a dimension is cut as torch.chunk does: equal parts, the last ones shorter or empty."""
    part = -(-rows // world_size)
    return [max(0, min(part, rows - rank * part)) for rank in range(world_size)]


def _exchange(outgoing: Tensor, sizes_out: list[int], sizes_in: list[int]) -> Tensor:
    """Collective: the parts of `outgoing` to each rank, in return for theirs."""
    incoming = outgoing.new_empty(sum(sizes_in))
    distributed.all_to_all_single(incoming, outgoing, sizes_in, sizes_out)
    return incoming


def _orthogonalise_alike(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Matrices of one shape, in either orientation, are worked on together: few large products instead of many small ones."""
    wide = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    groups: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(wide):
        groups.setdefault(matrix.shape, []).append(index)
    results: dict[int, Tensor] = {}
    for indices in groups.values():
        made = orthogonalised(torch.stack([wide[index] for index in indices]).to(dtype))
        for index, matrix in zip(indices, made, strict=True):
            results[index] = matrix if wide[index] is matrices[index] else matrix.mT
    return [results[index] for index in range(len(matrices))]
