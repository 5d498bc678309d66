"""A run as events, told as a story, and what a reader sees of its report."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from trainer.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Generated,
    OrderChecked,
    RankKilled,
    Record,
    StageFinished,
    StepsDone,
    TrainingFinished,
    TrainingStarted,
    Validated,
)
from trainer.tracking.run_story import RunStory, tell_story

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
