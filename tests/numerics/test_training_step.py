"""One step: accumulation, reduction, numbers that are not finite, what decays."""

import json
import math
import shutil
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values, write_config
from trainer.config import Config
from trainer.config_training import OptimizerSection
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.order import Order
from trainer.training.batches import Loader
from trainer.training.engines.ddp import DataParallel
from trainer.training.engines.protocol import Gate, Outcome, Share
from trainer.training.optimizers.muon import Replicated
from trainer.training.optimizers.update import Rates, Update
from trainer.training.peers import joined
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import TrainingData
from trainer.world import World

CPU = torch.device("cpu")


def small_config(data: Path, **pretrain: object) -> Config:
    values = json.loads(json.dumps(SMALL)) | {"run_dir": str(data / "unused"), "data_dir": str(data)}
    values["pretrain"] |= pretrain
    return load_config_values(values)


def one_step(config: Config, world: World, clip_norm: float | None = None) -> tuple[Outcome, torch.Tensor]:
    """Collective: the first step of a model as the loop takes it, and the scaled gradient that moved the weights."""
    data = TrainingData.open(config, RunFolder.of(config))
    model = GPT(config.model, config.tokens.row_tokens)
    model.init_weights(1)
    section = config.pretrain.model_copy(update={"clip_norm": clip_norm})
    engine = DataParallel(NextTokenLoss(model, Numerics("fp32", CPU, "blocks")), model, section, world, CPU)
    order = Order.of_steps(5, len(data.train), config.pretrain.global_batch, config.pretrain.micro_batch, 1)
    engine.start_step()
    loss, targets = torch.zeros(()), 0
    with closing(Loader(data.train, order, world, CPU, in_lockstep=False)) as loader:
        for micro in loader.micro_batches(0):
            part = engine.loss(micro.batch)
            engine.backward(part, last=micro.is_last)
            loss += part.detach()
            targets += micro.batch.num_targets
    outcome = engine.finish_step(Share(loss, targets), Rates(lr=1e-3, weight_decay=0.0)).read()
    # AdamW's first moment after one step from zero is (1 - beta1) times the gradient that it was given
    moments = {name: tensor for _, name, tensor in engine.tensors() if name.startswith("exp_avg.")}
    gradient = torch.cat([moments[f"exp_avg.{name}"].flatten() for name, _ in model.named_parameters()])
    return outcome, gradient / (1 - section.optimizer.betas[0])


def _gradient_of_rank(config_json: str, output: str) -> None:
    import os

    world = World.of(os.environ)
    with joined(world, CPU, 60):
        _, gradient = one_step(Config.model_validate_json(config_json), world)
    if world.is_first:
        Path(output).write_text(json.dumps(gradient.tolist()))


def test_accumulation_1x64_equals_8x8_equals_2_ranks_of_4x8(small_data: Path, tmp_path: Path) -> None:
    _, at_once = one_step(small_config(small_data, global_batch=64, micro_batch=64), World())
    in_eight = small_config(small_data, global_batch=64, micro_batch=8)
    _, accumulated = one_step(in_eight, World())
    assert at_once.abs().max() > 1e-3
    torch.testing.assert_close(accumulated, at_once, atol=1e-6, rtol=0)
    for world_size in (2, 3):
        output = tmp_path / f"{world_size}.json"
        processes = ranks.start(_gradient_of_rank, (in_eight.model_dump_json(), str(output)), tmp_path, world_size)
        assert processes.wait() == [0] * world_size, processes.text()
        torch.testing.assert_close(torch.tensor(json.loads(output.read_text())), at_once, atol=1e-6, rtol=0)


def _count_reductions(config: str, steps: int, output: str) -> None:
    """Train with torch's profiler counting gloo's collectives."""
    import os

    from torch.profiler import ProfilerActivity, profile

    from trainer.cli import main

    with profile(activities=[ProfilerActivity.CPU]) as profiler, pytest.raises(SystemExit):
        main(["pretrain", "--config", config, "--set", f"pretrain.steps={steps}"])
    names = [event.name for event in profiler.events() if event.name.startswith("gloo:")]
    if os.environ["RANK"] == "0":
        Path(output).write_text(json.dumps(names))


