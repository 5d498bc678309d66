"""The stages as a person starts them: alone, or as `run` does them in turn, skipping what is done.

Where there are several processes, the stages that train use them all, and so does prepare; the rest is the first one's work,
and the others wait for its result. Stages that need torch import it when they start: preparing text does not.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint.format import steps_in
from trainer.checkpoint.named import bring_tokenizer
from trainer.config import TRAINING_STAGES, WRITING_STAGES, Config, StageName, TokenizerSection, TrainingStage
from trainer.config_corpus import CorpusSection
from trainer.cores import cores
from trainer.corpus.finding import STANDARD_INPUT
from trainer.corpus.phases import Surroundings
from trainer.corpus.preparing import (
    Prepare,
    clean_shard,
    deduplicate,
    is_cleaned,
    is_deduplicated,
    is_written,
    merge,
    piped_in,
    prepare,
    write_shard,
)
from trainer.elastic.finish import mark_finished, wait_until_finished
from trainer.elastic.local import LocalRun
from trainer.errors import BudgetError
from trainer.evaluation.choosing import settings_hash
from trainer.events import Generated, OrderChecked, StageFinished, StageStarted
from trainer.files import write_file, write_json
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tokens.chat_encoding import encode_chats
from trainer.tokens.chat_files import RowKind
from trainer.tokens.encoding import encode_corpus, make_tokenizer, measure_by_source
from trainer.tokens.shards import read_manifest
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder
from trainer.tracking.hub import Tracker
from trainer.tracking.progress import byte_progress
from trainer.tracking.report import write_report
from trainer.tracking.sinks import make_tracker
from trainer.world import World

if TYPE_CHECKING:
    from trainer.training.stage import Stage

CLEANED_POLL_S = 1.0
WAIT_DEADLINE_S = 48 * 3600.0
"""The other processes wait this long for the first one to prepare data."""

Summary = dict[str, Any]


@dataclass(frozen=True)
class Session:
    """What a stage works with."""

    config: Config
    folder: RunFolder
    world: World
    stop: StopRequest
    environment: Mapping[str, str]

    @staticmethod
    def open(config: Config, world: World, stop: StopRequest, environment: Mapping[str, str]) -> "Session":
        """Claim the run folder. Raises RunFolderError if another run lives there."""
        folder = RunFolder.of(config)
        if world.is_first:
            folder.claim(config)
        else:
            folder.check(config)
        return Session(config, folder, world, stop, environment)


def run_stages(session: Session) -> None:
    """The config's stages in turn; those that train start their own processes if the config asks for several."""
    for stage in session.config.stages:
        session.stop.raise_if_requested()
        launch = session.config.launch
        training = _training_stage(stage)
        starts_processes = training and launch.processes > 1 and "WORLD_SIZE" not in session.environment
        if starts_processes and training and not session.folder.done_of(training).exists():
            with session.folder.working("trainer run"):
                pass  # refused here and not by each of the processes in turn
            with closing(make_tracker(session.config, session.folder, session.world, None)) as tracker:
                arguments = [stage, "--config", str(session.folder.config)]
                if stage != "pretrain":  # faults are planned for pretraining
                    launch = launch.model_copy(update={"kill": ()})
                LocalRun(launch, arguments, session.folder.events, tracker).run(session.environment)
        else:
            run_stage(session, stage)
    if session.world.is_first:
        mark_finished(session.config, session.folder)
    else:  # an agent whose processes have all ended may end the job, and with it the first process
        wait_until_finished(session.config, session.folder)


def run_stage(session: Session, stage: StageName) -> None:
    """One stage, or the finding that it is done."""
    act, results = _stages(session)[stage]
    if _training_stage(stage) is None and not session.world.is_first:
        if stage == "prepare" and _is_shared(session):
            _prepare_own_shard(session)
        for result in results:
            _wait_until(session, result.exists, f"{stage}: {result}")
        return
    _act(session, stage, act)


