"""Muon: orthogonal updates, the same on any number of processes and in any layout as in a plain reference."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.optim import _muon as torch_muon

from tests.support import ranks
from trainer.config_training import OptimizerSection
from trainer.training.optimizers.muon import Replicated, RowSharded, orthogonalised, owners, row_counts, update_scale
from trainer.training.optimizers.update import Rates, Update
from trainer.training.peers import joined
from trainer.world import World

SHAPES = {
    "embed_tokens.weight": (50, 12),
    "q": (12, 12),
    "k": (4, 12),
    "up": (33, 12),
    "down": (12, 33),
    "gate": (33, 12),
    "norm": (12,),
    "reward_head.weight": (1, 12),
}
CONFIG = OptimizerSection(kind="muon", lr=0.02, weight_decay=0.1)
RATES = [Rates(lr=0.02, weight_decay=0.1), Rates(lr=0.01, weight_decay=0.05), Rates(lr=0.03, weight_decay=0.0)]


def weights_and_gradients() -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return weights, [{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in RATES]


def reference() -> dict[str, torch.Tensor]:
    """Three steps written out: one matrix after another, one process, AdamW by its formula."""
    weights, gradients = weights_and_gradients()
    state = {name: (torch.zeros(shape), torch.zeros(shape)) for name, shape in SHAPES.items()}
    beta1, beta2 = CONFIG.betas
    for step, (rates, of_step) in enumerate(zip(RATES, gradients, strict=True), start=1):
        for name, weight in weights.items():
            gradient, (first, second) = of_step[name] / 4, state[name]
            if weight.dim() == 2 and name not in ("embed_tokens.weight", "reward_head.weight"):
                first.mul_(CONFIG.momentum).add_(gradient)
                direction = gradient + CONFIG.momentum * first
                x = direction / direction.norm()
                x = x.T if x.shape[0] > x.shape[1] else x
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                x = x.T if direction.shape[0] > direction.shape[1] else x
                weight.mul_(1 - rates.lr * rates.weight_decay).sub_(rates.lr * 0.2 * math.sqrt(max(x.shape)) * x)
            else:
                if weight.dim() == 2 and name != "embed_tokens.weight":
                    weight.mul_(1 - rates.lr * rates.weight_decay)
                first.mul_(beta1).add_(gradient, alpha=1 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                denominator = (second / (1 - beta2**step)).sqrt() + CONFIG.eps
                weight.sub_(rates.lr * first / (1 - beta1**step) / denominator)
    return weights


def _train(sharded: bool, output: str) -> None:
    import os

    world = World.of(os.environ)
    weights, gradients = weights_and_gradients()
    shapes = {name: torch.Size(shape) for name, shape in SHAPES.items()}

    def part(whole: torch.Tensor) -> torch.Tensor:
        return whole.split(row_counts(whole.shape[0], world.size))[world.rank].clone() if sharded else whole

    kind = RowSharded if sharded else Replicated
    with joined(world, torch.device("cpu"), 60, group_of_one=True):
        mine = {name: part(weight) for name, weight in weights.items()}
        update = Update(mine, shapes, CONFIG, lambda matrices: kind(matrices, world.rank, world.size), torch.float32)
        for rates, of_step in zip(RATES, gradients, strict=True):
            parts = {name: part(gradient) for name, gradient in of_step.items()}
            update.apply(parts, rates, torch.tensor(0.25), torch.tensor(True))
    Path(f"{output}-{world.rank}.json").write_text(json.dumps({name: weight.tolist() for name, weight in mine.items()}))


@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "row-sharded"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_muon_equals_a_plain_reference_on_any_number_of_processes(tmp_path: Path, world_size: int, sharded: bool) -> None:
    processes = ranks.start(_train, (sharded, str(tmp_path / "weights")), tmp_path, world_size)
    assert processes.wait() == [0] * world_size, processes.text()
    found = [json.loads((tmp_path / f"weights-{rank}.json").read_text()) for rank in range(world_size)]
    for name, wanted in reference().items():
        rows = [torch.tensor(each[name]).view(-1, *wanted.shape[1:]) for each in found]
        for got in [torch.cat(rows)] if sharded else rows:
            torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0, msg=name)


def test_the_reward_head_moves_as_far_as_its_gradient_says() -> None:
    moved = []
    for factor in (1.0, 1e-9):
        weights = {"q": torch.zeros(12, 12), "reward_head.weight": torch.zeros(1, 12)}
        shapes = {name: weight.shape for name, weight in weights.items()}
        update = Update(weights, shapes, CONFIG, lambda matrices: Replicated(matrices, 0, 1), torch.float32)
        gradients = {name: factor * torch.ones_like(weight) for name, weight in weights.items()}
        update.apply(gradients, RATES[0], torch.tensor(1.0), torch.tensor(True))
        moved.append(weights["reward_head.weight"].norm().item())
    assert moved[1] < 0.5 * moved[0]  # by Muon both would move it by 0.2 sqrt(12) times the rate
    assert moved[0] == pytest.approx(RATES[0].lr * math.sqrt(12), rel=1e-3)


def test_an_update_is_orthogonal_as_far_as_newton_schulz_goes() -> None:
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((64, 64), (128, 384), (384, 128)):
        matrix = torch.randn(3, rows, columns, generator=generator)
        made = orthogonalised(matrix)
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.3
        assert values.max() < 1.3
        assert values.mean() == pytest.approx(0.9, abs=0.1)
        # the directions are those of the nearest orthogonal matrix
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        alignment = torch.nn.functional.cosine_similarity(made.flatten(1), (u @ vh).flatten(1))
        assert alignment.min() > 0.95
        size = (made * update_scale(torch.Size((rows, columns)))).square().mean().sqrt()
        assert size == pytest.approx(0.2, rel=0.2)


def test_the_iteration_is_torchs_own_but_for_its_precision() -> None:
    matrix = torch.randn(48, 96, generator=torch.Generator().manual_seed(2))
    theirs = torch_muon._zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    torch.testing.assert_close(orthogonalised(matrix[None])[0].bfloat16(), theirs, atol=0.02, rtol=0.05)


def test_a_step_that_is_not_finite_changes_neither_weights_nor_state() -> None:
    weights, gradients = weights_and_gradients()
    shapes = {name: torch.Size(shape) for name, shape in SHAPES.items()}
    update = Update(weights, shapes, CONFIG, lambda matrices: Replicated(matrices, 0, 1), torch.float32)
    update.apply(gradients[0], RATES[0], torch.tensor(0.25), torch.tensor(True))
    before = {name: tensor.clone() for name, tensor in (weights | update.tensors()).items()}
    bad = {name: gradient * math.nan for name, gradient in gradients[1].items()}
    update.apply(bad, RATES[1], torch.tensor(math.nan), torch.tensor(False))
    for name, tensor in (weights | update.tensors()).items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0, msg=name)


def test_work_is_shared_evenly_and_each_matrix_has_one_owner() -> None:
    shapes = [torch.Size((128, 128))] * 8 + [torch.Size((384, 128))] * 12
    for world_size in (1, 2, 3, 5, 30):
        owned = owners(shapes, world_size)
        assert sorted(index for each in owned for index in each) == list(range(20))
        work = [sum(min(shapes[i]) * shapes[i].numel() for i in each) for each in owned]
        if world_size <= 5:
            assert max(work) <= 1.35 * sum(work) / world_size


def test_rows_are_cut_as_torch_chunk_does() -> None:
    for rows in (1, 2, 5, 12, 33):
        for world_size in (1, 2, 3, 4, 7):
            chunks = [len(chunk) for chunk in torch.arange(rows).chunk(world_size)]
            assert row_counts(rows, world_size) == chunks + [0] * (world_size - len(chunks))
