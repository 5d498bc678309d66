"""The report's page: a `RunStory` becomes one HTML text that loads nothing, with styles and script inside.

The content security policy allows this page's own style and script, by their hash, and nothing else.
"""

import base64
import hashlib
import math
from datetime import UTC, datetime
from importlib import resources

from trainer.corpus.account import Account
from trainer.events import CheckpointDamaged, CheckpointFailed, StepsDone, TrainingStarted
from trainer.tracking import units
from trainer.tracking.markup import Markup, element, join
from trainer.tracking.plot import Axis, Marker, Series, Size, line_chart
from trainer.tracking.report_corpus import corpus
from trainer.tracking.report_curves import STEP, curve, points
from trainer.tracking.report_evaluation import answers, evaluation, side_by_side, tasks
from trainer.tracking.report_headline import headline
from trainer.tracking.report_parts import contents, scrolling
from trainer.tracking.report_parts import figure as _figure
from trainer.tracking.report_parts import missing as _missing
from trainer.tracking.report_parts import section as _section
from trainer.tracking.report_parts import table as _table
from trainer.tracking.report_timeline import Row, timeline
from trainer.tracking.report_tuning import tunings
from trainer.tracking.run_story import RunStory, percentile, values_in

_WIDE = Size(width=1000.0, height=300.0)


