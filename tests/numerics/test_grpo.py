"""grpo: its formulas against plain ones, its gradient against a plain implementation, its start, its judges."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values
from tests.support.rewards import share_of_vowels
from tests.support.tuning import pretrained, tuned_from
from trainer.alignment.grpo import Company, GrpoLoss, advantages, is_clipped, kl_estimates, policy_losses
from trainer.alignment.judging import FunctionJudge, ModelJudge
from trainer.alignment.rollouts import AnswerRows, PromptBatch, answer_seed, read_prompts, write_answers
from trainer.config import Config
from trainer.config_tuning import GrpoSection
from trainer.errors import RewardError
from trainer.model.gpt import GPT
from trainer.model.reward import RewardModel
from trainer.run_folder import RunFolder
from trainer.tokens.shards import TokenRows
from trainer.tokens.tokenizer import IM_END, TOKENIZER_FILE, TextEncoder
from trainer.training.precision import Numerics
from trainer.training.stage import TrainingData

CPU = torch.device("cpu")
FP32 = Numerics("fp32", CPU, "blocks")
LONGEST = 176


def small_config(data: Path, **grpo: object) -> Config:
    values = json.loads(json.dumps(SMALL)) | {"run_dir": str(data / "unused"), "data_dir": str(data)}
    values["grpo"] |= grpo
    return load_config_values(values)


def model_of(config: Config, seed: int) -> GPT:
    model = GPT(config.model, LONGEST)
    model.init_weights(seed)
    return model


@pytest.fixture(scope="module")
def encoder(small_data: Path) -> TextEncoder:
    return TextEncoder(small_data / "tokenizer" / TOKENIZER_FILE)


@pytest.fixture(scope="module")
def rows(small_data: Path) -> TokenRows:
    config = small_config(small_data)
    return TrainingData.open(config, RunFolder.of(config), "prompts").train


@pytest.fixture(scope="module")
def base(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(small_data, tmp_path_factory.mktemp("pretrained"))


# Formulas


def test_advantages_are_those_of_the_paper_and_equal_rewards_teach_nothing() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.1, 0.1, 0.1, 0.1], [3.0, -1.0, 0.5, 0.5]], dtype=torch.float64)
    plain = np.array([[each - np.mean(group) for each in group] for group in rewards.tolist()])
    torch.testing.assert_close(advantages(rewards, scaled=False), torch.from_numpy(plain))  # arXiv 2503.20783
    deviations = np.array([[np.std(group, ddof=1)] for group in rewards.tolist()])
    scaled = advantages(rewards, scaled=True)
    torch.testing.assert_close(scaled, torch.from_numpy(plain / (deviations + 1e-4)))  # arXiv 2402.03300, 4.1.2
    assert scaled[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("advantage", [1.5, -0.5])
def test_the_clipped_loss_is_its_formula_and_has_no_gradient_where_it_clips(advantage: float) -> None:
    """arXiv 2402.03300 eq. 3, with the two limits of arXiv 2503.14476 eq. 8."""
    section = GrpoSection(clip_low=0.2, clip_high=0.3)
    ratios = torch.tensor([0.5, 0.81, 0.9, 1.0, 1.2, 1.29, 2.0], dtype=torch.float64)
    log_probs = ratios.log().requires_grad_()
    of = torch.full_like(ratios, advantage)
    losses = policy_losses(log_probs, torch.zeros_like(ratios), of, section)
    wanted = [-min(r * advantage, min(max(r, 0.8), 1.3) * advantage) for r in ratios.tolist()]
    torch.testing.assert_close(losses, torch.tensor(wanted, dtype=torch.float64))
    losses.sum().backward()
    assert log_probs.grad is not None
    clipped = is_clipped(ratios, of, section)
    assert clipped.tolist() == ([False] * 6 + [True] if advantage > 0 else [True] + [False] * 6)
    torch.testing.assert_close(log_probs.grad[~clipped], (-ratios * advantage)[~clipped])
    assert log_probs.grad[clipped].abs().max() == 0.0


def test_cispo_is_its_formula_and_every_token_keeps_a_gradient() -> None:
    """arXiv 2506.13585 eq. 4 and 5."""
    section = GrpoSection(loss="cispo", clip_low=0.5, clip_high=4.0)
    ratios = torch.tensor([0.1, 0.5, 1.0, 3.0, 9.0], dtype=torch.float64)
    old = torch.tensor([-3.0, -2.0, -1.0, -4.0, -5.0], dtype=torch.float64)
    log_probs = (old + ratios.log()).requires_grad_()
    of = torch.tensor([1.0, -2.0, 0.5, 1.0, -1.0], dtype=torch.float64)
    losses = policy_losses(log_probs, old, of, section)
    weights = torch.tensor([0.1, 0.5, 1.0, 3.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(losses, -weights * of * log_probs)
    losses.sum().backward()
    torch.testing.assert_close(log_probs.grad, -weights * of)
    assert is_clipped(ratios, of, section).tolist() == [False, False, False, False, True]


def test_the_kl_estimate_is_schulmans_third_and_right_on_average() -> None:
    """E over p of (q / p - 1 - log(q / p)) is KL(p || q): "Approximating KL divergence", Schulman 2020."""
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    estimates = kl_estimates(p.log(), q.log())
    assert (estimates >= 0).all()
    assert (p * estimates).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-12)
    assert kl_estimates(p.log(), p.log()).tolist() == [0.0, 0.0, 0.0]


# The whole loss


def plain_log_probs(model: GPT, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Of an answer's tokens, from the whole softmax of one unpadded text."""
    ids = torch.tensor([*prompt, *answer])
    log_probs = torch.log_softmax(model.logits(model(ids[None, :-1])[0]), dim=-1)
    return log_probs[len(prompt) - 1 :].gather(1, torch.tensor(answer)[:, None])[:, 0]


