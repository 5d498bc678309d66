"""The report in a real browser, opened from the disk: quiet, self-contained, readable on a phone, alive under the pointer."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import DESKTOP, PHONE, note_trouble, overflow
from trainer.events import (
    CheckpointMeasured,
    CheckpointSaved,
    Evaluated,
    Event,
    Generated,
    OrderChecked,
    RankKilled,
    Record,
    StageFinished,
    StepsDone,
    TaskScored,
    TrainingFinished,
    TrainingStarted,
    Validated,
)
from trainer.tracking.report import write_report

pytestmark = [pytest.mark.web, pytest.mark.tools]

HEADINGS = ["Learning", "Speed", "Evaluation", "Samples", "What happened", "Checkpoints", "Config"]
HEADINGS_OF_ALL = [*HEADINGS[:3], "Tasks", "Samples", "Side by side", *HEADINGS[4:]]
"""With tasks and several checkpoints."""
ABOVE_MODEL = {"model": 0.0, "unigram": 3.0, "bigram": 1.9}
"""How far each lies above the model, in bits per byte."""


def started(step: int, world_size: int) -> TrainingStarted:
    return TrainingStarted(
        engine="ddp",
        step=step,
        stage="pretrain",
        num_steps=200,
        world_size=world_size,
        restart=int(step > 0),
        pids=[1, 2],
        device="cpu",
        precision="fp32",
        threads=1,
        num_parameters=1_049_728,
        rows=4000,
        row_tokens=256,
        utilisation=0.99,
        peak_tflops=0.1,
        torch_version="2.11.0",
        resumed_from=f"checkpoints/step-{step:08d}" if step else None,
    )


def stepped(step: int) -> StepsDone:
    return StepsDone(
        step=step,
        loss=2 + 5 * math.exp(-step / 60),
        lr=0.003,
        grad_norm=1 + step / 100,
        epoch=step / 100,
        tokens_seen=step * 8192,
        tokens_per_s=20_000.0,
        step_time_s=0.4,
        data_wait_share=0.004,
        mfu=0.34,
        eta_s=1.0,
    )


def run_events() -> list[Event]:
    sources = {"rfc": 1.5, "man-pages": 1.8, "a-source-with-a-rather-long-name-of-forty": 1.7, "wordnet": 1.4}
    scores = {name: {s: bits + more for s, bits in (sources | {"all": 1.6}).items()} for name, more in ABOVE_MODEL.items()}
    events: list[Event] = [StageFinished(stage="prepare", skipped=False, duration_s=3.2, summary={"path": "x" * 300})]
    events += [started(0, 2), *(stepped(step) for step in range(10, 121, 10)), RankKilled(step=120, rank=1, pid=2)]
    events += [started(100, 1), *(stepped(step) for step in range(110, 201, 10))]
    for step in (100, 200):
        events.append(Validated(step=step, bits_per_byte=260 / step, by_source=sources, duration_s=1.0))
        path = f"checkpoints/step-{step:08d}"
        events.append(CheckpointSaved(step=step, path=path, size_bytes=12_600_000, stall_s=0.012, write_s=0.3))
    events += [
        TrainingFinished(step=200, stage="pretrain", complete=True, duration_s=100.0, skipped_steps=0),
        OrderChecked(steps=200, samples=6400, repeated=0, skipped=0),
        *evaluated_together(sources),
        Evaluated(step=200, bits_per_byte=scores),
        Generated(step=200, prompt="The protocol", text=" <script>alert(1)</script> " + "y" * 300, tokens_per_s=400.0),
    ]
    return events


def evaluated_together(sources: dict[str, float]) -> list[Event]:
    """Two checkpoints, with a task and samples that try to be markup."""
    events: list[Event] = []
    for step, accuracy in ((100, 0.29), (200, 0.41)):
        name = f"checkpoints/step-{step:08d}"
        score = {"accuracy": accuracy, "low": accuracy - 0.06, "high": accuracy + 0.06, "p_value": 0.3 if step == 100 else 1e-6}
        scores = {"plain": score, "per_character": score}
        events.append(
            TaskScored(
                step=step,
                checkpoint=name,
                task="wordnet-word-class",
                kind="choice",
                n=241,
                chance=0.25,
                left_out=0,
                scores=scores,
            )
        )
        samples = {"The protocol": " <script>alert(2)</script> " + "w" * 300, "": "a document"}
        events.append(
            CheckpointMeasured(
                step=step, checkpoint=name, stage="pretrain", bits_per_byte=sources | {"all": 1.6}, samples=samples
            )
        )
    return events


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    records = [Record(1_700_000_000.0 + i, "cafe0123456789", event) for i, event in enumerate(run_events())]
    (folder / "events.jsonl").write_text("\n".join(record.to_json() for record in records) + "\n", encoding="utf-8")
    (folder / "config.yaml").write_text("name: web-test\nmodel:\n  note: " + "z" * 300 + "\n", encoding="utf-8")
    return write_report(folder)


@pytest.fixture
def open_page(browser: Browser, report: Path, trouble: list[str]) -> Iterator[Any]:
    contexts = []

    def open_report(path: Path = report, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        note_trouble(page, lambda url: url == path.as_uri(), trouble)
        page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
        page.goto(path.as_uri(), wait_until="networkidle")
        return page

    yield open_report
    for context in contexts:
        context.close()


def chart(page: Page, name: str) -> Locator:
    return page.get_by_role("img", name=name, exact=True).locator("visible=true")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_tasks_and_checkpoints_side_by_side_are_readable(open_page: Any, trouble: list[str], viewport: dict[str, int]) -> None:
    page = open_page(viewport=viewport)
    asked = page.locator("section:has(h2:text-is('Tasks'))")
    expect(asked.get_by_role("img", name="41.0\u00a0%, guessing 25.0\u00a0%")).to_have_count(2)
    if viewport == DESKTOP:  # on a phone the table scrolls
        assert asked.locator(".scroll").evaluate("each => each.scrollWidth <= each.clientWidth")
    texts = page.locator("section:has(h2:text-is('Side by side')) .sample")
    expect(texts).to_have_count(4)
    expect(texts.first).to_contain_text("The protocol <script>alert(2)</script> www")
    lefts = [texts.nth(place).bounding_box() for place in range(2)]
    assert lefts[0] is not None
    assert lefts[1] is not None
    assert (lefts[0]["x"] < lefts[1]["x"]) == (viewport == DESKTOP)
    assert overflow(page) == 0
    assert trouble == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_is_whole_and_quiet(open_page: Any, trouble: list[str], scheme: str, viewport: dict[str, int]) -> None:
    page = open_page(viewport=viewport, color_scheme=scheme)
    expect(page.get_by_role("heading", level=1)).to_contain_text("web-test")
    expect(page.get_by_role("heading", level=2)).to_have_text(HEADINGS_OF_ALL)
    expect(chart(page, "Training loss")).to_have_count(1)
    page.mouse.wheel(0, 20_000)
    page.get_by_text("Show the resolved config").click()
    expect(page.get_by_text("name: web-test")).to_be_visible()
    assert overflow(page) == 0
    assert trouble == []


def test_dark_and_light_differ_and_paper_is_light(open_page: Any) -> None:
    def paper(page: Page) -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    light, dark = open_page(color_scheme="light"), open_page(color_scheme="dark")
    assert paper(light) != paper(dark)
    dark.emulate_media(media="print")
    assert paper(dark) == paper(light)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_pointer_shows_the_value_of_the_nearest_step(open_page: Any, trouble: list[str], viewport: dict[str, int]) -> None:
    page = open_page(viewport=viewport)
    loss = chart(page, "Training loss")
    tip = page.locator("figure", has=loss).locator(".tip")
    expect(tip).to_be_hidden()
    box = loss.bounding_box()
    assert box is not None
    loss.hover(position={"x": box["width"] - 20, "y": box["height"] / 2})
    expect(tip).to_have_text(f"optimizer step 200\n{2 + 5 * math.exp(-200 / 60):.4g} nats")
    inside = tip.bounding_box()
    assert inside is not None
    assert inside["x"] >= 0
    assert inside["x"] + inside["width"] <= viewport["width"]
    page.mouse.move(1, 1)
    expect(tip).to_be_hidden()
    assert trouble == []


def test_with_several_lines_the_pointer_shows_each(open_page: Any) -> None:
    page = open_page(viewport=DESKTOP)
    validation = chart(page, "Validation by source")
    validation.hover()
    tip = page.locator("figure", has=validation).locator(".tip")
    expect(tip).to_contain_text("optimizer step 100")
    expect(tip).to_contain_text("all sources  2.6")
    expect(tip).to_contain_text("wordnet  1.4")


def test_arrow_keys_move_along_a_chart(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    page.keyboard.press("Tab")
    tip = page.locator("figure", has=chart(page, "Training loss")).locator(".tip")
    expect(tip).to_contain_text("optimizer step 200")
    page.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text("optimizer step 190")
    page.keyboard.press("Home")
    expect(tip).to_contain_text("optimizer step 10\n")
    assert trouble == []


def test_a_script_in_a_sample_shows_as_text(open_page: Any, trouble: list[str]) -> None:
    page = open_page()
    sample = page.locator("section:has(h2:text-is('Samples')) .sample blockquote")
    expect(sample).to_contain_text("The protocol <script>alert(1)</script> yyy")
    expect(sample.locator("mark")).to_have_text("The protocol")
    assert page.locator("script").count() == 1
    assert trouble == []


def test_the_policy_stops_a_script_that_is_not_the_pages_own(open_page: Any, trouble: list[str]) -> None:
    page = open_page()
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'changed'";
        document.body.append(script);
    }""")
    expect(page).to_have_title("web-test: run report")
    assert any("Content Security Policy" in line for line in trouble)


def test_without_script_the_page_is_complete(open_page: Any, trouble: list[str]) -> None:
    page = open_page(java_script_enabled=False, viewport=PHONE)
    expect(page.get_by_role("heading", level=2)).to_have_text(HEADINGS_OF_ALL)
    expect(chart(page, "Training loss")).to_be_visible()
    expect(chart(page, "Training loss")).to_contain_text("rank 1 killed")
    assert trouble == []


def test_a_run_without_events_has_a_quiet_page(open_page: Any, trouble: list[str], tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    page = open_page(write_report(tmp_path), viewport=PHONE)
    expect(page.get_by_role("heading", level=2)).to_have_text(HEADINGS)
    expect(page.get_by_text("nothing has happened in this run")).to_be_visible()
    assert overflow(page) == 0
    assert trouble == []
