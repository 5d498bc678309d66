"""Saving off the step loop: copy the tensors (what the loop waits for), then write, flush, hash and commit in a thread.

A save that fails leaves the one before it and becomes an event; training goes on.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from trainer.checkpoint.format import (
    MANIFEST,
    CheckpointManifest,
    StoredFile,
    folder_name,
    safetensors_header,
    steps_in,
)
from trainer.checkpoint.reading import is_whole
from trainer.errors import StorageError, TrainerError
from trainer.events import CheckpointFailed, CheckpointSaved
from trainer.files import DISK, PARTIAL_SUFFIX, Disk, HashingWriter, new_folder, partial_path, write_json

WRITE_DEADLINE_S = 600.0
"""A write that takes longer is given up: the disk hangs."""

CLOSE_DEADLINE_S = 20.0
"""A process that ends for an error waits this long for a write; below the time that an agent leaves it."""

Tensors = Mapping[str, Tensor]


class CheckpointWriter:
    """Writes checkpoints of one run, one at a time, and keeps the newest few."""

    def __init__(self, folder: Path, keep: int, disk: Disk = DISK) -> None:
        self._folder = folder
        self._keep = keep
        self._disk = disk
        self._staged: dict[str, dict[str, Tensor]] = {}
        self._thread: threading.Thread | None = None
        self._verdicts: dict[Path, bool] = {}
        self._outcomes: list[CheckpointSaved | CheckpointFailed] = []
        self._error: TrainerError | None = None

    @property
    def busy(self) -> bool:
        """Whether a write is under way; a save that is merely due can then wait for a later step."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self,
        shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
        tensors: Iterable[tuple[str, str, Tensor]],
        manifest: Callable[[], CheckpointManifest],
    ) -> None:
        """Copy the tensors, given as (file, name, tensor), and write them in the background.

        `shapes` are by file and name, those of a file the same at each call; `manifest` lacks the files yet. The caller may
        change the tensors as soon as this returns. Blocks for the copy, and for a write still under way.
        """
        self.wait()
        started = time.monotonic()
        staged = self._stage(shapes, tensors)
        stall_s = time.monotonic() - started
        # a daemon: a write that is stuck in the kernel must not keep the process from ending
        self._thread = threading.Thread(
            target=self._write, args=(staged, manifest(), stall_s), name="checkpoint-writer", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until no write is under way. Raises StorageError after the deadline."""
        if self._thread is None:
            return
        self._thread.join(WRITE_DEADLINE_S)
        if self._thread.is_alive():
            raise StorageError(
                f"{self._folder}: a checkpoint was not written within {WRITE_DEADLINE_S:.0f} s; is the disk stuck?"
            )
        self._thread = None

    def finish(self) -> None:
        """Wait, and raise the error of the last save if it failed: for saves that must not be lost."""
        self.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give a write that is under way a little time to end; a process that leaves with an error cannot wait for more."""
        if self._thread is not None:
            self._thread.join(CLOSE_DEADLINE_S)

    def outcomes(self) -> list[CheckpointSaved | CheckpointFailed]:
        """Events of saves that ended since the last call."""
        ended, self._outcomes = self._outcomes, []
        return ended

    def _stage(
        self, shapes: Mapping[str, Mapping[str, tuple[int, ...]]], tensors: Iterable[tuple[str, str, Tensor]]
    ) -> dict[str, Tensors]:
        """Copy into memory of our own, made once, so that later saves pay no page faults. Returns the files' tensors."""
        for file, named in shapes.items():
            if file not in self._staged:
                self._staged[file] = {name: torch.empty(shape, dtype=torch.float32) for name, shape in named.items()}
        for file, name, tensor in tensors:
            self._staged[file][name].copy_(tensor.detach())
        return {file: self._staged[file] for file in shapes}

    def _write(self, staged: Mapping[str, Tensors], manifest: CheckpointManifest, stall_s: float) -> None:
        started = time.monotonic()
        step = manifest.state.step
        path = self._folder / folder_name(step)
        try:
            size_bytes = write_checkpoint(path, staged, manifest, self._disk)
        except Exception as error:  # noqa: BLE001 - whatever it is must reach the loop as an event, not die with the thread
            self._error = error if isinstance(error, TrainerError) else StorageError(f"{path}: not saved: {error!r}")
            self._outcomes.append(CheckpointFailed(step=step, reason=str(self._error)))
            return
        self._error = None
        self._verdicts[path] = True
        write_s = time.monotonic() - started
        self._outcomes.append(
            CheckpointSaved(step=step, path=str(path), size_bytes=size_bytes, stall_s=stall_s, write_s=write_s)
        )
        try:
            remove_old(self._folder, self._keep, self._disk, self._is_whole)
        except OSError as error:
            self._outcomes.append(CheckpointFailed(step=step, reason=f"saved, but an older one could not be removed: {error}"))

    def _is_whole(self, path: Path) -> bool:
        """Whether a checkpoint matches its manifest. Each is verified once, about 1 s per GB, and not those of this process."""
        if path not in self._verdicts:
            self._verdicts[path] = is_whole(path)
        return self._verdicts[path]


def write_checkpoint(path: Path, tensors: Mapping[str, Tensors], manifest: CheckpointManifest, disk: Disk = DISK) -> int:
    """Write one checkpoint folder, whole or not at all; returns its bytes. Raises StorageError."""
    files: dict[str, StoredFile] = {}
    with new_folder(path, disk) as partial:
        for name in tensors:
            writer = HashingWriter(partial / name, disk)
            try:
                writer.write(safetensors_header({key: tuple(tensor.shape) for key, tensor in tensors[name].items()}))
                for tensor in tensors[name].values():
                    writer.write(tensor.numpy().data)
                files[name] = StoredFile(**asdict(writer.close()))
            except BaseException:
                writer.abandon()
                raise
        whole = manifest.model_copy(update={"files": files})
        whole = whole.model_copy(update={"own_sha256": whole.computed_sha256()})
        write_json(partial / MANIFEST, whole.model_dump(mode="json"), disk)
    return sum(file.size_bytes for file in files.values())


def remove_old(folder: Path, keep: int, disk: Disk = DISK, whole: Callable[[Path], bool] = is_whole) -> None:
    """Remove what is older than the newest `keep` whole checkpoints, and what interrupted writes left behind.

    Damaged ones do not count: `whole` tells whether a checkpoint matches its manifest. A folder loses its name before its
    files, so that half of one never looks like a checkpoint.
    """
    kept = 0
    for step in reversed(steps_in(folder)):
        path = folder / folder_name(step)
        if kept < keep:
            kept += whole(path)
            continue
        disk.rename(path, partial_path(path))
    for leftover in folder.glob(f"*{PARTIAL_SUFFIX}"):
        disk.remove(leftover)