def plain_loss(policy: GPT, old: GPT, reference: GPT, config: Config, batch: PromptBatch, encoder: TextEncoder) -> torch.Tensor:
    """arXiv 2402.03300 eq. 3 or 2506.13585 eq. 4, answer by answer and token by token, summed over answers."""
    section, total = config.grpo, torch.zeros(())
    for row, prompt in zip(batch.rows, batch.prompts, strict=True):
        seeds = [answer_seed(config.seed, 5, row, place) for place in range(section.group_size)]
        answers = write_answers(old, [prompt] * len(seeds), seeds, section.max_tokens, encoder.vocab_size)
        texts = [encoder.decode(answer[:-1] if answer[-1] == IM_END else answer) for answer in answers]
        rewards = np.array([share_of_vowels("", text, "") for text in texts])
        for answer, reward in zip(answers, rewards, strict=True):
            advantage = (reward - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
            ours = plain_log_probs(policy, prompt, answer)
            with torch.no_grad():
                before, theirs = plain_log_probs(old, prompt, answer), plain_log_probs(reference, prompt, answer)
            for now, then, fixed in zip(ours, before, theirs, strict=True):
                ratio = torch.exp(now - then)
                held = torch.clamp(ratio, 1 - section.clip_low, 1 + section.clip_high)
                gain = (
                    ratio.detach().clamp(max=1 + section.clip_high) * advantage * now
                    if section.loss == "cispo"
                    else torch.min(ratio * advantage, held * advantage)
                )
                kl = torch.exp(fixed - now) - (fixed - now) - 1
                kl = kl * ratio if section.kl_by_ratio else kl  # TRL's use_bias_correction_kl
                length = len(answer) if section.length_norm == "answer" else section.max_tokens
                total = total - (gain - section.beta * kl) / length
    return total


def gradient_of(model: GPT) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize(
    "changes",
    [{}, {"loss": "cispo", "length_norm": "constant"}, {"kl_by_ratio": True}],
    ids=["clipped", "cispo", "kl by ratio"],
)
def test_loss_and_gradient_are_those_of_a_plain_implementation(
    changes: dict[str, Any], small_data: Path, rows: TokenRows, encoder: TextEncoder
) -> None:
    config = small_config(small_data, beta=0.5, updates_per_rollout=2, clip_low=0.05, clip_high=0.05, **changes)
    policy, old, reference = model_of(config, 1), model_of(config, 1), model_of(config, 2)
    with torch.no_grad():
        for weight in policy.parameters():  # so that ratios spread around 1
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)), alpha=0.01)
    batch = read_prompts(config.grpo.group_size, rows, np.array([0, 3]), 2)
    assert batch.num_targets == 8
    module = GrpoLoss(policy, FP32, config)
    judge = FunctionJudge.named("tests.support.rewards:share_of_vowels", encoder)
    module.meet(Company(judge, encoder.vocab_size, reference, old))
    module.start_step(5)
    loss = module(batch)
    loss.backward()
    gradient = gradient_of(policy)
    policy.zero_grad()
    wanted = plain_loss(policy, old, reference, config, batch, encoder)
    wanted.backward()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    assert gradient_of(policy).abs().max() > 1e-2
    torch.testing.assert_close(gradient, gradient_of(policy), atol=1e-5, rtol=1e-4)
    assert module.noted is not None
    told = module.told(dict(zip(module.figures, module.noted.tolist(), strict=True)), batch.num_targets)
    assert 0.1 < told["clip_share"] < 0.9
    assert told["kl"] > 0


