"""The report: what holds after kills and restarts, what the page says of it, and that nothing in it can become markup."""

import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import RunFolderError
from trainer.events import (
    AnswersJudged,
    AnswersValidated,
    CheckpointDamaged,
    CheckpointFailed,
    CheckpointMeasured,
    CheckpointSaved,
    Evaluated,
    Event,
    Generated,
    OrderChecked,
    Preempting,
    PreferencesValidated,
    RankKilled,
    Record,
    SinkFailed,
    StageFinished,
    StageStarted,
    StepsDone,
    StepSkipped,
    TaskScored,
    TrainingFinished,
    TrainingStarted,
    Validated,
)
from trainer.tracking import units
from trainer.tracking.markup import Markup, element, join
from trainer.tracking.report import write_report
from trainer.tracking.report_page import render_page
from trainer.tracking.report_timeline import timeline
from trainer.tracking.run_story import RunStory, parse_records, percentile, tell_story

STARTED = TrainingStarted(
    engine="ddp",
    step=0,
    stage="pretrain",
    num_steps=100,
    world_size=2,
    restart=0,
    pids=[11, 12],
    device="cpu",
    precision="fp32",
    threads=1,
    num_parameters=1_049_728,
    rows=4000,
    row_tokens=256,
    utilisation=0.99,
    peak_tflops=0.1,
    torch_version="2.11.0",
    resumed_from=None,
)
FINISHED = TrainingFinished(step=40, stage="pretrain", complete=True, duration_s=40.0, skipped_steps=0)
SCORES = {"model": {"rfc": 1.5, "all": 1.6}, "unigram": {"rfc": 4.5, "all": 4.6}, "bigram": {"rfc": 3.0, "all": 3.2}}


def step(number: int, loss: float = 3.0, mfu: float | None = None) -> StepsDone:
    return StepsDone(
        step=number,
        loss=loss,
        lr=0.001,
        grad_norm=1.0,
        epoch=number / 100,
        tokens_seen=number * 1000,
        tokens_per_s=20_000.0,
        step_time_s=0.05,
        data_wait_share=0.01,
        mfu=mfu,
        eta_s=1.0,
    )


def resumed(number: int, world_size: int = 2) -> TrainingStarted:
    return replace(STARTED, step=number, restart=1, world_size=world_size, resumed_from=f"checkpoints/step-{number:08d}")


def saved(number: int, stall_s: float = 0.01) -> CheckpointSaved:
    path = f"checkpoints/step-{number:08d}"
    return CheckpointSaved(step=number, path=path, size_bytes=12_600_000, stall_s=stall_s, write_s=0.3)


def validated(number: int, bits: float) -> Validated:
    return Validated(step=number, bits_per_byte=bits, by_source={"rfc": bits, "wordnet": bits + 1}, duration_s=1.0)


def story_of(*events: Event, gap_s: float = 1.0, config_text: str | None = None) -> RunStory:
    records = [Record(1000.0 + gap_s * index, "cafe0123456789", event) for index, event in enumerate(events)]
    return tell_story(records, "demo", config_text)


def text_of(page: str) -> str:
    """What a reader sees, without styles, scripts and the data of charts."""

    class Reader(HTMLParser):
        hidden = ""
        words: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("style", "script", "desc"):
                self.hidden = tag

        def handle_endtag(self, tag: str) -> None:
            self.hidden = "" if tag == self.hidden else self.hidden

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                self.words.append(data)

    reader = Reader()
    reader.words = []
    reader.feed(page)
    return re.sub(r"\s+", " ", " ".join(reader.words).replace("\u00a0", " "))


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


def full_story() -> RunStory:
    return story_of(
        StageFinished(stage="prepare", skipped=False, duration_s=3.0, summary={"bytes": 20_000_000}),
        STARTED,
        *(step(number, 8 - number / 10, mfu=0.34) for number in (10, 20, 30)),
        validated(20, 2.0),
        saved(20, 0.010),
        RankKilled(step=30, rank=1, pid=12),
        resumed(20, world_size=1),
        step(40, 3.5, mfu=0.36),
        saved(40, 0.030),
        replace(FINISHED, step=40),
        OrderChecked(steps=40, samples=32_000, repeated=0, skipped=0),
        Evaluated(step=40, bits_per_byte=SCORES),
        Generated(step=40, prompt="The protocol", text="The protocol shall", tokens_per_s=400.0),
        Generated(step=40, prompt="", text="Acer", tokens_per_s=400.0),
        config_text="name: demo\nseed: 1234\n",
    )


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


# Tasks and checkpoints side by side