@pytest.mark.parametrize(
    ("changes", "per_step"),
    [
        ({}, {"gloo:all_reduce": 1}),
        ({"pretrain__optimizer": {"kind": "muon"}}, {"gloo:all_reduce": 1, "gloo:all_gather": 1}),
        ({"pretrain__gradient_dtype": "bf16"}, {"gloo:all_reduce": 2}),
        # 512 x 32 embedding, 2 blocks of 9,280 numbers: three parts of at least 20 kB, each of which travels once
        ({"engine__bucket_mb": 0.02}, {"gloo:all_reduce": 4}),
    ],
    ids=["plain", "muon", "compressed", "overlapped"],
)
def test_a_step_has_exactly_one_reduction_whatever_the_accumulation(
    small_data: Path, tmp_path: Path, changes: dict[str, object], per_step: dict[str, int]
) -> None:
    counts = {}
    for steps in (3, 8):
        folder = tmp_path / str(steps)
        folder.mkdir()
        changes = {"pretrain__global_batch": 16, "pretrain__micro_batch": 2, **changes}
        config = write_config(folder / "config.yaml", small_data, **changes)
        output = folder / "names.json"
        processes = ranks.start(_count_reductions, (str(config), steps, str(output)), folder, 2)
        assert processes.wait() == [0, 0], processes.text()
        counts[steps] = Counter(json.loads(output.read_text()))
    assert set(counts[8]) == set(per_step)
    assert {name: (counts[8][name] - counts[3][name]) / 5 for name in per_step} == per_step


def test_overlapped_and_compressed_gradients_train_alike(small_data: Path, tmp_path: Path) -> None:
    losses = {}
    for name, changes in {
        "plain": {},
        "overlapped": {"engine__bucket_mb": 0.02},
        "compressed": {"pretrain__gradient_dtype": "bf16"},
        "both": {"engine__bucket_mb": 0.02, "pretrain__gradient_dtype": "bf16"},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        config = write_config(folder / "config.yaml", small_data, pretrain__global_batch=6, **changes)
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder, world_size=2)
        losses[name] = runs.losses(folder / "run")
    for step, loss in losses["plain"].items():
        assert losses["overlapped"][step] == pytest.approx(loss, abs=1e-6)
        assert losses["compressed"][step] == pytest.approx(loss, abs=0.1)
        assert losses["both"][step] == losses["compressed"][step]
    assert losses["compressed"][12] != losses["plain"][12]


def _train_with_nan(step: int, rank: str, config: str) -> None:
    """Make one micro-batch's loss NaN on one rank."""
    import os

    from trainer.cli import main

    original = NextTokenLoss.forward
    calls = 0

    def loss(self: NextTokenLoss, batch: object) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()  # validation comes before the first step
        value = original(self, batch)  # type: ignore[arg-type]
        return value * math.nan if calls == step and os.environ.get("RANK", "0") == rank else value

    NextTokenLoss.forward = loss  # type: ignore[method-assign]
    main(["pretrain", "--config", config])


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all_and_counted(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=6)
    processes = ranks.start(_train_with_nan, (2 * 2 + 1, "1", str(config)), tmp_path, 2)
    assert processes.wait() == [0, 0], processes.text()
    run = tmp_path / "run"
    assert [event["step"] for event in runs.events(run, "step_skipped")] == [3]
    assert runs.state_of(run, 6)[2]["skipped_steps"] == 1
    assert all(math.isfinite(loss) for step, loss in runs.losses(run).items() if step != 3)
    clean = tmp_path / "clean"
    clean.mkdir()
    other = write_config(clean / "config.yaml", small_data, pretrain__steps=6)
    ranks.run_trainer("pretrain", "--config", str(other), folder=clean, world_size=2)
    assert runs.losses(run)[4] != runs.losses(clean / "run")[4]  # the third update is missing
    assert runs.losses(run)[2] == runs.losses(clean / "run")[2]


def _train_with_nan_always(config: str) -> None:
    from trainer.cli import main

    original = NextTokenLoss.forward
    NextTokenLoss.forward = lambda self, batch: original(self, batch) * math.nan  # type: ignore[method-assign]
    main(["pretrain", "--config", config])


def test_a_run_that_stays_not_finite_ends_with_its_own_error(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__max_skipped_in_a_row=3)
    processes = ranks.start(_train_with_nan_always, (str(config),), tmp_path)
    assert processes.wait() == [65]
    assert "step 3: 3 steps in a row had no finite loss or gradient; lower the learning rate" in processes.text()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("decay_embedding", [False, True])