def test_an_answer_depends_on_its_own_noise_and_not_on_its_neighbours(
    small_data: Path, rows: TokenRows, encoder: TextEncoder
) -> None:
    config = small_config(small_data)
    model = model_of(config, 4)
    prompts = read_prompts(1, rows, np.array([0, 1, 2, 3]), 4).prompts
    seeds = [answer_seed(1, 2, row, 0) for row in range(4)]
    together = write_answers(model, prompts, seeds, 12, encoder.vocab_size)
    for prompt, seed, answer in zip(prompts, seeds, together, strict=True):
        assert write_answers(model, [prompt], [seed], 12, encoder.vocab_size) == [answer]
    one, other = write_answers(model, prompts[:1] * 2, seeds[:2], 12, encoder.vocab_size)
    assert one != other
    assert len({answer_seed(*key) for key in product((0, 1), repeat=4)}) == 16


def test_prompts_are_what_the_chat_template_asks_with(rows: TokenRows, encoder: TextEncoder) -> None:
    batch = read_prompts(4, rows, np.array([0, 7]), 2)
    for prompt, expected in zip(batch.prompts, batch.expected, strict=True):
        text = encoder.decode(prompt)
        assert text.startswith("<|im_start|>user\n")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert len(encoder.decode(expected)) > 3
        assert "<|" not in encoder.decode(expected)


# Judges


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.support.nowhere:reward", "cannot import tests.support.nowhere"),
        ("tests.support.rewards:nobody", "tests.support.rewards has no function nobody"),
        ("tests.support.rewards:takes_two", r"must take \(prompt, answer, expected\)"),
    ],
)
def test_a_reward_function_that_is_not_there_is_named(name: str, message: str, encoder: TextEncoder) -> None:
    with pytest.raises(RewardError, match=message):
        FunctionJudge.named(name, encoder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "raised KeyError: 'no such word' for the answer 'a word'"),
        ("gives_text", "gave 'good' for the answer 'a word'; it must be a number"),
        ("gives_nan", "gave nan for the answer 'a word'; it must be finite"),
    ],
)
def test_a_reward_function_that_fails_is_named_with_the_answer(name: str, message: str, encoder: TextEncoder) -> None:
    judge = FunctionJudge.named(f"tests.support.rewards:{name}", encoder)
    answer = (*encoder.encode("a word"), IM_END)
    with pytest.raises(RewardError, match=f"grpo.reward tests.support.rewards:{name}: {message}"):
        judge.rewards([(1, 2)], [answer], [()])


def test_a_wrong_form_of_reward_is_refused_when_the_config_is_made() -> None:
    with pytest.raises(ValueError, match="reward"):
        GrpoSection(reward="no colon")
    with pytest.raises(ValueError, match="reward names a function and reward_from a model; remove one of them"):
        GrpoSection(reward="a:b", reward_from="runs/x")


def test_the_model_judge_reads_each_answer_at_its_end_whatever_stands_beside_it(small_data: Path, rows: TokenRows) -> None:
    config = small_config(small_data)
    model = RewardModel(config.model, LONGEST)
    model.init_weights(1)
    with torch.no_grad():
        model.reward_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    prompts = list(read_prompts(1, rows, np.array([0, 1, 2]), 3).prompts)
    answers = [(70, 80, IM_END), (90,), (99, 100, 101, 102)]
    judged = ModelJudge(model.eval(), FP32).rewards(prompts, answers, [()] * 3)
    for prompt, answer, reward in zip(prompts, answers, judged, strict=True):
        ids = [*prompt, *(each for each in answer if each != IM_END), IM_END]
        assert reward == pytest.approx(model.reward_head(model(torch.tensor([ids]))[0, -1]).item(), abs=1e-5)


# Runs