def scored(task: str, accuracy: float, checkpoint: str = "checkpoints/step-00000040") -> TaskScored:
    score = {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "p_value": 7e-7}
    scores = {"plain": score, "per_character": score | {"p_value": 0.25}}
    return TaskScored(step=40, checkpoint=checkpoint, task=task, kind="choice", n=245, chance=0.25, left_out=3, scores=scores)


def test_tasks_show_accuracy_interval_chance_and_p() -> None:
    page = render_page(story_of(STARTED, FINISHED, scored("<choice>", 0.4), Evaluated(step=40, bits_per_byte=SCORES)))
    text = text_of(page)
    assert "Tasks" in text
    for words in (
        "<choice>",
        "245 (3 left out: trained on)",
        "per character",
        "40.0 % (35.0 to 45.0)",
        "25.0 %",
        "< 0.0001",
        "0.2500",
    ):
        assert words in text, words
    assert 'aria-label="40.0' in page
    assert "checkpoints/step-00000040" not in text_of(page.split("Tasks", 1)[1].split("</section>")[0])


def test_tasks_are_those_of_the_last_whole_evaluation() -> None:
    done = Evaluated(step=40, bits_per_byte=SCORES)
    begun = StageStarted(stage="evaluate")
    story = story_of(begun, scored("old", 0.3), done, begun, scored("new", 0.4), done, begun, scored("cut off", 0.5))
    assert [event.task for event in story.scored] == ["new"]
    assert story_of(begun, scored("old", 0.3), done, begun, done).scored == ()


def test_several_checkpoints_stand_side_by_side() -> None:
    def measured(name: str, bits: float, text: str) -> CheckpointMeasured:
        figures = {"rfc": bits, "all": bits + 0.1}
        return CheckpointMeasured(step=1, checkpoint=name, stage="sft", bits_per_byte=figures, samples={"Once <b>": text})

    story = story_of(measured("a", 2.0, " upon"), measured("b", 1.5, " more"), Evaluated(step=40, bits_per_byte=SCORES))
    text = text_of(render_page(story))
    assert "Side by side" in text
    assert "Source a b unigram bigram a vs bigram rfc 2.000 1.500 (best) 4.500 3.000" in text
    assert "Once <b> upon a Once <b> more b" in text


def test_the_headline_is_the_pretrained_model_s_with_its_own_tokens_and_the_tuned_ones_stand_beside() -> None:
    def measured(stage: str, bits: float) -> CheckpointMeasured:
        name = f"{'' if stage == 'pretrain' else stage + '/'}checkpoints/step-00000040"
        return CheckpointMeasured(step=40, checkpoint=name, stage=stage, bits_per_byte={"all": bits}, samples={})

    scores = {"model": {"all": 2.75}, "unigram": {"all": 4.6}, "bigram": {"all": 3.2}}
    story = story_of(
        STARTED, step(40), FINISHED,
        replace(STARTED, stage="sft"), replace(step(10), stage="sft", tokens_seen=5_000),
        replace(STARTED, stage="dpo"), replace(step(10), stage="dpo", tokens_seen=6_000),
        measured("pretrain", 2.0), measured("sft", 2.5), measured("dpo", 2.75),
        Evaluated(step=40, bits_per_byte=scores, stage="dpo"),
    )  # fmt: skip
    text = text_of(render_page(story))
    assert "Held-out bits per byte 2.000 2.500 after sft 5,000 tokens 2.750 after dpo 6,000 tokens" in text
    assert "38 % below the bigram baseline, 3.200 the pretrained model, after 40.0 k tokens" in text
    assert "Tokens seen 40.0 k 0.40 epochs and 11.0 k in tuning" in text
    assert "all sources 2.000 (best) 2.500 2.750 4.600 3.200 \u221238 %" in text


def test_a_run_that_only_tunes_says_whose_its_headline_is() -> None:
    evaluated = Evaluated(step=40, bits_per_byte={"model": {"all": 2.5}}, stage="sft")
    story = story_of(replace(STARTED, stage="sft"), replace(step(40), stage="sft", tokens_seen=5_000), evaluated)
    text = text_of(render_page(story))
    assert "Held-out bits per byte 2.500 the model after instruction tuning, after 5,000 tokens" in text
    assert "Parameters 1.05 M" in text
    assert "No step has been finished yet" not in text


def test_figures_of_an_evaluation_that_were_no_numbers_leave_a_whole_page() -> None:
    nan = math.nan
    measured = CheckpointMeasured(step=1, checkpoint="a", stage="sft", bits_per_byte={"all": nan, "rfc": 1.0}, samples={})
    scores = {"model": {"all": nan}, "bigram": {"all": nan, "rfc": 2.0}}
    events = [STARTED, measured, replace(measured, checkpoint="b", stage="dpo"), Evaluated(bits_per_byte=scores)]
    lines = [json.loads(Record(1.0, "cafe", event).to_json()) for event in events]
    assert "\u2013" in text_of(render_page(tell_story(parse_records(lines)[0], "demo")))


