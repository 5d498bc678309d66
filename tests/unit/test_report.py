"""The report: what holds after kills and restarts, what the page says of it, and that nothing in it can become markup."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.stories import FINISHED, SCORES, STARTED, full_story, resumed, saved, step, story_of, text_of, validated
from trainer.errors import RunFolderError
from trainer.events import (
    CheckpointDamaged,
    CheckpointFailed,
    Evaluated,
    Event,
    Generated,
    OrderChecked,
    Preempting,
    RankKilled,
    Record,
    SinkFailed,
    StageFinished,
    StageStarted,
    StepsDone,
    StepSkipped,
    Validated,
)
from trainer.tracking import units
from trainer.tracking.markup import Markup, element, join
from trainer.tracking.report import write_report
from trainer.tracking.report_page import render_page
from trainer.tracking.report_timeline import timeline
from trainer.tracking.run_story import parse_records, percentile, tell_story

# What holds


def test_steps_told_again_after_a_kill_replace_the_earlier_ones() -> None:
    story = story_of(STARTED, step(10, 7.0), step(20, 6.0), step(30, 5.0), resumed(10), step(20, 6.5), step(30, 5.5))
    assert [(event.step, event.loss) for event in story.steps] == [(10, 7.0), (20, 6.5), (30, 5.5)]


def test_steps_beyond_the_point_of_resume_are_gone_until_told_again() -> None:
    lost = StepSkipped(step=25, reason="loss is not finite", skipped_in_a_row=1)
    story = story_of(STARTED, step(10), validated(10, 2.0), step(20), lost, validated(30, 1.9), step(30), resumed(10))
    assert [event.step for event in story.steps] == [10]
    assert [event.step for event in story.validations] == [10]
    assert story.skips == ()
    assert story.num_restarts == 1


def test_a_second_start_from_nothing_takes_back_everything() -> None:
    story = story_of(STARTED, step(10, 7.0), replace(STARTED, restart=1), step(5, 8.0))
    assert [(event.step, event.loss) for event in story.steps] == [(5, 8.0)]


def test_of_two_validations_of_a_step_the_later_one_holds() -> None:
    story = story_of(STARTED, validated(10, 2.0), validated(10, 1.5))
    assert [event.bits_per_byte for event in story.validations] == [1.5]


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "not started"),
        ([StageStarted(stage="prepare")], "not started"),
        ([STARTED, step(10)], "running"),
        ([STARTED, step(10), Preempting(step=10, signal="SIGTERM"), saved(10)], "stopped"),
        ([STARTED, replace(FINISHED, complete=False)], "stopped"),
        ([STARTED, Preempting(step=10, signal="SIGTERM"), resumed(10)], "running"),
        ([STARTED, FINISHED, StageStarted(stage="evaluate")], "finished"),
    ],
)
def test_the_state_is_that_of_the_last_start(events: list[Event], state: str) -> None:
    story = story_of(*events)
    assert story.state == state
    assert state in text_of(render_page(story))


def test_time_between_two_sessions_is_no_training_time() -> None:
    times = [(0.0, STARTED), (10.0, step(10)), (11.0, Preempting(step=10, signal="SIGTERM")), (12.0, saved(10))]
    times += [(5000.0, resumed(10)), (5020.0, step(40)), (5021.0, FINISHED), (5100.0, Evaluated(bits_per_byte=SCORES))]
    story = tell_story([Record(time, "cafe", event) for time, event in times], "demo")
    assert story.training_s == pytest.approx(11.0 + 21.0)
    assert story.span_s == pytest.approx(5100.0)


def test_time_of_a_killed_session_counts_to_its_last_event() -> None:
    times = [(0.0, STARTED), (10.0, step(10)), (90.0, resumed(10)), (95.0, step(20))]
    assert tell_story([Record(t, "cafe", event) for t, event in times], "demo").training_s == pytest.approx(15.0)


def test_samples_are_those_of_the_last_generate() -> None:
    old, new = (Generated(prompt="a", text=text, tokens_per_s=1.0) for text in ("old", "new"))
    generate = StageStarted(stage="generate")
    assert story_of(generate, old, old, generate, new, new).samples == (new, new)
    assert story_of(generate, old, generate).samples == (old,)


def test_lines_of_unknown_or_incomplete_events_are_counted_not_fatal() -> None:
    good = Record(1.0, "cafe", step(10)).to_json()
    more = json.loads(good) | {"a_later_field": 1}
    lines: list[dict[str, Any]] = [
        json.loads(good),
        more,
        {"time": 1.0, "run": "cafe", "event": "of_a_later_version"},
        {"time": 1.0, "run": "cafe", "event": "steps_done", "step": 3},
        {"event": "steps_done"},
        {"time": 1.0, "run": "cafe", "event": "event"},
    ]
    records, num_unknown = parse_records(lines)
    assert [record.event for record in records] == [step(10), step(10)]
    assert num_unknown == 4
    page = text_of(render_page(tell_story(records, "demo", None, num_unknown)))
    assert "Made from 2 events of events.jsonl. 4 lines passed over" in page


def test_every_event_survives_its_line() -> None:
    events = [STARTED, step(10, 2.5), validated(10, 1.0), saved(10), Generated(prompt="é", text="\ud800", tokens_per_s=1)]
    records = [Record(1.5, "cafe", event) for event in events]
    assert parse_records(json.loads(record.to_json()) for record in records) == (records, 0)


def test_a_figure_that_was_no_number_is_none_again() -> None:
    (record,), unknown = parse_records([json.loads(Record(1.5, "cafe", step(10, math.inf)).to_json())])
    assert unknown == 0
    assert isinstance(record.event, StepsDone)
    assert math.isnan(record.event.loss)
    assert record.event.mfu is None


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    assert percentile([float(i) for i in range(100, 0, -1)], share) == value
    assert percentile([7.0], share) == 7.0


# Timeline


def test_what_repeats_shares_a_row_and_what_is_folded_has_none() -> None:
    prepare = StageFinished(
        stage="prepare", skipped=False, duration_s=3.2, summary={"documents": 12034, "dropped": {"short": 2}}
    )
    done_before = [StageFinished(stage=stage, skipped=True, duration_s=0.0) for stage in ("tokenizer", "encode")]
    told = [StageStarted(stage="prepare"), prepare, *done_before, StageStarted(stage="pretrain"), STARTED]
    told += [step(10), saved(10), step(20), saved(20), RankKilled(step=25, rank=1, pid=12), resumed(20), saved(30)]
    rows = timeline(story_of(*told, StageStarted(stage="report")).records)
    assert [(row.what, row.steps) for row in rows] == [
        ("Stage prepare took 3.2\u00a0s", ""),
        ("Done before: tokenizer, encode", ""),
        ("Stage pretrain began", ""),
        ("Training began with 2 processes", "0"),
        ("2 checkpoints saved", "10\u201320"),
        ("Rank 1 was killed", "25"),
        ("Resumed with 2 processes", "20"),
        ("Checkpoint saved", "30"),
    ]
    assert rows[0].detail == "documents 12,034, dropped (short 2)"
    assert rows[0].since_start_s == 1.0
    assert [row.tone for row in rows[-3:]] == ["bad", "good", "quiet"]


def test_each_kind_of_trouble_has_a_row_with_its_reason() -> None:
    rows = timeline(
        story_of(
            CheckpointFailed(step=1, reason="no space is left"),
            CheckpointDamaged(path="checkpoints/step-00000001", reason="SHA-256 differs"),
            StepSkipped(step=2, reason="loss is not finite", skipped_in_a_row=1),
            StepSkipped(step=3, reason="loss is not finite", skipped_in_a_row=2),
            Preempting(step=3, signal="SIGTERM"),
            SinkFailed(sink="wandb", reason="no network"),
            OrderChecked(steps=4, samples=9, repeated=1, skipped=0),
        ).records
    )
    assert [row.tone for row in rows] == ["bad"] * 6
    assert [row.what for row in rows][2] == "2 steps were skipped"
    for row, reason in zip(rows, ("no space", "SHA-256", "not finite", "saved", "no network", "1 repeated"), strict=True):
        assert reason in row.detail


# Page


def test_the_page_tells_the_headline_figures() -> None:
    page = text_of(render_page(full_story()))
    for words in (
        "demo finished Training is complete at step 40.",
        "Held-out bits per byte 1.600 50 % below the bigram baseline, 3.200",
        "Parameters 1.05 M 1,049,728",
        "Tokens seen 40.0 k 0.40 epochs",
        "Tokens per second 20.0 k median, MFU 34.0 %",
        "Restarts 1 1 planned kill",
        "Order check 32,000 samples 0 repeated, 0 skipped",
        "The step loop waited 10 ms 30 ms 30 ms",
        "rfc 1.500 4.500 3.000 \u221250 %",
        "resumed from 20, 1 process",
        "seed: 1234",
    ):
        assert words in page


def test_a_prompt_is_marked_once_also_where_the_text_repeats_it() -> None:
    page = render_page(full_story())
    assert '<blockquote dir="auto"><mark>The protocol</mark> shall</blockquote>' in page
    assert '<mark class="no-prompt">new document</mark>Acer' in page


def test_a_model_worse_than_the_bigram_and_a_broken_order_are_said_so() -> None:
    scores = {"model": {"all": 4.0}, "bigram": {"all": 3.2}}
    broken = OrderChecked(steps=4, samples=9, repeated=1, skipped=2)
    page = render_page(story_of(STARTED, FINISHED, broken, Evaluated(bits_per_byte=scores)))
    assert 'class="under bad">25\u00a0% above the bigram baseline, 3.200' in page
    assert 'class="under bad">1 repeated, 2 skipped' in page


def test_before_the_evaluation_the_last_validation_stands_in() -> None:
    page = text_of(render_page(story_of(STARTED, step(10), validated(10, 2.0), validated(20, 1.75))))
    assert "Held-out bits per byte 1.750 validation at step 20; not evaluated yet" in page


def test_missing_pieces_are_said_plainly() -> None:
    empty = text_of(render_page(story_of()))
    for words in (
        "No events yet: nothing has happened in this run.",
        "No step has been finished yet.",
        "Not evaluated yet; trainer evaluate does it.",
        "No text has been generated yet; trainer generate does it.",
        "None saved yet",
        "The run folder holds no config.yaml.",
    ):
        assert words in empty
    started = text_of(render_page(story_of(StageStarted(stage="prepare"), STARTED)))
    assert "No step has been finished yet." in started
    assert "Training began with 2 processes" in started


def test_figures_that_are_not_finite_leave_a_whole_page() -> None:
    nan = math.nan
    scores = {"model": {"all": nan, "rfc": 1.0}, "unigram": {"rfc": nan}, "bigram": {"all": 0.0}}
    broken = replace(step(10, nan, mfu=nan), grad_norm=math.inf, tokens_per_s=nan, data_wait_share=nan, lr=nan)
    page = render_page(story_of(STARTED, broken, validated(10, nan), Evaluated(bits_per_byte=scores)))
    assert page.endswith("</html>\n")
    assert "No values yet" in text_of(page)


def test_whatever_a_run_writes_shows_as_text() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"
    story = story_of(
        StageFinished(stage=evil, skipped=False, duration_s=1.0, summary={evil: evil}),
        replace(STARTED, device=evil, torch_version=evil, resumed_from=evil),
        step(10),
        Validated(step=10, bits_per_byte=1.0, by_source={evil: 1.0, "b": 2.0}, duration_s=1.0),
        CheckpointDamaged(path=evil, reason=evil),
        replace(saved(10), path=evil),
        Preempting(step=10, signal=evil),
        SinkFailed(sink=evil, reason=evil),
        Evaluated(bits_per_byte={"model": {evil: 1.0, "all": 1.0}, evil: {evil: 2.0}}),
        Generated(prompt=evil, text=evil + evil, tokens_per_s=1.0),
        config_text=evil,
    )
    page = render_page(replace(story, name=evil))
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "\x00" not in page
    assert page.encode()
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\ufffd\ufffd" in text_of(page)


def test_only_what_is_markup_already_stays_unescaped() -> None:
    assert element("b", "<", Markup("<i>"), class_='a"b', text_anchor=1.0, hidden=None) == (
        '<b class="a&quot;b" text-anchor="1">&lt;<i></b>'
    )
    assert join("&", Markup("&amp;")) == "&amp;&amp;"


# Files


def test_a_report_is_written_from_the_run_folder_and_is_the_same_twice(tmp_path: Path) -> None:
    lines = [record.to_json() for record in full_story().records]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + '\n{"time": 12, "eve', encoding="utf-8")
    (tmp_path / "config.yaml").write_text("name: from-config\nmodel: {vocab_size: 2048}\n", encoding="utf-8")
    page = write_report(tmp_path)
    assert page == tmp_path / "report.html"
    first = page.read_bytes()
    assert "from-config" in text_of(first.decode())
    assert "vocab_size: 2048" in text_of(first.decode())
    assert write_report(tmp_path).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "events.jsonl", "report.html"]


@pytest.mark.parametrize("config", [None, "name: [", "- a list", "name: 7", b"\xff\xfe"])
def test_without_a_readable_config_the_folder_names_the_run(tmp_path: Path, config: str | bytes | None) -> None:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "events.jsonl").touch()
    if config is not None:
        (folder / "config.yaml").write_bytes(config if isinstance(config, bytes) else config.encode())
    assert "<title>my-run: run report</title>" in write_report(folder).read_text(encoding="utf-8")


def test_a_folder_without_events_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"events\.jsonl: no such file.*name a folder in which a run was started$"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.count(9_999), "9,999"),
        (units.count(25_829_888), "25.8 M"),
        (units.count(999_960), "1.00 M"),
        (units.count(math.nan), "not a number"),
        (units.size(999), "999 B"),
        (units.size(12_600_000), "12.6 MB"),
        (units.duration(0.0123), "12 ms"),
        (units.duration(3.21), "3.2 s"),
        (units.duration(59.7), "1 min"),
        (units.duration(754.0), "12 min 34 s"),
        (units.duration(7500.0), "2 h 5 min"),
        (units.duration(90_000.0), "1 d 1 h"),
        (units.share(0.3456), "34.6 %"),
        (units.number(0.00012345), "0.0001234"),
        (units.number(-math.inf), "minus infinite"),
        (units.plural(1, "step"), "1 step"),
        (units.plural(2000, "step"), "2,000 steps"),
    ],
)
def test_figures_carry_their_units(text: str, expected: str) -> None:
    assert text.replace("\u00a0", " ") == expected
