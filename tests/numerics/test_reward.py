"""reward: its gradient against a plain implementation, its start, its head in checkpoints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values
from tests.support.tuning import pretrained, tuned_from
from trainer.checkpoint.reading import newest_checkpoint
from trainer.config import Config
from trainer.model.reward import HEAD, RewardModel
from trainer.run_folder import RunFolder
from trainer.tokens.shards import TokenRows
from trainer.tokens.tokenizer import IM_END
from trainer.training.pair_measure import p_of_guessing
from trainer.training.precision import Numerics
from trainer.training.reward import RewardLoss, read_judged
from trainer.training.stage import TrainingData
from trainer.training.starting import load_weights

SHORT = {"steps": 3}
FP32 = Numerics("fp32", torch.device("cpu"), "blocks")


@pytest.fixture(scope="module")
def config(small_data: Path) -> Config:
    values = json.loads(json.dumps(SMALL)) | {"run_dir": str(small_data / "unused"), "data_dir": str(small_data)}
    return load_config_values(values)


@pytest.fixture(scope="module")
def rows(config: Config) -> TokenRows:
    return TrainingData.open(config, RunFolder.of(config), "pairs").train


@pytest.fixture(scope="module")
def base(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(small_data, tmp_path_factory.mktemp("pretrained"))


def judge_of(config: Config, seed: int) -> RewardModel:
    model = RewardModel(config.model, config.chat_row_tokens)
    model.init_weights(seed)
    with torch.no_grad():
        model.reward_head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def plain_reward(model: RewardModel, ids: torch.Tensor) -> torch.Tensor:
    """Of one unpacked conversation, read where its last end token stands."""
    end = int((ids == IM_END).nonzero()[-1])
    return model.reward_head(model(ids[None])[0, end]).squeeze()


def plain_loss(model: RewardModel, rows: TokenRows, ids: list[int]) -> tuple[torch.Tensor, list[float]]:
    """arXiv 2203.02155 eq. 1, summed over pairs, and each pair's margin."""
    inputs, _, documents = (torch.from_numpy(array) for array in rows.read(np.array(ids)))
    total, margins = torch.zeros(()), []
    for row in range(len(ids)):
        for first in range(1, int(documents[row].max()), 2):
            chosen, rejected = (plain_reward(model, inputs[row][documents[row] == n]) for n in (first, first + 1))
            total = total + torch.log(1 + torch.exp(rejected - chosen))
            margins.append((chosen - rejected).item())
    return total, margins