def chart_points(page: str, name: str) -> dict[str, list[list[float]]]:
    """The points of each line of a chart."""
    (chart,) = re.findall(rf'<svg[^>]*data-chart="([^"]*)"[^>]*><title>{name}</title>', page)
    return {line["name"]: line["points"] for line in json.loads(html.unescape(chart))["series"]}


def test_held_out_curves_begin_where_each_stage_begins() -> None:
    answers = [
        AnswersValidated(step=number, stage="sft", bits_per_byte=bits, by_source={}, duration_s=1.0)
        for number, bits in ((0, 3.0), (10, 2.0))
    ]
    judged = [
        AnswersJudged(
            step=number, stage="grpo", prompts=8, reward=reward, by_source={}, answer_tokens=8.0, samples=[], duration_s=1.0
        )
        for number, reward in ((0, 0.1), (10, 0.5))
    ]
    story = story_of(
        STARTED, replace(validated(0, 8.0), by_source={}), step(10), replace(validated(10, 2.0), by_source={}), FINISHED,
        replace(STARTED, stage="sft"), answers[0], replace(step(10), stage="sft"), answers[1],
        replace(STARTED, stage="grpo"), judged[0], replace(step(10), stage="grpo"), judged[1],
    )  # fmt: skip
    page = render_page(story)
    assert chart_points(page, "Validation") == {"all sources": [[0, 8.0], [10, 2.0]]}
    assert chart_points(page, "Held out") == {"answers": [[0, 3.0], [10, 2.0]]}
    assert chart_points(page, "Reward")["held out"] == [[0, 0.1], [10, 0.5]]


def test_tasks_stand_by_stages_and_the_best_is_marked_where_it_beats_guessing() -> None:
    def score(accuracy: float, p_value: float) -> dict[str, float]:
        return {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "p_value": p_value}

    def told(stage: str, kind: tuple[float, float], word: tuple[float, float]) -> list[TaskScored]:
        name = f"{stage}checkpoints/step-00000040"
        return [
            TaskScored(
                step=40,
                checkpoint=name,
                task=task,
                kind="choice",
                n=9,
                chance=0.25,
                left_out=0,
                scores={"plain": score(*value)},
            )
            for task, value in (("kind", kind), ("word", word))
        ]

    events = [
        *told("", (0.2, 0.9), (0.3, 0.2)),
        *told("sft/", (0.48, 1e-9), (0.31, 0.1)),
        *told("dpo/", (0.45, 1e-8), (0.2, 1.0)),
    ]
    text = text_of(render_page(story_of(STARTED, *events, Evaluated(step=40, bits_per_byte=SCORES))))
    assert "Task Score Items Guessing pretrain sft dpo kind sum 9 25.0 % 20.0 %" in text
    assert text.count("(best)") == 1
    assert "48.0 % (best) (43.0 to 53.0) p < 0.0001 45.0 %" in text


def test_answers_stand_before_and_after_each_stage() -> None:
    def measured(stage: str, answer: str) -> CheckpointMeasured:
        question = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is <b>?<|im_end|>\n<|im_start|>assistant\n"
        said = {"source": "chatter", "question": question, "expected": "Bold.", "answer": answer}
        return CheckpointMeasured(step=1, checkpoint=stage, stage=stage, bits_per_byte={}, samples={}, answers=[said])

    story = story_of(measured("pretrain", "and on"), measured("sft", "A tag."), Evaluated(bits_per_byte=SCORES))
    text = text_of(render_page(story))
    assert "system Be kind. user What is <b>? and on pretrain A tag. sft Bold. in the data" in text


def test_judged_answers_are_those_of_the_first_measure_and_of_the_last() -> None:
    def judged(number: int, answer: str, reward: float) -> AnswersJudged:
        samples = [{"prompt": "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n", "answer": answer, "reward": reward}]
        return AnswersJudged(
            step=number,
            stage="grpo",
            prompts=1,
            reward=reward,
            by_source={},
            answer_tokens=1.0,
            samples=samples,
            duration_s=1.0,
        )

    events = [judged(0, "zz", -0.5), judged(10, "amid", 0.0), judged(20, "", 0.75)]
    story = story_of(replace(STARTED, stage="grpo"), events[0], replace(step(10), stage="grpo"), *events[1:])
    text = text_of(render_page(story))
    assert "user What? zz step 0: reward -0.500 (an empty answer) step 20: reward 0.750" in text
    assert "amid" not in text