def merge_corpus(session: Session) -> None:
    """The stage prepare without its first phase, which others have done."""
    _act(session, "prepare", partial(_prepare, make=merge))


def _act(session: Session, stage: StageName, act: "Act") -> None:
    with closing(make_tracker(session.config, session.folder, session.world, stage)) as tracker:
        tracker.emit(StageStarted(stage=stage))
        started = time.monotonic()
        summary, made = act(session, tracker)
        duration_s = time.monotonic() - started
        tracker.emit(StageFinished(stage=stage, skipped=not made, duration_s=duration_s, summary=summary))


Act = Callable[[Session, Tracker], tuple[Summary, bool]]
"""Does a stage; returns what to tell of it, and whether it was done now."""


def _stages(session: Session) -> dict[StageName, tuple[Act, tuple[Path, ...]]]:
    """What does each stage, and the folders whose presence tells other processes that it is done."""
    folder = session.folder
    return {
        "prepare": (_prepare, (folder.corpus,)),
        "tokenizer": (_tokenizer, (folder.tokenizer,)),
        "encode": (_encode, _encoded(session)),
        "pretrain": (partial(_train, "pretrain"), ()),
        "sft": (partial(_train, "sft"), ()),
        "reward": (partial(_train, "reward"), ()),
        "dpo": (partial(_train, "dpo"), ()),
        "grpo": (partial(_train, "grpo"), ()),
        "evaluate": (_evaluate, ()),
        "generate": (_generate, ()),
        "report": (_report, ()),
    }


def _training_stage(stage: StageName) -> TrainingStage | None:
    return next((training for training in TRAINING_STAGES if training == stage), None)


def _encoded(session: Session) -> tuple[Path, ...]:
    """The folders of rows that the config asks for."""
    config, folder, chat = session.config, session.folder, session.config.chat
    wanted = (
        (folder.tokens, bool(config.corpus.sources) or not (chat.conversations or chat.pairs or chat.prompts)),
        (folder.chat, bool(chat.conversations)),
        (folder.pairs, bool(chat.pairs)),
        (folder.prompts, bool(chat.prompts)),
    )
    return tuple(path for path, is_wanted in wanted if is_wanted)


def _wait_until(session: Session, condition: Callable[[], bool], what: str, poll_s: float = 0.2) -> None:
    """Until other processes have done their part. Raises BudgetError after the deadline."""
    deadline = time.monotonic() + WAIT_DEADLINE_S
    while not condition():
        session.stop.raise_if_requested()
        if time.monotonic() > deadline:
            raise BudgetError(f"{what}: not there within {WAIT_DEADLINE_S:.0f} s; is another process gone?")
        time.sleep(poll_s)


def _is_shared(session: Session) -> bool:
    """Whether all processes clean text, and not the first one alone: what is piped in, only that one can read."""
    return session.world.size > 1 and all(source.path != STANDARD_INPUT for source in session.config.corpus.sources)