def gradient_of(model: RewardModel) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def test_loss_gradient_and_figures_are_those_of_a_plain_implementation(config: Config, rows: TokenRows) -> None:
    model = judge_of(config, 1)
    batch = read_judged(rows, np.array([0, 3, 5]), 4)  # a row of padding changes nothing
    module = RewardLoss(model, FP32)
    loss = module(batch)
    loss.backward()
    gradient = gradient_of(model)
    model.zero_grad()
    wanted, margins = plain_loss(model, rows, [0, 3, 5])
    wanted.backward()
    assert batch.num_targets == len(margins) >= 3
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    assert gradient_of(model).abs().max() > 1e-2
    torch.testing.assert_close(gradient, gradient_of(model), atol=1e-5, rtol=1e-4)
    assert module.noted is not None
    told = module.told(dict(zip(module.figures, module.noted.tolist(), strict=True)), batch.num_targets)
    assert told["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
    assert told["accuracy"] == pytest.approx(np.mean(np.array(margins) > 0))
    assert told["chosen_reward"] - told["rejected_reward"] == pytest.approx(told["margin"], abs=1e-5)


def test_no_pairs_have_no_loss_and_no_gradient(config: Config, rows: TokenRows) -> None:
    model = judge_of(config, 1)
    loss = RewardLoss(model, FP32)(read_judged(rows, np.empty(0, np.int64), 2))
    loss.backward()
    assert loss.item() == 0.0
    assert gradient_of(model).abs().max() == 0.0


def test_the_exact_binomial_test() -> None:
    assert p_of_guessing(0, 5) == 1.0
    assert p_of_guessing(5, 5) == 1 / 32
    normal = 0.5 * math.erfc((63.5 - 50) / 5 / math.sqrt(2))  # de Moivre and Laplace, with the continuity correction
    assert p_of_guessing(64, 100) == pytest.approx(normal, rel=0.05)


def test_the_first_step_is_exactly_undecided_and_later_ones_learn(base: Path, small_data: Path, tmp_path: Path) -> None:
    changes = {"reward__steps": 150, "reward__optimizer__lr": 0.01, "validation__max_rows_per_source": 64}
    config = tuned_from(base, small_data, tmp_path, "reward", **changes)
    ranks.run_trainer("reward", "--config", str(config), folder=tmp_path)
    run = tmp_path / "run"
    first, *later = runs.events(run, "steps_done", "reward")
    assert first["figures"] == {"accuracy": 0.0, "margin": 0.0, "chosen_reward": 0.0, "rejected_reward": 0.0}
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert np.mean([event["loss"] for event in later[-10:]]) < first["loss"] - 0.1
    assert np.mean([event["figures"]["accuracy"] for event in later[-10:]]) > 0.7
    measured = runs.events(run, "preferences_validated", "reward")[-1]
    assert set(measured["by_source"]) == {"sister", "order"}
    assert measured["p_value"] == p_of_guessing(round(measured["accuracy"] * measured["pairs"]), measured["pairs"])
    assert measured["kl"] is None
    assert runs.events(run, "validated", "reward") == []  # it writes no text


@pytest.mark.parametrize("adapters", [None, {"rank": 2, "alpha": 4.0}])
def test_the_head_is_kept_beside_trunk_or_adapters_and_read_again(
    adapters: dict[str, float] | None, base: Path, small_data: Path, tmp_path: Path
) -> None:
    config = tuned_from(base, small_data, tmp_path, "reward", reward__steps=5, reward__lora=adapters)
    ranks.run_trainer("reward", "--config", str(config), folder=tmp_path)
    run = tmp_path / "run"
    checkpoint = newest_checkpoint(run / "reward" / "checkpoints", lambda _: None)
    assert checkpoint is not None
    with safe_open(checkpoint.path / "model.safetensors", framework="pt") as stored:
        kept = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    assert kept[HEAD].shape == (1, 32)
    assert kept[HEAD].abs().max() > 0
    assert all("lora" in name or name == HEAD for name in kept) == (adapters is not None)
    config_of_run = Config.model_validate(checkpoint.manifest.config)
    model = RewardModel(config_of_run.model, config_of_run.chat_row_tokens)
    load_weights(model, checkpoint)
    assert torch.equal(model.reward_head.weight, kept[HEAD])
    rows = TrainingData.open(config_of_run, RunFolder.of(config_of_run), "pairs").held_out
    measured = runs.events(run, "preferences_validated", "reward")[-1]
    margins = [margin for ids in range(len(rows)) for margin in plain_loss(model, rows, [ids])[1]]
    if measured["pairs"] == len(margins):
        assert measured["margin"] == pytest.approx(np.mean(margins), abs=1e-5)


def test_a_reward_model_is_nobodys_start_and_writes_no_text(base: Path, small_data: Path, tmp_path: Path) -> None:
    changes = {f"{stage}__{field}": value for stage in ("reward", "dpo") for field, value in SHORT.items()}
    config = str(tuned_from(base, small_data, tmp_path, "reward", **changes))
    run = tmp_path / "run"
    ranks.run_trainer("reward", "--config", config, folder=tmp_path)
    process = ranks.trainer("generate", "--config", config, "--prompt", "a", folder=tmp_path)
    assert process.wait() == [65]  # the run holds no other weights
    ranks.run_trainer("dpo", "--config", config, folder=tmp_path)
    started = runs.events(run, "training_started", "dpo")[0]["started_from"]
    assert "reward" not in started
    process = ranks.trainer("chat", "--config", config, "--checkpoint", str(run / "reward" / "checkpoints"), folder=tmp_path)
    assert process.wait() == [65]
    assert "is a reward model, which judges answers but writes none" in process.text()
