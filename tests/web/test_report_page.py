"""The report in a real browser, opened from the disk: quiet, self-contained, readable on a phone, alive under the pointer."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import DESKTOP, PHONE, note_trouble, overflow
from trainer.corpus.account import Account, SourceAccount
from trainer.events import (
    AnswersJudged,
    AnswersValidated,
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
from trainer.tracking.report_page import render_page
from trainer.tracking.run_story import tell_story

pytestmark = [pytest.mark.web, pytest.mark.tools]

HEADINGS = ["Learning", "Speed", "Evaluation", "Samples", "What happened", "Checkpoints", "Config"]
TUNED = ["Instruction tuning", "Reinforcement by rewards"]
HEADINGS_OF_ALL = [*HEADINGS[:2], *TUNED, "Evaluation", "Tasks", "Answers", "Samples", "Side by side", *HEADINGS[4:]]
"""With stages after pretraining, tasks and several checkpoints."""
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
        *tuned(),
        *evaluated_together(sources),
        Evaluated(step=200, bits_per_byte=scores),
        Generated(step=200, prompt="The protocol", text=" <script>alert(1)</script> " + "y" * 300, tokens_per_s=400.0),
    ]
    return events


def tuned() -> list[Event]:
    """Stages after pretraining, measured before their first step, too."""
    events: list[Event] = []
    for stage in ("sft", "grpo"):
        events.append(replace(started(0, 1), stage=stage))
        for step in (0, 10, 20):
            fields = {"step": step, "stage": stage, "duration_s": 1.0}
            bits = 2.0 - step / 40
            events.append(Validated(bits_per_byte=bits, by_source={}, **fields))  # type: ignore[arg-type]
            if stage == "sft":
                events.append(AnswersValidated(bits_per_byte=bits, by_source={}, **fields))  # type: ignore[arg-type]
            else:
                prompt = "<|im_start|>user\nWhat is <script>alert(3)</script>?<|im_end|>\n<|im_start|>assistant\n"
                samples = [{"prompt": prompt, "answer": "v" * (300 - step), "reward": step / 20}]
                judged = {"prompts": 8, "reward": step / 20, "by_source": {}, "answer_tokens": 8.0, "samples": samples}
                events.append(AnswersJudged(**judged, **fields))  # type: ignore[arg-type]
            if step:
                events.append(replace(stepped(step), stage=stage))
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
        asked = {
            "source": "chatter",
            "question": "<|im_start|>user\n春?<|im_end|>\n",
            "expected": "Spring.",
            "answer": "u" * 300,
        }
        bits = sources | {"all": 1.6}
        events.append(
            CheckpointMeasured(
                step=step, checkpoint=name, stage="pretrain", bits_per_byte=bits, samples=samples, answers=[asked]
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


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose charts have much to say: many kills and returns, long runs, large and tiny figures, a full corpus."""
    folder = tmp_path_factory.mktemp("crowded")
    events: list[Event] = [replace(started(0, 2), num_steps=1_200_000)]
    for place in range(12):
        step = 1_000 + 97_531 * place
        events.append(
            replace(stepped(step), lr=3e-7 * (place + 1), tokens_per_s=1_234_567.0 + place, grad_norm=10.0 ** (place - 6))
        )
        events += [RankKilled(step=step, rank=place, pid=2), started(step, 2 + place % 3)]
    account = Account(sources={"mine": _full_source()}, clusters=[])
    page = folder / "report.html"
    records = [Record(1_700_000_000.0 + i, "cafe0123456789", event) for i, event in enumerate(events)]
    page.write_text(render_page(tell_story(records, "crowded"), account), encoding="utf-8")
    return page


def _full_source() -> SourceAccount:
    return SourceAccount(
        counts={"read": 99_999, "kept": 80_000, "held_out": 900, "bad": 3},
        rules={f"gopher.{place}": 10 for place in range(5)} | {"duplicate": 12_345},
        changes={},
        languages={f"l{place}": 10 ** (place % 7) for place in range(20)},
        read_chars=10**9,
        clean_chars=10**8,
        train_bytes=10**8,
        held_out_bytes=10**6,
        repeats=1.0,
        lengths={place: 9_000 + 300 * (place % 3) for place in range(3, 24)},
        samples={},
    )


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
    loss = chart(page, "Training loss")
    tip = page.locator("figure", has=loss).locator(".tip")
    for _ in range(40):  # past the contents
        page.keyboard.press("Tab")
        if loss.evaluate("each => each === document.activeElement"):
            break
    expect(tip).to_contain_text("optimizer step 200")
    page.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text("optimizer step 190")
    page.keyboard.press("Home")
    expect(tip).to_contain_text("optimizer step 10\n")
    assert trouble == []


def test_the_contents_lead_to_every_section(open_page: Any, trouble: list[str]) -> None:
    page = open_page(viewport=DESKTOP)
    links = page.get_by_role("navigation", name="Contents").get_by_role("link")
    expect(links).to_have_text(HEADINGS_OF_ALL)
    for heading in ("Tasks", "Config"):
        links.get_by_text(heading, exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=2, name=heading, exact=True)).to_be_in_viewport()
    assert trouble == []


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_scrolls_by_itself_is_reached_and_moved_by_keyboard_under_a_name(
    open_page: Any, trouble: list[str], viewport: dict[str, int]
) -> None:
    page = open_page(viewport=viewport)
    page.get_by_text("Show the resolved config").click()
    scrolling = page.evaluate("""() => [...document.querySelectorAll("body *")]
        .filter((each) => each.scrollWidth > each.clientWidth && /auto|scroll/.test(getComputedStyle(each).overflowX))
        .map((each) => [each.tabIndex, each.getAttribute("role"), !!each.getAttribute("aria-label")])""")
    assert len(scrolling) >= (1 if viewport == DESKTOP else 3)
    assert all(each == [0, "region", True] for each in scrolling), scrolling
    region = page.get_by_role("region", name="The resolved config")
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.scrollLeft > 0")
    assert trouble == []


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_two_labels_of_a_chart_lie_on_each_other(open_page: Any, crowded: Path, viewport: dict[str, int]) -> None:
    for path in (None, crowded):
        page = open_page(viewport=viewport) if path is None else open_page(path, viewport=viewport)
        collisions = page.evaluate("""() => [...document.querySelectorAll("svg.chart")].flatMap((chart) => {
            const boxes = [...chart.querySelectorAll("text")]
                .map((each) => [each.textContent, each.getBoundingClientRect()]).filter(([, box]) => box.width);
            const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
            // a line's box is higher than its letters; side by side, two labels need a gap to be read as two
            const meet = (a, b, gap) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > -gap * scale &&
                Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4 * scale;
            const bars = [...chart.querySelectorAll("rect.bar")].map((each) => each.getBoundingClientRect());
            const right = chart.getBoundingClientRect().right + 2;
            return boxes.flatMap(([text, box], index) => [
                ...(box.right > right ? [text + " / the edge"] : []),
                ...boxes.slice(index + 1).filter(([, other]) => meet(box, other, 2)).map(([other]) => text + " / " + other),
                ...bars.filter((bar) => meet(box, bar, 0)).map(() => text + " / a bar"),
            ]);
        })""")
        assert collisions == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_to_object_to(open_page: Any, crowded: Path, viewport: dict[str, int], scheme: str) -> None:
    for page in (open_page(viewport=viewport, color_scheme=scheme), open_page(crowded, viewport=viewport, color_scheme=scheme)):
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


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
