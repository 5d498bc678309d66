"""Sinks: the event log heals, a failing sink is told and tried again, every event has its words or none on purpose."""

import io
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from trainer import events
from trainer.config import WandbSection
from trainer.errors import RunFolderError
from trainer.events import EpochDone, Event, Record, StageStarted, StepsDone, Validated, read_events
from trainer.files import locked
from trainer.tracking.hub import Tracker
from trainer.tracking.json_lines import JsonLines
from trainer.tracking.terminal import Terminal, describe
from trainer.tracking.wandb_sink import Wandb, metrics

ALL_EVENTS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, events.TrainingEvent)
]


def example(kind: type[Event]) -> Event:
    """An event with a value for each of its fields."""
    values: dict[str, Any] = {"step": 7}
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name == "step" or field.default is not MISSING:
            continue
        hint = str(hints[field.name])
        samples = {"str": "word", "int": 3, "float": 0.5, "bool": True}
        if field.name == "scores":
            values[field.name] = {"plain": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.1}}
        elif field.name == "differences":
            values[field.name] = [
                {"task": "t", "score": "plain", "first": "a", "second": "b", "only_first": 1, "only_second": 9, "p_value": 0.02}
            ]
        elif field.name == "samples" and "list" in hint:
            values[field.name] = [{"prompt": "a", "answer": "b", "reward": 0.5}]
        elif "dict[str, dict" in hint:
            values[field.name] = {"model": {"a": 1.0, "all": 1.5}}
        elif "dict" in hint:
            values[field.name] = {"a": 1.0}
        elif "list" in hint:
            values[field.name] = [1, 2]
        else:
            values[field.name] = next(value for word, value in samples.items() if word in hint)
    return kind(**values)


@pytest.mark.parametrize("kind", ALL_EVENTS, ids=lambda kind: kind.name())
def test_every_event_has_words_for_a_person_and_a_line_in_the_log(kind: type[Event], tmp_path: Path) -> None:
    event = example(kind)
    assert describe(event)
    stream = io.StringIO()
    Terminal(stream).write(Record(1.0, "r", event))
    assert stream.getvalue().strip()
    assert "\x1b" not in stream.getvalue()
    sink = JsonLines(tmp_path / "events.jsonl")
    sink.write(Record(1.0, "r", event))
    sink.close()
    ((_, record),) = read_events(tmp_path / "events.jsonl")
    assert (record["event"], record["run"], record["step"]) == (kind.name(), "r", 7)
    assert set(record) == {"time", "event", "run"} | {field.name for field in fields(kind)}
    assert kind.__doc__ != Event.__doc__


def test_figures_that_are_no_numbers_are_null_in_the_log(tmp_path: Path) -> None:
    event = Validated(step=1, bits_per_byte=float("nan"), by_source={}, duration_s=float("inf"))
    line = json.loads(Record(1.0, "r", event).to_json(), parse_constant=lambda word: pytest.fail(word))
    assert (line["bits_per_byte"], line["duration_s"]) == (None, None)


def test_a_torn_last_line_is_closed_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a", "step": 1}\n{"event": "b", "st')
    sink = JsonLines(path)
    sink.write(Record(1.0, "r", StageStarted(stage="x")))
    sink.close()
    assert [record["event"] for _, record in read_events(path)] == ["a", "stage_started"]
    offsets = [offset for offset, _ in read_events(path)]
    assert [record["event"] for _, record in read_events(path, offsets[0])] == ["stage_started"]
    assert json.loads(path.read_text().splitlines()[-1])["stage"] == "x"


class Failing:
    """A sink that fails from its second event on, until it is mended."""

    name = "failing"

    def __init__(self) -> None:
        self.calls = 0
        self.steps: list[int | None] = []
        self.works = False

    def write(self, record: Record) -> None:
        self.calls += 1
        if len(self.steps) > 0 and not self.works:
            raise ConnectionError("the server is gone")
        self.steps.append(record.event.step)

    def close(self) -> None:
        return


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def epoch(number: int) -> EpochDone:
    return EpochDone(step=number, epoch=number, epoch_time_s=1.0)


