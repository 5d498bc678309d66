"""The promises of the demo, checked on what `make demo` left behind. Not collected by itself: CI runs it after the demo.

python -m pytest tests/web/check_demo_report.py
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.support import runs
from tests.support.browser import chromium, note_trouble
from trainer.config_loading import load_config
from trainer.tokens.order import Order

RUN = Path(__file__).parents[2] / "runs" / "demo"


def evaluated() -> dict[str, dict[str, Any]]:
    """The evaluation's entry of each stage."""
    entries = json.loads((RUN / "evaluation.json").read_text())["checkpoints"]
    return {entry["stage"]: entry for entry in entries}


def test_the_pretrained_model_is_better_than_the_bigram_baseline_on_every_source() -> None:
    figures = json.loads((RUN / "evaluation.json").read_text())["bits_per_byte"]
    for source, bits in evaluated()["pretrain"]["bits_per_byte"].items():
        assert bits < figures["bigram"][source] < figures["unigram"][source], source


def test_instruction_tuning_teaches_a_choice_that_carries_over_to_held_out_questions() -> None:
    def kind(stage: str) -> dict[str, float]:
        (task,) = (task for task in evaluated()[stage]["tasks"] if task["task"] == "wordnet-kind")
        scores: dict[str, float] = task["scores"]["plain"]
        return scores

    assert kind("sft")["p_value"] < 0.01
    assert kind("sft")["accuracy"] > kind("pretrain")["accuracy"]


def test_preferences_are_learned_and_the_text_is_not_forgotten_for_them() -> None:
    figures = [event["figures"] for event in runs.events(RUN, "steps_done", "dpo")]
    assert fmean(each["accuracy"] for each in figures[-4:]) >= 0.85
    held_out = runs.events(RUN, "preferences_validated", "dpo")[-1]
    assert held_out["p_value"] < 0.01
    bits = {stage: evaluated()[stage]["bits_per_byte"]["all"] for stage in ("sft", "dpo")}
    assert bits["dpo"] <= 1.05 * bits["sft"]


def test_the_reward_model_judges_held_out_pairs_better_than_coins() -> None:
    held_out = runs.events(RUN, "preferences_validated", "reward")[-1]
    assert held_out["accuracy"] > 0.5
    assert held_out["p_value"] < 0.01


def test_the_mean_reward_rises_and_the_first_step_is_where_grpo_starts() -> None:
    figures = [event["figures"] for event in runs.events(RUN, "steps_done", "grpo")]
    assert figures[-1]["reward"] > figures[0]["reward"]
    judged = runs.events(RUN, "answers_judged", "grpo")[-1]
    assert judged["reward"] > figures[0]["reward"]
    assert judged["samples"]


def test_the_model_answers_in_the_terminal() -> None:
    command = [sys.executable, "-m", "trainer", "chat", "--config", str(RUN / "config.yaml")]
    question = 'What does "river" mean?\n'
    asked = subprocess.run(command, input=question, capture_output=True, text=True, timeout=120, check=True, cwd=RUN.parents[1])
    assert len(asked.stdout.strip()) > 5


def test_one_process_was_killed_and_the_run_came_back_without_repeating_or_skipping_a_row() -> None:
    assert len(runs.events(RUN, "rank_killed")) == 1
    first, second = runs.events(RUN, "training_started", "pretrain")
    assert first["world_size"] == second["world_size"] == 2
    assert 0 < second["step"] < runs.events(RUN, "rank_killed")[0]["step"]
    config = load_config(RUN / "config.yaml")
    steps = config.pretrain.steps or 0
    order = Order.of_steps(config.seed, first["rows"], config.pretrain.global_batch, config.pretrain.micro_batch, steps)
    taken = runs.rows_by_step(RUN)
    assert sorted(taken) == list(range(steps))
    assert all(rows == order.rows_of_step(step).tolist() for step, rows in taken.items())
    everything = [row for rows in taken.values() for row in rows]
    assert len(everything) == len(set(everything)) == steps * config.pretrain.global_batch  # less than an epoch


def test_the_report_opens_in_chromium_without_a_console_error() -> None:
    messages: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        note_trouble(page, lambda url: url == f"file://{RUN}/report.html", messages)
        page.goto(f"file://{RUN}/report.html")
        headings = page.get_by_role("heading").all_inner_texts()
        headline = page.get_by_role("region", name="Headline figures").inner_text()
        links = page.get_by_role("navigation", name="Contents").get_by_role("link").all_inner_texts()
    assert messages == []
    assert headings[0].startswith("demo")
    tuned = {"Instruction tuning", "Reward model", "Preference optimisation", "Reinforcement by rewards"}
    assert {"Learning", *tuned, "Evaluation", "Tasks", "Answers", "Samples"} <= set(headings)
    assert set(links) <= set(headings)
    bits = {stage: f"{entry['bits_per_byte']['all']:.3f}" for stage, entry in evaluated().items()}
    figures = headline.split()
    assert figures.index(bits["pretrain"]) < min(figures.index(bits[stage]) for stage in ("sft", "dpo", "grpo"))