def render_page(story: RunStory, account: Account | None = None) -> str:
    """The whole page. A section says so plainly where the run has nothing for it yet; what must be asked for may be absent."""
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # `link rel=icon` keeps browsers from asking a server for /favicon.ico, which the policy would then refuse aloud
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<link rel="icon" href="data:,">'),
        element("title", f"{story.name}: run report"),
        element("style", style),
    )
    results = (evaluation, tasks, answers, _samples, side_by_side)
    sections = (_learning, _speed, tunings, *results, _happenings, _checkpoints, _config)
    told = join(corpus(account), *(section(story) for section in sections))
    content = element("main", headline(story), contents(told), told)
    body = element("body", _title(story), content, _footer(story), element("script", script))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> Markup:
    return Markup((resources.files("trainer") / "tracking" / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _clock(time_s: float) -> str:
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{time_s:.0f} s after 1970"


# Title


def _title(story: RunStory) -> Markup:
    facts = []
    if story.starts:
        last = story.starts[-1]
        facts = [f"{_processes(last)} on {last.device}", last.precision, f"torch {last.torch_version}"]
    if story.records:
        facts.append(f"run {story.records[-1].run[:12]}")
    return element(
        "header",
        element("p", "Run report", class_="eyebrow"),
        element("h1", story.name, " ", element("span", story.state, class_=f"state {story.state.replace(' ', '-')}")),
        element("p", _state_note(story), class_="note"),
        element("ul", *(element("li", fact) for fact in facts), class_="facts") if facts else "",
    )


def _processes(start: TrainingStarted) -> str:
    return "1 process" if start.world_size == 1 else f"{start.world_size} processes"


def _state_note(story: RunStory) -> str:
    if not story.records:
        return "No events yet: nothing has happened in this run."
    last = _clock(story.records[-1].time)
    at = f" at step {story.steps[-1].step:,}" if story.steps and story.steps[-1].step is not None else ""
    if story.state == "finished":
        return f"Training is complete{at}. Last event: {last}."
    if story.state == "stopped":
        return f"Training was stopped{at} and its state is saved; starting it again continues it. Last event: {last}."
    if story.state == "failed":
        return f"The run failed{at}; the reason stands in the last line under What happened. Last event: {last}."
    if story.state == "running":
        return f"Training has no recorded end{at}: it goes on, or was cut off after its last event, {last}."
    return f"Training has not started yet. Last event: {last}."


# Curves


def _learning(story: RunStory) -> Markup:
    if _only_tunes(story):
        return Markup("")
    if not story.steps and not story.validations:
        return _section("Learning", _missing("No step has been finished yet."))
    loss = [Series("training loss", points(story.steps, lambda event: event.loss))]
    axis = Axis("nats per token", "nats")
    markers = _markers(story)
    # One drawing for wide windows, one for phones: a single one would have unreadable letters on one of them
    wide = line_chart("Training loss", loss, STEP, axis, markers, _WIDE)
    narrow = line_chart("Training loss", loss, STEP, axis, markers, Size(width=360.0, height=240.0))
    charts = [
        _validation_figure(story),
        curve(story.steps, "Learning rate", Axis("per step", zero=True), lambda event: event.lr),
        curve(story.steps, "Gradient norm", Axis("L2 norm before clipping"), lambda event: event.grad_norm),
    ]
    return _section(
        "Learning",
        _figure("Loss", wide, class_="wide-only"),
        _figure("Loss", narrow, class_="narrow-only"),
        element("div", *charts, class_="thirds"),
        _rows_note(story),
    )


def _rows_note(story: RunStory) -> Markup:
    """Why the curve's end and the evaluation may differ: they need not be of the same rows."""
    values = values_in(story.config_text)
    most = [values[key].get("max_rows_per_source") for key in ("validation", "evaluate") if isinstance(values.get(key), dict)]
    if len(most) < 2 or most[0] == most[1] or not story.validations:
        return Markup("")
    while_training, after = (f"at most {rows:,} rows" if isinstance(rows, int) else "all held-out rows" for rows in most)
    text = f"Validation is of {while_training} of each source, the evaluation below of {after}: their figures differ a little."
    return element("p", text, class_="note below")


def _speed(story: RunStory) -> Markup:
    if _only_tunes(story):
        return Markup("")
    if not story.steps:
        return _section("Speed", _missing("No step has been finished yet."))
    steps = story.steps
    charts = [
        curve(steps, "Tokens per second", Axis("tokens/s, all processes", "tokens/s", zero=True), lambda e: e.tokens_per_s),
        curve(steps, "Waiting for data", Axis("% of step time", "%", zero=True), lambda e: 100 * e.data_wait_share),
    ]
    if any(event.mfu is not None for event in steps):
        axis = Axis("% of this machine's peak", "%", zero=True)
        charts.append(curve(steps, "Model FLOPs utilisation", axis, _mfu_percent))
    return _section("Speed", element("div", *charts, class_="thirds"))


def _only_tunes(story: RunStory) -> bool:
    return bool(story.tunings) and not story.steps and not story.validations


def _mfu_percent(event: StepsDone) -> float:
    return math.nan if event.mfu is None else 100 * event.mfu


def _validation_figure(story: RunStory) -> Markup:
    sources = sorted({source for event in story.validations for source in event.by_source})
    told = [event for event in story.validations if event.step is not None]
    series = [Series("all sources", [(event.step or 0, event.bits_per_byte) for event in told])]
    if len(sources) > 1:
        for source in sources:
            series.append(Series(source, [(e.step or 0, e.by_source.get(source, math.nan)) for e in told]))
    heading = "Validation by source" if len(sources) > 1 else "Validation"
    return _figure(heading, line_chart(heading, series, STEP, Axis("bits per byte, held-out text", "bits per byte")))


def _markers(story: RunStory) -> list[Marker]:
    """Kills, stops and returns, where they happened; a return that changed the number of processes says so."""
    markers = [Marker(kill.step, f"rank {kill.rank} killed", "fault") for kill in story.kills if kill.step is not None]
    markers += [Marker(stop.step, f"stopped by {stop.signal}", "fault") for stop in story.stops if stop.step is not None]
    for before, start in zip(story.starts, story.starts[1:], strict=False):
        label = f"resumed from {start.step or 0:,}"
        if before.world_size != start.world_size:
            label += f", {_processes(start)}"
        markers.append(Marker(start.step or 0, label))
    return markers


# Samples


def _samples(story: RunStory) -> Markup:
    if not story.samples:
        return _section("Samples", _missing("No text has been generated yet;", "trainer generate"))
    note = element("p", "Written by the model; the prompt that it was given is marked.", class_="note")
    figures = []
    for sample in story.samples:
        prompt = element("mark", sample.prompt) if sample.prompt else element("mark", "new document", class_="no-prompt")
        text = element("blockquote", prompt, sample.text.removeprefix(sample.prompt), dir="auto")
        speed = element("figcaption", f"{units.count(sample.tokens_per_s)} tokens/s")
        figures.append(element("figure", text, speed, class_="sample"))
    return _section("Samples", note, *figures)


# What happened


def _happenings(story: RunStory) -> Markup:
    if not story.records:
        return _section("What happened", _missing("Nothing yet."))
    began = f"Times count from the first event, {_clock(story.records[0].time)}."
    head = element("tr", *(element("th", text, scope="col") for text in ("Time", "Step", "Event")))
    body = element("tbody", *(_happening(row) for row in timeline(story.records)))
    table = element("table", element("thead", head), body, class_="timeline")
    return _section("What happened", element("p", began, class_="note"), scrolling("What happened, in order", table))


def _happening(row: Row) -> Markup:
    detail = element("span", row.detail, class_="detail") if row.detail else ""
    event = element("td", element("span", row.what, class_=f"what {row.tone}"), detail)
    return element("tr", element("td", _elapsed(row.since_start_s)), element("td", row.steps), event)


def _elapsed(value_s: float) -> str:
    minutes, seconds = divmod(round(max(0.0, value_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _checkpoints(story: RunStory) -> Markup:
    failed = sum(isinstance(record.event, CheckpointFailed) for record in story.records)
    damaged = sum(isinstance(record.event, CheckpointDamaged) for record in story.records)
    faults = f"{failed:,} could not be written, {damaged:,} passed over as damaged."
    if not story.saves:
        return _section("Checkpoints", _missing(f"None saved yet; {faults}"))
    last = story.saves[-1]
    rows = []
    measures = (("The step loop waited", "stall_s"), ("Writing took", "write_s"))
    for label, field in measures:
        values = [getattr(save, field) for save in story.saves]
        rows.append([label, *(units.duration(percentile(values, share)) for share in (0.5, 0.99, 1.0))])
    what = f"{len(story.saves):,} saved, the last one {units.size(last.size_bytes)} at {last.path}; {faults}"
    return _section(
        "Checkpoints",
        element("p", what, class_="note"),
        _table(("Time", "p50", "p99", "longest"), rows, "figures", "Time that checkpoints take"),
    )


def _config(story: RunStory) -> Markup:
    if story.config_text is None:
        return _section("Config", _missing("The run folder holds no config.yaml."))
    lines = element("pre", story.config_text, tabindex="0", role="region", aria_label="The resolved config")
    return _section("Config", element("details", element("summary", "Show the resolved config"), lines))


def _footer(story: RunStory) -> Markup:
    text = f"Made from {units.plural(len(story.records), 'event')} of events.jsonl."
    if story.num_unknown:
        text += f" {units.plural(story.num_unknown, 'line')} passed over: of a kind that this version does not know."
    return element("footer", element("p", text))