def told(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in read_events(path)]


def test_a_failing_sink_is_told_once_and_gets_what_it_missed_when_it_works_again(tmp_path: Path) -> None:
    failing, clock = Failing(), Clock()
    tracker = Tracker("r", [failing, JsonLines(tmp_path / "events.jsonl")], clock=clock)
    for number in range(4):
        tracker.emit(epoch(number))
    assert failing.calls == 2  # it is not asked again before its time
    for _ in range(3):
        clock.now_s += 200
        tracker.emit(epoch(9))
    failing.works = True
    tracker.emit(epoch(10))
    assert failing.steps == [0]
    clock.now_s += 60
    tracker.emit(epoch(11))
    tracker.close()
    assert [step for step in failing.steps if step is not None] == [0, 1, 2, 3, 9, 9, 9, 10, 11]
    records = told(tmp_path / "events.jsonl")
    assert [record["event"] for record in records if record["event"] != "epoch_done"] == ["sink_failed", "sink_recovered"]
    assert records[2]["reason"] == "ConnectionError: the server is gone"
    assert records[-1]["lost_events"] == 0


def test_a_sink_that_fails_for_long_loses_the_oldest_events_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tracking.hub.MOST_WAITING", 5)
    failing, clock = Failing(), Clock()
    tracker = Tracker("r", [failing, JsonLines(tmp_path / "events.jsonl")], clock=clock)
    for number in range(10):
        tracker.emit(epoch(number))
    failing.works, clock.now_s = True, clock.now_s + 60
    tracker.emit(epoch(10))
    tracker.close()
    assert failing.steps[:1] + [step for step in failing.steps[1:] if step is not None] == [0, 6, 7, 8, 9, 10]
    assert told(tmp_path / "events.jsonl")[-1]["lost_events"] == 6  # five epochs, and the word on its own failure


def test_an_event_log_on_a_full_disk_is_whole_again_when_there_is_space(tmp_path: Path) -> None:
    path, clock, stream = tmp_path / "events.jsonl", Clock(), io.StringIO()
    tracker = Tracker("r", [JsonLines(path), Terminal(stream)], clock=clock)
    tracker.emit(epoch(0))
    with limited_file_size(path.stat().st_size + 20):  # a part of the next line still fits
        tracker.emit(epoch(1))
        tracker.emit(epoch(2))
    assert not path.read_bytes().endswith(b"\n")
    clock.now_s += 5
    tracker.emit(epoch(3))
    tracker.close()
    records = told(path)
    assert [record["step"] for record in records if record["event"] == "epoch_done"] == [0, 1, 2, 3]
    assert [record["event"] for record in records if record["event"] != "epoch_done"] == ["sink_failed", "sink_recovered"]
    assert "events.jsonl takes no events: OSError: [Errno 27]" in stream.getvalue()
    assert "events.jsonl takes events again after 5.0 s and has what it missed" in stream.getvalue()


