"""dpo: its formulas against plain ones, its gradient against a plain implementation, its start."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values
from tests.support.tuning import pretrained, tuned_from
from trainer.config import Config
from trainer.config_tuning import DpoSection
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.shards import IGNORED, TokenRows
from trainer.training.dpo import DpoLoss, preference_losses
from trainer.training.pairs import ReferencedRows, read_pairs, target_starts
from trainer.training.precision import Numerics
from trainer.training.stage import TrainingData

CPU = torch.device("cpu")
FP32 = Numerics("fp32", CPU, "blocks")


def small_config(data: Path, **dpo: object) -> Config:
    values = json.loads(json.dumps(SMALL)) | {"run_dir": str(data / "unused"), "data_dir": str(data)}
    values["dpo"] |= dpo
    return load_config_values(values)


def model_of(config: Config, seed: int) -> GPT:
    model = GPT(config.model, config.chat_row_tokens)
    model.init_weights(seed)
    return model


@pytest.fixture(scope="module")
def rows(small_data: Path) -> TokenRows:
    config = small_config(small_data)
    return TrainingData.open(config, RunFolder.of(config), "pairs").train


def plain_pairs(rows: TokenRows, ids: list[int]) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Inputs and targets of each pair's answers, one by one, unpacked."""
    inputs, targets, documents = (torch.from_numpy(array) for array in rows.read(np.array(ids)))
    found = []
    for row in range(len(ids)):
        for first in range(1, int(documents[row].max()), 2):
            found.append([(inputs[row][documents[row] == n], targets[row][documents[row] == n]) for n in (first, first + 1)])
    return found


def plain_log_prob(model: GPT, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over an answer's tokens, from the whole softmax of one unpacked conversation."""
    log_probs = torch.log_softmax(model.logits(model(inputs[None])[0]), dim=-1)
    counts = targets != IGNORED
    return log_probs[counts].gather(1, targets[counts][:, None]).sum()


def plain_loss(
    policy: GPT, reference: GPT, pairs: list[list[tuple[torch.Tensor, torch.Tensor]]], beta: float, loss: str
) -> torch.Tensor:
    """arXiv 2305.18290, eq. 7, or 2310.12036, eq. 17 over means as in TRL; summed over pairs."""
    total = torch.zeros(())
    for chosen, rejected in pairs:
        with torch.no_grad():
            expected = [plain_log_prob(reference, *answer) for answer in (chosen, rejected)]
        found = [plain_log_prob(policy, *answer) for answer in (chosen, rejected)]
        if loss == "ipo":
            lengths = [int((targets != IGNORED).sum()) for _, targets in (chosen, rejected)]
            h = (found[0] - expected[0]) / lengths[0] - (found[1] - expected[1]) / lengths[1]
            total = total + (h - 1 / (2 * beta)) ** 2
        else:
            total = total - functional.logsigmoid(beta * ((found[0] - expected[0]) - (found[1] - expected[1])))
    return total


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_loss_and_gradient_are_those_of_a_plain_implementation(kind: str, small_data: Path, rows: TokenRows) -> None:
    config = small_config(small_data, beta=0.3, loss=kind)
    policy, reference = model_of(config, 1), model_of(config, 2)
    ids = np.array([0, 3, 5])
    judge = DpoLoss(reference, FP32, config)
    with torch.no_grad():
        expected = judge.log_probs(read_pairs(rows, ids, 3)).numpy()
    batch = read_pairs(rows, ids, 4, expected)  # a row of padding changes nothing
    pairs = plain_pairs(rows, ids.tolist())
    assert batch.num_targets == len(pairs) >= 3
    module = DpoLoss(policy, FP32, config)
    loss = module(batch)
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None])
    policy.zero_grad()
    wanted = plain_loss(policy, reference, pairs, 0.3, kind)
    wanted.backward()
    wanted_gradient = torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None])
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    assert wanted_gradient.abs().max() > 1e-2
    torch.testing.assert_close(gradient, wanted_gradient, atol=1e-5, rtol=1e-4)


