"""One step: accumulation, reduction, numbers that are not finite, what decays."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values, write_config
from trainer.config import Config, OptimizerSection
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.order import Order, share_of_rank
from trainer.training.assembly import TrainingData
from trainer.training.batches import read_batch
from trainer.training.engines.ddp import DataParallel, StepSums
from trainer.training.peers import joined
from trainer.training.pretrain import Pretraining
from trainer.world import World

CPU = torch.device("cpu")


def small_config(data: Path, **pretrain: object) -> Config:
    values = json.loads(json.dumps(SMALL)) | {"run_dir": str(data / "unused"), "data_dir": str(data)}
    values["pretrain"] |= pretrain
    return load_config_values(values)


def mean_gradient(config: Config, world: World) -> torch.Tensor:
    """Collective: the gradient of the first step's mean loss, as the loop makes it."""
    data = TrainingData.open(config, RunFolder.of(config))
    model = GPT(config.model, config.tokens.row_tokens)
    model.init_weights(1)
    engine = DataParallel(model, config.pretrain.optimizer, world, CPU)
    stage = Pretraining(model, torch.float32, compiled=False)
    order = Order.of_steps(5, len(data.train), config.pretrain.global_batch, config.pretrain.micro_batch, 1)
    micro_batches = order.micro_batches_of_step(0)
    engine.start_step()
    loss, targets = 0.0, 0
    for number in share_of_rank(len(micro_batches), world.rank, world.size):
        batch = read_batch(data.train, micro_batches[number], order.micro_batch, CPU)
        part = stage.loss(batch)
        part.backward()
        loss += part.item()
        targets += batch.num_targets
    sums = engine.reduce(StepSums(loss, targets))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]) / sums.targets


def _gradient_of_rank(config_json: str, output: str) -> None:
    import os

    world = World.of(os.environ)
    with joined(world, CPU, 60):
        gradient = mean_gradient(Config.model_validate_json(config_json), world)
    if world.is_first:
        Path(output).write_text(json.dumps(gradient.tolist()))


def test_accumulation_1x64_equals_8x8_equals_2_ranks_of_4x8(small_data: Path, tmp_path: Path) -> None:
    at_once = mean_gradient(small_config(small_data, global_batch=64, micro_batch=64), World())
    in_eight = small_config(small_data, global_batch=64, micro_batch=8)
    accumulated = mean_gradient(in_eight, World())
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


def test_a_step_has_exactly_one_collective_whatever_the_accumulation(small_data: Path, tmp_path: Path) -> None:
    counts = {}
    for steps in (3, 8):
        folder = tmp_path / str(steps)
        folder.mkdir()
        config = write_config(folder / "config.yaml", small_data, pretrain__global_batch=16, pretrain__micro_batch=2)
        output = folder / "names.json"
        processes = ranks.start(_count_reductions, (str(config), steps, str(output)), folder, 2)
        assert processes.wait() == [0, 0], processes.text()
        names = json.loads(output.read_text())
        assert set(names) == {"gloo:all_reduce"}
        counts[steps] = len(names)
    assert counts[8] - counts[3] == 8 - 3


def _train_with_nan(step: int, rank: str, config: str) -> None:
    """Make one micro-batch's loss NaN on one rank."""
    import os

    from trainer.cli import main

    original = Pretraining.loss
    calls = 0

    def loss(self: Pretraining, batch: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = original(self, batch)  # type: ignore[arg-type]
        return value * math.nan if calls == step and os.environ.get("RANK", "0") == rank else value

    Pretraining.loss = loss  # type: ignore[method-assign]
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

    original = Pretraining.loss
    Pretraining.loss = lambda self, batch: original(self, batch) * math.nan  # type: ignore[method-assign]
    main(["pretrain", "--config", config])


def test_a_run_that_stays_not_finite_ends_with_its_own_error(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__max_skipped_in_a_row=3)
    processes = ranks.start(_train_with_nan_always, (str(config),), tmp_path)
    assert processes.wait() == [65]
    assert "step 3: 3 steps in a row had no finite loss or gradient; lower the learning rate" in processes.text()


def test_norms_never_decay_and_the_embedding_as_configured() -> None:
    config = load_config_values({**SMALL}).model
    for decay_embedding in (False, True):
        model = GPT(config, 8)
        model.init_weights(1)
        engine = DataParallel(model, OptimizerSection(lr=0.1, weight_decay=0.5, decay_embedding=decay_embedding), World(), CPU)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        engine.start_step()
        engine.apply(0.1, 1.0, None)  # a gradient of zero: only decay can change a weight
        for name, parameter in model.named_parameters():
            decays = parameter.dim() == 2 and (decay_embedding or name != "embed_tokens.weight")
            factor = 1 - 0.1 * 0.5 if decays else 1.0
            torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_gradients_are_clipped_to_the_global_norm_of_the_mean() -> None:
    config = load_config_values({**SMALL}).model
    model = GPT(config, 8)
    model.init_weights(1)
    engine = DataParallel(model, OptimizerSection(), World(), CPU)
    for parameter in model.parameters():
        parameter.grad.fill_(2.0)
    norm = engine.apply(1e-3, 4.0, 1.0)
    assert norm == pytest.approx(0.5 * math.sqrt(config.num_parameters), rel=1e-5)
    clipped = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert clipped.norm().item() == pytest.approx(1.0, rel=1e-4)


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