@contextmanager
def limited_file_size(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to make any file of this process longer, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_wandb_that_fails_at_first_is_reached_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    connect, calls = wandb.init, []

    def init(**arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise ConnectionError("no route to the server")
        return connect(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    clock, path = Clock(), tmp_path / "events.jsonl"
    section = WandbSection(enabled=True, mode="offline", deadline_s=60)
    sink = Wandb(section, "name", "0123456789abcdef", tmp_path, {})
    tracker = Tracker("r", [JsonLines(path), sink], clock=clock)
    deadline = time.monotonic() + 60
    while not any(record["event"] == "sink_recovered" for record in told(path)):
        assert time.monotonic() < deadline
        clock.now_s += 60
        tracker.emit(epoch(1))
        time.sleep(0.05)
    tracker.close()
    assert [record["sink"] for record in told(path) if record["event"] == "sink_failed"] == ["wandb"]
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    while b"epoch_time" not in log.read_bytes():  # a process of wandb's writes it
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_charts_have_the_names_that_minimind_s_users_know() -> None:
    loss = metrics(Record(1.0, "r", example(StepsDone)))
    assert {"step", "loss", "lr", "tokens_per_s", "mfu"} <= set(loss)
    assert metrics(Record(1.0, "r", EpochDone(step=5, epoch=1, epoch_time_s=2.5))) == {"step": 5, "epoch_time": 2.5}
    assert "bits_per_byte/a" in metrics(Record(1.0, "r", example(Validated)))
    assert metrics(Record(1.0, "r", StageStarted(stage="x"))) == {}


def test_event_names_are_all_different() -> None:
    names = [kind.name() for kind in ALL_EVENTS]
    assert len(set(names)) == len(names) > 15
    assert all(getattr(events, kind.__name__) is kind for kind in ALL_EVENTS)


def test_a_lock_names_its_holder_and_ends_with_the_block(tmp_path: Path) -> None:
    with locked(tmp_path / "run" / "lock", "process A"):
        wanted = r"process A, pid \d+, works in this folder; stop it, or choose another run_dir"
        with pytest.raises(RunFolderError, match=wanted), locked(tmp_path / "run" / "lock", "process B"):
            pass
    with locked(tmp_path / "run" / "lock", "process B"):
        assert (tmp_path / "run" / "lock").read_text() == f"process B, pid {os.getpid()},\n"


class Broken:
    """A sink that fails at writing, or only at closing."""

    def __init__(self, name: str, *, at_close: bool = False) -> None:
        self.name, self.at_close, self.calls = name, at_close, 0

    def write(self, record: Record) -> None:
        self.calls += 1
        if not self.at_close:
            raise OSError(f"{self.name} is gone")

    def close(self) -> None:
        if self.at_close:
            raise TimeoutError(f"{self.name} did not finish")


EVENT = EpochDone(step=1, epoch=1, epoch_time_s=1.0)


@pytest.mark.parametrize("count", [2, 3])
def test_sinks_that_fail_at_the_same_event_do_not_stop_training(count: int, tmp_path: Path) -> None:
    """A full disk takes the event log while a closed pipe takes the terminal."""
    broken = [Broken(f"sink-{number}") for number in range(count)]
    tracker = Tracker("r", [*broken, JsonLines(tmp_path / "events.jsonl")])
    for _ in range(2):
        tracker.emit(EVENT)
    tracker.close()
    failed = [record["sink"] for record in told(tmp_path / "events.jsonl") if record["event"] == "sink_failed"]
    assert sorted(failed) == [sink.name for sink in broken]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_closing_raises_nothing_whichever_sinks_fail_at_it(place: int, tmp_path: Path) -> None:
    sinks: list[Any] = [Broken("a", at_close=True), Broken("b", at_close=True), Broken("c")]
    sinks.insert(place, JsonLines(tmp_path / "events.jsonl"))
    tracker = Tracker("r", sinks)
    tracker.emit(EVENT)
    tracker.close()
    assert told(tmp_path / "events.jsonl")[0]["event"] == "epoch_done"


def test_a_sink_that_fails_at_closing_is_told_in_the_log_and_on_the_terminal(tmp_path: Path) -> None:
    """wandb's deadline ends in close(); trainer.tracking.sinks makes the event log first."""
    stream = io.StringIO()
    tracker = Tracker("r", [JsonLines(tmp_path / "events.jsonl"), Terminal(stream), Broken("wandb", at_close=True)])
    tracker.emit(EVENT)
    tracker.close()
    records = told(tmp_path / "events.jsonl")
    assert [(record["event"], record.get("sink")) for record in records] == [("epoch_done", None), ("sink_failed", "wandb")]
    assert "wandb takes no events" in stream.getvalue()
    assert "events.jsonl takes no events" not in stream.getvalue()
