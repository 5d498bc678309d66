"""The promises of the demo, checked on what `make demo` left behind. Not collected by itself: CI runs it after the demo.

python -m pytest tests/web/check_demo_report.py
"""

import json
from pathlib import Path

from tests.support import runs
from tests.support.browser import chromium, note_trouble
from trainer.config_loading import load_config
from trainer.tokens.order import Order

RUN = Path(__file__).parents[2] / "runs" / "demo"


def test_the_model_is_better_than_the_bigram_baseline_on_every_source() -> None:
    figures = json.loads((RUN / "evaluation.json").read_text())["bits_per_byte"]
    for source, bits in figures["model"].items():
        assert bits < figures["bigram"][source] < figures["unigram"][source], source


def test_one_process_was_killed_and_the_run_came_back_without_repeating_or_skipping_a_row() -> None:
    assert len(runs.events(RUN, "rank_killed")) == 1
    first, second = runs.events(RUN, "training_started")
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
    assert messages == []
    assert headings[0].startswith("demo")
    assert {"Learning", "Evaluation", "Samples"} <= set(headings)