def test_figures_are_the_pairs_own(small_data: Path, rows: TokenRows) -> None:
    config = small_config(small_data)
    policy, reference = model_of(config, 1), model_of(config, 2)
    ids = np.array([1, 2])
    with torch.no_grad():
        expected = DpoLoss(reference, FP32, config).log_probs(read_pairs(rows, ids, 2)).numpy()
        module = DpoLoss(policy, FP32, config)
        batch = read_pairs(rows, ids, 2, expected)
        module(batch)
        rewards = [
            [0.1 * (plain_log_prob(policy, *answer) - plain_log_prob(reference, *answer)).item() for answer in pair]
            for pair in plain_pairs(rows, ids.tolist())
        ]
    assert module.noted is not None
    told = module.told(dict(zip(module.figures, module.noted.tolist(), strict=True)), batch.num_targets)
    assert told["margin"] == pytest.approx(np.mean([chosen - rejected for chosen, rejected in rewards]), abs=1e-4)
    assert told["accuracy"] == pytest.approx(np.mean([chosen > rejected for chosen, rejected in rewards]))
    assert told["chosen_reward"] == pytest.approx(np.mean([chosen for chosen, _ in rewards]), abs=1e-4)
    assert told["kl"] > 0


def test_label_smoothing_and_ipo_are_their_formulas() -> None:
    h = torch.linspace(-30, 30, 61, dtype=torch.float64)
    sigmoid = 1 / (1 + torch.exp(-0.2 * h))
    smoothed = preference_losses(h, DpoSection(beta=0.2, label_smoothing=0.1))
    torch.testing.assert_close(smoothed, -0.9 * sigmoid.log() - 0.1 * (1 - sigmoid).log())
    torch.testing.assert_close(preference_losses(h, DpoSection(beta=0.2)), -sigmoid.log())
    torch.testing.assert_close(preference_losses(h, DpoSection(beta=0.2, loss="ipo")), (h - 2.5) ** 2)
    with pytest.raises(ValueError, match="label_smoothing is a setting of loss sigmoid; the loss is ipo"):
        DpoSection(loss="ipo", label_smoothing=0.1)


def test_reference_values_follow_their_rows(rows: TokenRows) -> None:
    starts = target_starts(rows)
    referenced = ReferencedRows(starts, np.arange(starts[-1], dtype=np.float32))
    batch = referenced.read(rows, np.array([4, 0]), 3)
    wanted = [*range(starts[4], starts[5]), *range(starts[0], starts[1])]
    assert batch.reference_N.tolist() == wanted
    assert referenced.read(rows, np.empty(0, np.int64), 2).num_targets == 0


@pytest.fixture(scope="module")
def base(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(small_data, tmp_path_factory.mktemp("pretrained"))


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_first_step_is_exactly_undecided_and_later_ones_learn(
    loss: str, base: Path, small_data: Path, tmp_path: Path
) -> None:
    config = tuned_from(base, small_data, tmp_path, "dpo", dpo__loss=loss, dpo__steps=40, dpo__optimizer__lr=0.003)
    ranks.run_trainer("dpo", "--config", str(config), folder=tmp_path)
    first, *later = runs.events(tmp_path / "run", "steps_done", "dpo")
    assert first["figures"] == {"accuracy": 0.0, "margin": 0.0, "chosen_reward": 0.0, "rejected_reward": 0.0, "kl": 0.0}
    assert first["loss"] == pytest.approx(math.log(2) if loss == "sigmoid" else 25.0, abs=1e-6)
    assert np.mean([event["loss"] for event in later[-10:]]) < first["loss"]
    assert np.mean([event["figures"]["accuracy"] for event in later[-10:]]) > 0.6
    measured = runs.events(tmp_path / "run", "preferences_validated", "dpo")[-1]
    assert measured["pairs"] > 3
    assert set(measured["by_source"]) == {"sister", "order"}
    assert runs.events(tmp_path / "run", "validated", "dpo")[-1]["bits_per_byte"] > 0
    kept = tmp_path / "run" / "dpo" / "reference"
    assert {path.name for path in kept.iterdir()} == {"train.f32", "held_out.f32", "manifest.json"}
