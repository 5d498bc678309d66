"""Finding the newest checkpoint that is whole, and loading it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from trainer.checkpoint.format import MANIFEST, CheckpointManifest, folder_name, steps_in
from trainer.errors import CheckpointError
from trainer.events import CheckpointDamaged
from trainer.files import record_of


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files match its manifest."""

    path: Path
    manifest: CheckpointManifest

    @staticmethod
    def trusted(folder: Path, step: int) -> "Checkpoint":
        """A checkpoint that another process has just verified: only its manifest is read."""
        return Checkpoint.at(folder / folder_name(step))

    @staticmethod
    def at(path: Path) -> "Checkpoint":
        """A checkpoint of which only the manifest is read, and verified. Raises CheckpointError."""
        return Checkpoint(path, _read_manifest(path))


def newest_checkpoint(folder: Path, damaged: Callable[[CheckpointDamaged], None]) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None if there is none at all.

    Damaged ones are told to `damaged` and passed over; if all are, raises CheckpointError. About 1 s per GB.
    """
    steps = steps_in(folder)
    for step in reversed(steps):
        path = folder / folder_name(step)
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            damaged(CheckpointDamaged(step=step, path=str(path), reason=str(error)))
    if steps:
        raise CheckpointError(
            f"{folder}: none of its {len(steps)} checkpoints is whole; remove the folder to train from the start"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a manifest and verify size and SHA-256 of every file that it names. Raises CheckpointError naming the file."""
    manifest = _read_manifest(path)
    for name, stored in manifest.files.items():
        file = path / name
        try:
            found = record_of(file)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
        if found.size_bytes != stored.size_bytes:
            raise CheckpointError(f"{file}: {found.size_bytes} bytes instead of {stored.size_bytes}")
        if found.sha256 != stored.sha256:
            raise CheckpointError(f"{file}: its SHA-256 is not the manifest's")
    return Checkpoint(path, manifest)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's files match its manifest. About 1 s per GB."""
    try:
        open_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _read_manifest(path: Path) -> CheckpointManifest:
    manifest_path = path / MANIFEST
    try:
        manifest = CheckpointManifest.model_validate_json(manifest_path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{manifest_path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{manifest_path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise CheckpointError(f"{manifest_path}: not a checkpoint manifest: {error.errors()[0]['msg']}") from None
    if folder_name(manifest.state.step) != path.name:
        raise CheckpointError(f"{manifest_path}: says step {manifest.state.step}, which is not this folder's: was it renamed?")
    if manifest.own_sha256 != manifest.computed_sha256():
        raise CheckpointError(f"{manifest_path}: does not match its own SHA-256: altered")
    return manifest


def load_tensors(file: Path, targets: Mapping[str, Tensor]) -> None:
    """Copy the tensors of a safetensors file into `targets`, on whatever device these are. Raises CheckpointError."""
    for name, tensor in stored_tensors(file, {name: target.shape for name, target in targets.items()}):
        with torch.no_grad():
            targets[name].copy_(tensor)


def stored_tensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a safetensors file, one at a time in memory. Raises CheckpointError if names or shapes are others."""
    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
        odd = sorted(names ^ set(shapes))
        if odd:
            raise CheckpointError(
                f"{file}: belongs to another model: the weight {odd[0]} is in one of the two only; choose another run_dir"
            )
        for name, shape in shapes.items():
            tensor = stored.get_tensor(name)
            if tensor.shape != shape:
                raise CheckpointError(
                    f"{file}: belongs to another model: {name} has shape {tuple(tensor.shape)}, not {tuple(shape)}"
                )
            yield name, tensor
