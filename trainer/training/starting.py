"""Whose weights a stage starts from, and how weights come into a model: whole ones, or adapters with what they rest on.

A stage starts from the nearest stage before it that has run in this run folder, else from the config's `init_from`, else
(pretraining only) from drawn weights. A reward model writes no text, so no stage starts from one. A checkpoint remembers what
its stage started from.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from trainer.checkpoint.format import MODEL_FILE, StartedFrom, steps_in
from trainer.checkpoint.named import checkpoints_named
from trainer.checkpoint.reading import Checkpoint, load_tensors, newest_checkpoint, open_checkpoint
from trainer.config import TRAINING_STAGES, WRITING_STAGES, Config, TrainingStage
from trainer.errors import CheckpointError
from trainer.events import CheckpointDamaged
from trainer.model.gpt import GPT
from trainer.model.lora import merged_weights
from trainer.model.reward import HEAD
from trainer.run_folder import RunFolder

Damaged = Callable[[CheckpointDamaged], None]


@dataclass(frozen=True)
class Origin:
    """Where the weights are that a stage starts from: a folder of checkpoints, or one of its steps."""

    folder: Path
    step: int | None = None

    def open(self, damaged: Damaged) -> Checkpoint:
        """The checkpoint, verified. Raises CheckpointError."""
        if self.step is not None:
            return open_checkpoint(self.folder / f"step-{self.step:08d}")
        found = newest_checkpoint(self.folder, damaged)
        if found is None:
            raise CheckpointError(f"{self.folder}: no checkpoint here to start from")
        return found


def origin_of(config: Config, folder: RunFolder, stage: TrainingStage) -> Origin | None:
    """Where a stage starts; None: from drawn weights. Raises CheckpointError naming the stage that has to run before."""
    before = TRAINING_STAGES[: TRAINING_STAGES.index(stage)]
    for earlier in reversed([each for each in before if each in WRITING_STAGES]):
        checkpoints = folder.checkpoints_of(earlier)
        if steps_in(checkpoints):
            if not folder.done_of(earlier).exists():
                raise CheckpointError(f"{checkpoints}: {earlier} is not finished; run `trainer {earlier}` to its end first")
            return Origin(checkpoints)
    if config.init_from is not None:
        return Origin(*checkpoints_named(Path(config.init_from)))
    if stage == "pretrain":
        return None
    raise CheckpointError(
        f"{folder.path}: nothing for {stage} to start from; run `trainer pretrain` first, or name a run folder as init_from"
    )


def started_from(start: Checkpoint, checkpoints: Path) -> StartedFrom:
    """What a manifest in a folder of checkpoints says of its start; the path is relative, so a run folder may move."""
    return StartedFrom(path=os.path.relpath(start.path, checkpoints), own_sha256=start.manifest.own_sha256)


def base_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint that another one's stage started from. Raises CheckpointError if it is gone or another one."""
    start = checkpoint.manifest.start
    if start is None:
        raise CheckpointError(f"{checkpoint.path}: names no checkpoint that its adapters belong to")
    path = place_of(start, checkpoint)
    try:
        base = open_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: its adapters belong to {path}, which is missing: {error}") from None
    if base.manifest.own_sha256 != start.own_sha256:
        raise CheckpointError(f"{checkpoint.path}: its adapters belong to {path}, which holds another checkpoint now")
    return base


def place_of(start: StartedFrom, checkpoint: Checkpoint) -> Path:
    """Where a start stands: as seen from its run folder, or, if that was moved without it, under the config's `init_from`."""
    path = (checkpoint.path.parent / start.path).resolve()
    init_from = checkpoint.manifest.config.get("init_from")
    if not path.exists() and init_from is not None:
        with suppress(CheckpointError):
            return checkpoints_named(Path(init_from))[0] / path.name
    return path


def load_weights(model: GPT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model without adapters; those of the checkpoint are merged.

    A reward model takes a checkpoint without a head, too, and keeps its own. Raises CheckpointError.
    """
    weights = dict(model.named_parameters())
    head = {HEAD: weights.pop(HEAD)} if HEAD in weights else {}
    judges = checkpoint.manifest.stage == "reward"
    if judges and not head:
        raise CheckpointError(
            f"{checkpoint.path}: is a reward model, which judges answers but writes none; name a checkpoint of another stage"
        )
    section = checkpoint.manifest.adapters
    if section is None:
        load_tensors(checkpoint.path / MODEL_FILE, weights | head if judges else weights)
        return
    load_weights(model, base_of(checkpoint))
    with safe_open(checkpoint.path / MODEL_FILE, framework="pt") as stored:
        adapters = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    merged = merged_weights({name: weight.detach() for name, weight in weights.items()}, adapters, section)
    for name, weight in weights.items():
        weight.data.copy_(merged[name])
    for name, weight in head.items() if judges else ():
        weight.data.copy_(adapters[name])