def test_norms_never_decay_and_the_embedding_as_configured(kind: str, decay_embedding: bool) -> None:
    model = GPT(load_config_values({**SMALL}).model, 8)
    model.init_weights(1)
    optimizer = OptimizerSection(kind=kind, lr=0.1, decay_embedding=decay_embedding)  # type: ignore[arg-type]
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    shapes = {name: weight.shape for name, weight in weights.items()}
    update = Update(weights, shapes, optimizer, partial(Replicated, rank=0, world_size=1), torch.float32)
    before = {name: weight.clone() for name, weight in weights.items()}
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}  # then only decay can change a weight
    update.apply(zeros, Rates(lr=0.1, weight_decay=0.5), torch.tensor(1.0), torch.tensor(True))
    for name, weight in weights.items():
        decays = weight.dim() == 2 and (decay_embedding or name != "embed_tokens.weight")
        torch.testing.assert_close(weight, before[name] * (1 - 0.1 * 0.5 if decays else 1.0), msg=name)


def test_gradients_are_clipped_to_the_global_norm_of_the_mean(small_data: Path) -> None:
    config = small_config(small_data)
    outcome, gradient = one_step(config, World())
    assert outcome.norm == pytest.approx(gradient.norm().item(), rel=1e-5)
    again, clipped = one_step(config, World(), clip_norm=outcome.norm / 2)
    assert again.norm == pytest.approx(outcome.norm, rel=1e-6)
    torch.testing.assert_close(clipped, gradient / 2, rtol=1e-4, atol=1e-8)


def test_a_gate_moves_the_weights_only_for_finite_numbers_and_never_again_after_a_step_was_left_off() -> None:
    gate = Gate(1.0, CPU)
    nan = math.nan
    for loss, targets, aborted, squared_norm, wanted in (
        (2.0, 4.0, 0.0, 4.0, True),
        (nan, 4.0, 0.0, 4.0, False),
        (2.0, 4.0, 0.0, math.inf, False),
        (2.0, 0.0, 0.0, 0.0, False),
        (2.0, 4.0, 1.0, 4.0, False),
        (2.0, 4.0, 0.0, 4.0, False),
    ):
        _, move, pending = gate.open(torch.tensor([loss, targets, 0.0, aborted, 0.0]), torch.tensor(squared_norm))
        assert bool(move) == bool(pending.read().applied) == wanted


@pytest.mark.tools
def test_compiled_and_plain_training_lose_alike(small_data: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.fail("torch.compile on CPU needs a C++ compiler: apt-get install g++")
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    for folder, flag in ((plain, False), (compiled, True)):
        folder.mkdir()
        config = write_config(folder / "config.yaml", small_data, pretrain__steps=4, compile=flag, model__num_layers=1)
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
    for step, loss in runs.losses(plain / "run").items():
        assert runs.losses(compiled / "run")[step] == pytest.approx(loss, abs=1e-4)


def _train_counting_compilations(config: str, output: str) -> None:
    """Note how many graphs torch has compiled when each step begins, and at the end."""
    from torch._dynamo.utils import counters

    from trainer.cli import main

    original, counts = DataParallel.start_step, []

    def start_step(self: DataParallel) -> None:
        counts.append(counters["stats"]["unique_graphs"])
        original(self)

    DataParallel.start_step = start_step  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        main(["pretrain", "--config", config])
    Path(output).write_text(json.dumps([*counts, counters["stats"]["unique_graphs"]]))


@pytest.mark.tools
def test_nothing_is_compiled_again_after_the_second_step_nor_by_the_last_batch_validation_or_resume(
    small_data: Path, tmp_path: Path
) -> None:
    # 1,285 rows in batches of 216: the last one is short; validation comes after it only
    changes = {"pretrain__steps": None, "pretrain__epochs": 1, "pretrain__global_batch": 216, "pretrain__micro_batch": 8}
    for stop_after in (4, None):
        stop = {"pretrain__stop_after": stop_after}
        settings = write_config(tmp_path / "config.yaml", small_data, **changes, **stop, compile=True)
        output = tmp_path / "counts.json"
        processes = ranks.start(_train_counting_compilations, (str(settings), str(output)), tmp_path)
        assert processes.wait(deadline_s=170) == [0], processes.text()
        counts = json.loads(output.read_text())
        assert counts[2] > 0
        assert len(set(counts[2:])) == 1, counts
    assert runs.last_step(tmp_path / "run") == 6