def test_the_chart_has_the_rows_and_columns_of_the_table() -> None:
    page = render_page(full_story())
    chart = page[page.index("<title>Bits per byte by source</title>") :].split("</svg>")[0]
    assert re.findall(r'class="group"[^>]*>([^<]*)<', chart) == ["rfc", "all sources"]
    assert re.findall(r'class="legend"[^>]*>([^<]*)<', chart) == ["model", "unigram", "bigram"]
    assert re.findall(r'class="value"[^>]*>([^<]*)<', chart) == ["1.500", "4.500", "3.000", "1.600", "4.600", "3.200"]


def test_rows_of_another_number_are_said_to_be_so() -> None:
    def text(config: str) -> str:
        return text_of(render_page(story_of(STARTED, step(10), validated(10, 2.0), config_text=config)))

    config = "validation: {{max_rows_per_source: 48}}\nevaluate: {{max_rows_per_source: {}}}\n"
    assert "Validation is of at most 48 rows of each source, the evaluation below of at most 96 rows" in text(config.format(96))
    assert "the evaluation below of all held-out rows" in text(config.format("null"))
    assert "Validation is of" not in text(config.format(48))


def test_the_contents_name_every_section_in_order() -> None:
    page = render_page(full_story())
    nav = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r'href="#([^"]*)">([^<]*)<', nav) == re.findall(r'<h2 id="([^"]*)">([^<]*)<', page)


def test_without_tasks_the_page_has_no_section_for_them() -> None:
    text = text_of(render_page(story_of(STARTED)))
    assert "Tasks" not in text
    assert "Side by side" not in text


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


def test_curves_of_later_stages_do_not_mix_with_pretraining_s() -> None:
    figures = {"accuracy": 0.75, "margin": 0.5, "kl": 0.01}
    answers = AnswersValidated(step=10, stage="sft", bits_per_byte=1.25, by_source={"chatter": 1.25}, duration_s=1.0)
    preferences = PreferencesValidated(
        step=10, stage="dpo", pairs=80, accuracy=0.625, by_source={"sister": 0.625}, margin=0.2, kl=0.02, duration_s=1.0
    )
    story = story_of(
        STARTED, step(10, 3.0), step(20, 2.0), validated(20, 1.5), saved(20), FINISHED,
        replace(STARTED, stage="sft"), replace(step(10, 2.5), stage="sft"), answers, replace(validated(10, 1.6), stage="sft"),
        replace(STARTED, stage="dpo"), replace(step(10, 0.6), stage="dpo", figures=figures), preferences,
    )  # fmt: skip
    assert [event.loss for event in story.steps] == [3.0, 2.0]
    assert [event.bits_per_byte for event in story.validations] == [1.5]
    assert len(story.starts) == 1
    assert [(tuning.stage, [event.loss for event in tuning.steps]) for tuning in story.tunings] == [
        ("sft", [2.5]),
        ("dpo", [0.6]),
    ]
    assert story.tunings[0].answers == (answers,)
    assert story.tunings[0].text[0].bits_per_byte == 1.6
    assert story.tunings[1].preferences == (preferences,)
    words = text_of(render_page(story))
    for heading in ("Instruction tuning", "Preference optimisation", "Accuracy", "Margin"):
        assert heading in words


def test_rewards_have_their_curves() -> None:
    figures = {"reward": 0.4, "kl": 0.02, "clip_share": 0.1, "cut_share": 0.0, "no_signal_share": 0.5, "answer_tokens": 9.0}
    judged = AnswersJudged(
        step=10, stage="grpo", prompts=8, reward=0.5, by_source={"q": 0.5}, answer_tokens=8.0, samples=[], duration_s=1.0
    )
    reward = PreferencesValidated(
        step=10, stage="reward", pairs=80, accuracy=0.7, by_source={"order": 0.7}, margin=0.2, p_value=0.001, duration_s=1.0
    )
    pairs = {"accuracy": 0.75, "margin": 0.5}
    story = story_of(
        STARTED, step(10, 3.0), FINISHED,
        replace(STARTED, stage="reward"), replace(step(10, 0.6), stage="reward", figures=pairs), reward,
        replace(STARTED, stage="grpo"), replace(step(10, 0.01), stage="grpo", figures=figures), judged,
    )  # fmt: skip
    assert story.tunings[1].judged == (judged,)
    words = text_of(render_page(story))
    for heading in ("Reward model", "Reinforcement by rewards", "Answer length", "Shares"):
        assert heading in words


def test_events_of_before_stages_were_told_are_pretraining_s() -> None:
    line = json.loads(Record(1.0, "r", step(10)).to_json())
    assert line.pop("stage") == "pretrain"
    (record,), unknown = parse_records([line])
    assert record.event == step(10)
    assert unknown == 0