def _corpus_section(session: Session) -> CorpusSection:
    """As configured, with this process's part of the container's cores."""
    config = session.config.corpus
    processes_here = int(session.environment.get("LOCAL_WORLD_SIZE", "1"))
    return config.model_copy(update={"workers": config.workers or max(1, cores() // processes_here)})


def _clean_own_shard(session: Session) -> None:
    """Phase 1 of every so many-th unit; a stop counts between two units."""
    world = session.world
    around = Surroundings(lambda *_: session.stop.raise_if_requested())
    clean_shard(_corpus_section(session), session.folder.corpus, world.rank, world.size, around)


def _write_own_shard(session: Session) -> None:
    """Phase 3 of every so many-th share."""
    world = session.world
    around = Surroundings(lambda *_: session.stop.raise_if_requested())
    write_shard(_corpus_section(session), session.folder.corpus, world.rank, world.size, around)


def _prepare_own_shard(session: Session) -> None:
    """What a process does that is not the first one."""
    config, folder = _corpus_section(session), session.folder.corpus
    _clean_own_shard(session)
    _wait_until(session, lambda: is_deduplicated(config, folder), "prepare: what repeats", CLEANED_POLL_S)
    _write_own_shard(session)


def _prepare_together(session: Session) -> None:
    """What the first process does: its own share, and what only one can do, up to the corpus of which all parts are written."""
    config, folder = _corpus_section(session), session.folder.corpus
    _clean_own_shard(session)
    _wait_until(session, lambda: is_cleaned(config, folder), "prepare: units of other processes", CLEANED_POLL_S)
    deduplicate(config, folder, session.world.size)
    _write_own_shard(session)
    _wait_until(session, lambda: is_written(config, folder), "prepare: shares of other processes", CLEANED_POLL_S)


def _prepare(session: Session, _tracker: Tracker, make: Prepare = prepare) -> tuple[Summary, bool]:
    started = time.monotonic()
    config, folder = _corpus_section(session), session.folder.corpus
    if make is prepare and _is_shared(session):
        _prepare_together(session)
        make = merge
    with byte_progress("prepare") as show:

        def progress(done_bytes: int, total_bytes: int) -> None:
            session.stop.raise_if_requested()
            show(done_bytes, total_bytes)

        manifest, made = make(config, folder, Surroundings(progress, piped_in()))
    names = ("kept", "held_out", "duplicate", "near_duplicate", "too_short", "filtered", "bad")
    summary: Summary = {name: sum(counts.get(name, 0) for counts in manifest.counts.values()) for name in names}
    if made:
        read_bytes = sum(manifest.inputs.values())
        summary["input_mb_per_s"] = round(read_bytes / 1e6 / (time.monotonic() - started), 2)
    return summary | {"text_mb": round(sum(part.text_bytes for part in manifest.parts) / 1e6, 1)}, made


def _tokenizer(session: Session, _tracker: Tracker) -> tuple[Summary, bool]:
    config, folder = session.config, session.folder
    brought = bring_tokenizer(config, folder)
    encoder, made = make_tokenizer(config.tokenizer, config.model.vocab_size, folder.corpus, folder.tokenizer)
    summary: Summary = {"ids": encoder.vocab_size} | ({"taken_from": str(brought)} if brought else {})
    if brought and config.tokenizer != TokenizerSection():
        summary["note"] = "the config's tokenizer section is not used: the weights of init_from know their own tokenizer alone"
    if folder.corpus.exists():
        bytes_per_token = measure_by_source(folder.corpus, encoder)
        summary |= {f"bytes_per_token:{name}": round(value, 2) for name, value in bytes_per_token.items()}
    return summary, made or brought is not None


def _encode(session: Session, _tracker: Tracker) -> tuple[Summary, bool]:
    """Rows of text, where the config names sources of it or nothing else, then rows of conversations, pairs and prompts."""
    config, folder = session.config, session.folder
    wanted, vocab_size = _encoded(session), config.model.vocab_size
    brought = bring_tokenizer(config, folder)
    summary: Summary = {"tokenizer_taken_from": str(brought)} if brought else {}
    any_made = False
    if folder.tokens in wanted:
        with byte_progress("encode") as progress:
            manifest, any_made = encode_corpus(
                config.tokens, vocab_size, folder.corpus, folder.tokenizer, folder.tokens, progress
            )
        train = manifest.splits["train"]
        summary |= {"tokens": train.tokens, "rows": train.rows, "padding": f"{1 - train.utilisation:.2%}"}
    kinds: tuple[tuple[RowKind, Path], ...] = (
        ("conversations", folder.chat), ("pairs", folder.pairs), ("prompts", folder.prompts),
    )  # fmt: skip
    for kind, path in kinds:
        if path in wanted:
            manifest, made = encode_chats(config.chat, config.chat_row_tokens, kind, vocab_size, folder.tokenizer, path)
            any_made |= made
            counted = {
                name: sum(counts[name] for counts in manifest.counts.values()) for name in ("kept", "held_out", "too_long")
            }
            summary |= {f"{kind}:{name}": value for name, value in counted.items()}
    return summary, any_made


def _stage_of(name: TrainingStage) -> "Stage[Any]":
    """What a stage adds to training; imports torch."""
    if name == "sft":
        from trainer.training.sft import SFT

        return SFT
    if name == "reward":
        from trainer.training.reward import REWARD

        return REWARD
    if name == "dpo":
        from trainer.training.dpo import DPO

        return DPO
    if name == "grpo":
        from trainer.alignment.grpo import GRPO

        return GRPO
    from trainer.training.pretrain import PRETRAIN

    return PRETRAIN


def _train(name: TrainingStage, session: Session, tracker: Tracker) -> tuple[Summary, bool]:
    config, folder = session.config, session.folder
    done = folder.done_of(name)
    if done.exists():
        return {"run": done.read_text(encoding="utf-8").strip()[:12]}, False
    from trainer.training.assembly import train
    from trainer.training.sample_log import check_order

    state, order = train(_stage_of(name), config, folder, session.world, tracker, session.stop)
    if not session.world.is_first:
        return {}, True
    if config.training(name).sample_log:
        checked = check_order(folder.of_stage(name), order, state.step)
        tracker.emit(OrderChecked(step=state.step, **asdict(checked)))
    if state.step == order.num_steps:
        write_file(done, f"{config.hash()}\n".encode())
    return {"steps": state.step, "tokens": state.tokens_seen}, True


def _evaluate(session: Session, tracker: Tracker) -> tuple[Summary, bool]:
    if _stored(session.folder.evaluation).get("settings") == settings_hash(session.config, session.folder):
        return {}, False
    if read_manifest(session.folder.tokens).splits["held_out"].rows == 0:
        return {"note": "nothing is held out; raise corpus.held_out, or add documents"}, True
    from trainer.evaluation.evaluating import evaluate

    evaluated = evaluate(session.config, session.folder, tracker)
    return {name: round(values["all"], 4) for name, values in evaluated.bits_per_byte.items()}, True


def _generate(session: Session, tracker: Tracker) -> tuple[Summary, bool]:
    config, folder = session.config, session.folder
    if _is_of_newest(session, folder.generated):
        return {}, False
    from trainer.inference.generation import generate_text

    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    texts = []
    for step, prompt, pieces in generate_text(config, folder, encoder, config.generate.prompts):
        started, text = time.monotonic(), "".join(pieces)
        speed = len(encoder.encode(text)) / (time.monotonic() - started)
        texts.append(Generated(step=step, prompt=prompt, text=text, tokens_per_s=speed))
        tracker.emit(texts[-1])
    values = [{"prompt": each.prompt, "text": each.text} for each in texts]
    write_json(folder.generated, {**_newest(folder), "run": config.hash(), "texts": values})
    return {"texts": len(texts)}, True


def _report(session: Session, _tracker: Tracker) -> tuple[Summary, bool]:
    return {"file": str(write_report(session.folder.path))}, True


def _newest(folder: RunFolder) -> dict[str, Any]:
    """Stage and step of the weights that are used now; none before there are any."""
    for stage in reversed(WRITING_STAGES):
        if steps := steps_in(folder.checkpoints_of(stage)):
            return {"stage": stage, "step": steps[-1]}
    return {}


def _is_of_newest(session: Session, file: Path) -> bool:
    """Whether a stage's result was made from the newest weights of this run."""
    result, newest = _stored(file), _newest(session.folder)
    found = {"stage": result.get("stage", "pretrain"), "step": result.get("step")}
    return bool(newest) and found == newest and result.get("run") == session.config.hash()


def _stored(file: Path) -> dict[str, Any]:
    """What a stage wrote before; nothing if the file is missing or damaged."""
    try:
        result = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