def test_the_first_step_has_ratio_1_and_kl_0_exactly_and_the_mean_reward_rises(
    base: Path, small_data: Path, tmp_path: Path
) -> None:
    changes = {"steps": 40, "global_batch": 8, "group_size": 8, "beta": 0.01, "optimizer__lr": 0.02, "updates_per_rollout": 2}
    config = tuned_from(base, small_data, tmp_path, "grpo", **{f"grpo__{name}": value for name, value in changes.items()})
    ranks.run_trainer("grpo", "--config", str(config), folder=tmp_path)
    run = tmp_path / "run"
    told = [event["figures"] for event in runs.events(run, "steps_done", "grpo")]
    assert told[0]["kl"] == 0.0
    assert told[0]["clip_share"] == 0.0
    assert max(each["clip_share"] for each in told[1::2]) > 0.0  # the second step with the same writer
    first, last = (np.mean([each["reward"] for each in part]) for part in (told[:5], told[-5:]))
    assert last > first + 0.15
    assert told[-1]["kl"] > 0.0
    judged = runs.events(run, "answers_judged", "grpo")[-1]
    assert judged["reward"] > first + 0.15
    assert judged["samples"][0]["reward"] == share_of_vowels("", judged["samples"][0]["answer"], "")
    assert runs.events(run, "validated", "grpo")[-1]["bits_per_byte"] > 0


def test_adapters_that_go_on_amid_a_round_of_answers_lose_as_if_nothing_had_been(
    base: Path, small_data: Path, tmp_path: Path
) -> None:
    changes = {"steps": 6, "updates_per_rollout": 4, "lora": {"rank": 2, "alpha": 4.0}, "optimizer__lr": 0.05}
    changed = {f"grpo__{name}": value for name, value in changes.items()} | {"checkpoint__keep": 9}
    whole = tuned_from(base, small_data, tmp_path / "whole", "grpo", **changed)
    ranks.run_trainer("grpo", "--config", str(whole), folder=tmp_path / "whole")
    parts = tuned_from(base, small_data, tmp_path / "parts", "grpo", **changed)
    for stop_after in ("3", "null"):  # the same weights write for steps 0 to 3
        ranks.run_trainer("grpo", "--config", str(parts), "--set", f"grpo.stop_after={stop_after}", folder=tmp_path / "parts")
    kept = tmp_path / "parts" / "run" / "grpo" / "checkpoints" / "step-00000003"
    with safe_open(kept / "behaviour.safetensors", framework="pt") as stored:
        assert all("lora" in name for name in stored.keys())  # noqa: SIM118 - no mapping
    assert not (kept.parent / "step-00000004" / "behaviour.safetensors").exists()
    assert runs.losses(tmp_path / "parts" / "run", "grpo") == runs.losses(tmp_path / "whole" / "run", "grpo")
    assert runs.state_of(tmp_path / "parts" / "run", 6, "grpo") == runs.state_of(tmp_path / "whole" / "run", 6, "grpo")


def test_rewards_that_never_differ_are_told_and_change_nothing(base: Path, small_data: Path, tmp_path: Path) -> None:
    reward = "tests.support.rewards:constant"
    config = tuned_from(base, small_data, tmp_path, "grpo", grpo__steps=3, grpo__reward=reward)
    ranks.run_trainer("grpo", "--config", str(config), folder=tmp_path)
    for event in runs.events(tmp_path / "run", "steps_done", "grpo"):
        assert event["figures"]["no_signal_share"] == 1.0
        assert event["figures"]["reward"] == 3.0
        assert event["grad_norm"] == 0.0


def test_a_reward_model_judges_and_must_be_finished(base: Path, small_data: Path, tmp_path: Path) -> None:
    config = str(tuned_from(base, small_data, tmp_path, "grpo", grpo__steps=3, reward__steps=3, grpo__reward=None))
    process = ranks.trainer("grpo", "--config", config, folder=tmp_path)
    assert process.wait() == [65]
    assert "no finished reward model to judge answers; run `trainer reward` first" in process.text()
    ranks.run_trainer("reward", "--config", config, folder=tmp_path)
    ranks.run_trainer("grpo", "--config", config, folder=tmp_path, world_size=2)
    figures = runs.events(tmp_path / "run", "steps_done", "grpo")[-1]["figures"]
    assert figures["reward"] != 0.0
    assert figures["no_signal_share"] < 1.0
    assert "reward" not in runs.events(tmp_path / "run", "training_started", "grpo")[0]["started_from"]


def test_rows_of_answers_hold_each_token_once() -> None:
    rows = AnswerRows.of([(5, 6, 7), (8,)], [(1, 2), (3, 4, 2)], CPU)
    assert rows.inputs_BT.tolist() == [[5, 6, 7, 1], [8, 3, 4, 0]]
    assert rows.targets_BT.tolist() == [[-100, -100, 1, 2], [3, 4, 2, -100]]
    assert rows.documents_BT.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert rows.answers_N.tolist() == [0, 0, 1, 1, 1]
    assert rows.lengths_B.tolist() == [2.0, 3.0]
    assert rows.places_N.tolist() == [2, 3, 4, 5, 6]
