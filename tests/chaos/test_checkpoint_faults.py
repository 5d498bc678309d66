"""A save can be killed or refused at each of its file operations, a checkpoint can rot; a whole one is always there."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import load_file

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, CheckpointManifest, TrainingState, folder_name, steps_in
from trainer.checkpoint.reading import load_tensors, newest_checkpoint, open_checkpoint
from trainer.checkpoint.writing import CheckpointWriter, remove_old, write_checkpoint
from trainer.errors import CheckpointError, StorageError
from trainer.events import CheckpointDamaged, CheckpointFailed, CheckpointSaved
from trainer.files import Disk

Fault = Callable[[], None]


class FaultyDisk(Disk):
    """Does something at its n-th operation, before carrying it out; counts all of them."""

    def __init__(self, at: int, fault: Fault) -> None:
        self._left = at
        self._fault = fault
        self.operations: list[str] = []

    def _count(self, name: str) -> None:
        self.operations.append(name)
        self._left -= 1
        if self._left == 0:
            self._fault()

    def make_folder(self, path: Path) -> None:
        self._count("make_folder")
        super().make_folder(path)

    def create(self, path: Path) -> IO[bytes]:
        self._count("create")
        return super().create(path)

    def write(self, file: IO[bytes], data: memoryview) -> None:
        self._count("write")
        super().write(file, data)

    def flush(self, file: IO[bytes]) -> None:
        self._count("flush")
        super().flush(file)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)

    def flush_folder(self, path: Path) -> None:
        self._count("flush_folder")
        super().flush_folder(path)

    def remove(self, path: Path) -> None:
        self._count("remove")
        super().remove(path)


def fail_with(number: int) -> Fault:
    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    model = {"a.weight": torch.full((3, 5), value), "b.weight": torch.full((7,), -value)}
    moments = {f"{kind}.{name}": tensor * 2 for kind in ("exp_avg", "exp_avg_sq") for name, tensor in model.items()}
    return {MODEL_FILE: model, OPTIMIZER_FILE: moments}


def begin_save(writer: CheckpointWriter, state: dict[str, dict[str, torch.Tensor]], made: CheckpointManifest) -> None:
    """Save a state as an engine hands it over: shapes first, then one tensor after another."""
    shapes = {file: {name: tensor.shape for name, tensor in named.items()} for file, named in state.items()}
    stream = ((file, name, tensor) for file, named in state.items() for name, tensor in named.items())
    writer.save(shapes, stream, lambda: made)


def manifest(step: int) -> CheckpointManifest:
    hashes: dict[str, Any] = {"run": "r", "data_sha256": "d", "tokenizer_sha256": "t"}
    state = TrainingState(step=step)
    return CheckpointManifest(stage="pretrain", state=state, precision="fp32", versions={}, config={}, files={}, **hashes)


def save(folder: Path, step: int, disk: Disk | None = None) -> None:
    disk = disk or Disk()
    write_checkpoint(folder / folder_name(step), tensors(float(step)), manifest(step), disk)
    remove_old(folder, 2, disk)


def never(damaged: CheckpointDamaged) -> None:
    pytest.fail(f"damaged: {damaged.reason}")


def assert_holds_one_of(folder: Path, steps: set[int]) -> None:
    """The newest checkpoint is whole and is one of these; nothing damaged is even seen."""
    found = newest_checkpoint(folder, never)
    assert found is not None
    step = found.manifest.state.step
    assert step in steps
    assert torch.equal(load_file(found.path / MODEL_FILE)["a.weight"], torch.full((3, 5), float(step)))


def num_operations(folder: Path) -> int:
    """File operations of a save that also removes an old checkpoint."""
    for step in (1, 2):
        save(folder, step)
    disk = FaultyDisk(0, kill_myself)
    save(folder, 3, disk)
    assert {"make_folder", "create", "write", "flush", "rename", "flush_folder", "remove"} == set(disk.operations)
    return len(disk.operations)


def test_sigkill_at_every_file_operation_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    count = num_operations(tmp_path / "counted")
    assert count > 15
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        for step in (1, 2):
            save(folder, step)
        child = os.fork()
        if child == 0:
            save(folder, 3, FaultyDisk(at, kill_myself))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), at
        assert_holds_one_of(folder, {2, 3})
        save(folder, 4)
        assert_holds_one_of(folder, {4})
        assert not list(folder.glob("*.partial")), at
        assert len(steps_in(folder)) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_any_operation_is_told_and_the_checkpoint_before_it_stays(number: int, tmp_path: Path) -> None:
    count = num_operations(tmp_path / "counted")
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        for step in (1, 2):
            save(folder, step)
        writer = CheckpointWriter(folder, keep=2, disk=FaultyDisk(at, fail_with(number)))
        begin_save(writer, tensors(3.0), manifest(3))
        writer.wait()
        *saved, outcome = writer.outcomes()
        assert isinstance(outcome, CheckpointFailed), at
        if saved:  # only an old checkpoint could not be removed: nothing is lost, and nothing raised
            writer.finish()
            assert_holds_one_of(folder, {3})
        else:
            assert str(folder) in outcome.reason
            with pytest.raises(StorageError):
                writer.finish()
            assert_holds_one_of(folder, {2, 3})
        begin_save(writer, tensors(4.0), manifest(4))  # the disk works again
        writer.finish()
        assert isinstance(writer.outcomes()[0], CheckpointSaved)
        assert_holds_one_of(folder, {4})


def test_the_words_on_a_full_disk_name_the_place_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"step-00000001.*: cannot be written: no space is left; free some, then start again"
    ):
        save(tmp_path, 1, FaultyDisk(4, fail_with(errno.ENOSPC)))


def damage_flip(file: Path, position: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(position * (len(data) - 1))] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize("name", [MODEL_FILE, OPTIMIZER_FILE])
@pytest.mark.parametrize("position", [0.0, 0.2, 0.5, 1.0])
def test_a_flipped_byte_is_found_named_and_passed_over(name: str, position: float, tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    file = tmp_path / folder_name(2) / name
    damage_flip(file, position)
    told: list[CheckpointDamaged] = []
    found = newest_checkpoint(tmp_path, told.append)
    assert found is not None
    assert found.manifest.state.step == 1
    assert [(event.step, event.reason) for event in told] == [(2, f"{file}: its SHA-256 is not the manifest's")]


def test_truncated_missing_and_foreign_parts_are_found_and_named(tmp_path: Path) -> None:
    def truncate(path: Path) -> str:
        os.truncate(path / MODEL_FILE, 100)
        return f"{path / MODEL_FILE}: 100 bytes instead of"

    def remove(path: Path) -> str:
        (path / OPTIMIZER_FILE).unlink()
        return f"{path / OPTIMIZER_FILE}: cannot be read: No such file or directory"

    def no_manifest(path: Path) -> str:
        (path / "manifest.json").unlink()
        return f"{path / 'manifest.json'}: missing"

    def torn_manifest(path: Path) -> str:
        os.truncate(path / "manifest.json", 50)
        return f"{path / 'manifest.json'}: not a checkpoint manifest"

    def other_step(path: Path) -> str:
        file = path / "manifest.json"
        file.write_text(file.read_text().replace('"step": 2', '"step": 5'))
        return f"{file}: says step 5, which is not this folder's"

    for number, damage in enumerate((truncate, remove, no_manifest, torn_manifest, other_step)):
        folder = tmp_path / str(number)
        for step in (1, 2):
            save(folder, step)
        words = damage(folder / folder_name(2))
        told: list[CheckpointDamaged] = []
        found = newest_checkpoint(folder, told.append)
        assert found is not None
        assert found.manifest.state.step == 1
        assert told[0].reason.startswith(words)


def test_when_all_are_damaged_nothing_is_trained_over_them(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
        damage_flip(tmp_path / folder_name(step) / MODEL_FILE, 0.9)
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints is whole; remove the folder to train from the start"):
        newest_checkpoint(tmp_path, lambda _: None)
    assert newest_checkpoint(tmp_path / "empty", never) is None


def test_the_newest_k_stay(tmp_path: Path) -> None:
    for step in range(1, 7):
        write_checkpoint(tmp_path / folder_name(step), tensors(1.0), manifest(step))
        remove_old(tmp_path, 3)
    assert steps_in(tmp_path) == [4, 5, 6]


def test_damaged_checkpoints_do_not_count_among_those_that_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / folder_name(step), tensors(float(step)), manifest(step))
    for step in (2, 3):
        damage_flip(tmp_path / folder_name(step) / MODEL_FILE, 0.9)
    writer = CheckpointWriter(tmp_path, keep=2)
    begin_save(writer, tensors(4.0), manifest(4))
    writer.finish()
    assert steps_in(tmp_path) == [1, 2, 3, 4]  # the second whole one is step 1
    damage_flip(tmp_path / folder_name(4) / MODEL_FILE, 0.9)
    assert newest_checkpoint(tmp_path, lambda _: None).manifest.state.step == 1  # type: ignore[union-attr]
    for step in (5, 6):
        begin_save(writer, tensors(float(step)), manifest(step))
    writer.finish()
    assert steps_in(tmp_path) == [5, 6]


STUCK = """
import os, sys, time
from pathlib import Path
from tests.chaos.test_checkpoint_faults import FaultyDisk, begin_save, manifest, tensors
from trainer.checkpoint import writing
writing.CLOSE_DEADLINE_S = 0.2
writer = writing.CheckpointWriter(Path(sys.argv[1]), keep=2, disk=FaultyDisk(4, lambda: time.sleep(3600)))
begin_save(writer, tensors(1.0), manifest(1))
writer.close()
"""


def test_a_write_that_is_stuck_keeps_no_process_from_ending(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], check=True, timeout=60, cwd=Path(__file__).parents[2])


def test_a_save_does_not_see_later_changes_of_the_tensors(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2)
    state = {file: {name: torch.full((200_000,), 1.0) for name in named} for file, named in tensors(1.0).items()}
    for step in (1, 2):
        for named in state.values():
            for tensor in named.values():
                tensor.fill_(float(step))
        begin_save(writer, state, manifest(step))
        for named in state.values():
            for tensor in named.values():
                tensor.fill_(99.0)
    writer.finish()
    for step in (1, 2):
        path = open_checkpoint(tmp_path / folder_name(step)).path
        for file in (MODEL_FILE, OPTIMIZER_FILE):
            assert all(torch.equal(t, torch.full_like(t, float(step))) for t in load_file(path / file).values())


def test_files_are_read_by_the_library_bit_for_bit_and_other_models_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = {MODEL_FILE: {"x": torch.randn(3, 4), "scalar": torch.randn(())}, OPTIMIZER_FILE: {"exp_avg.x": torch.randn(0, 2)}}
    write_checkpoint(tmp_path / folder_name(1), values, manifest(1))
    file = tmp_path / folder_name(1) / MODEL_FILE
    assert {name: tensor.tolist() for name, tensor in load_file(file).items()} == {
        name: tensor.tolist() for name, tensor in values[MODEL_FILE].items()
    }
    target = {"x": torch.zeros(3, 4), "scalar": torch.zeros(())}
    load_tensors(file, target)
    assert torch.equal(target["x"], values[MODEL_FILE]["x"])
    with pytest.raises(CheckpointError, match="belongs to another model: the weight y is in one of the two only"):
        load_tensors(file, {**target, "y": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"x has shape \(3, 4\), not \(4, 3\)"):
        load_tensors(file, {"x": torch.zeros(4, 3), "scalar": torch.zeros(())})


def test_nothing_in_the_package_reads_or_writes_pickle() -> None:
    root = Path(__file__).parents[2]
    for file in (*(root / "trainer").rglob("*.py"), *(root / "k8s").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for word in (
            "import pickle",
            "torch.load(",
            "torch.save(",
            "allow_pickle=True",
            "all_gather_object",
            "broadcast_object",
        ):
            assert word not in text, (file, word)


def letter_tensors(names: str, size: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    named = {name: torch.full((size,), float(ord(name))) for name in names}
    return {MODEL_FILE: named, OPTIMIZER_FILE: {f"exp_avg.{name}": value for name, value in named.items()}}


def counted_manifest(step: int) -> CheckpointManifest:
    hashes: dict[str, Any] = {"run": "r" * 8, "data_sha256": "d" * 8, "tokenizer_sha256": "t" * 8}
    state = TrainingState(step=step, tokens_seen=123456, skipped_steps=1)
    return CheckpointManifest(stage="pretrain", state=state, precision="fp32", versions={}, config={}, files={}, **hashes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (1, 2):
        write_checkpoint(tmp_path / folder_name(step), letter_tensors("ab"), counted_manifest(step))
    return tmp_path


def test_any_flipped_bit_of_a_manifest_is_found(folder: Path) -> None:
    """A flipped digit of skipped_steps changes AdamW's step count, one of tokens_seen the charts: both are silent."""
    file = folder / folder_name(2) / "manifest.json"
    good = file.read_bytes()
    wanted = CheckpointManifest.model_validate_json(good)
    silent = []
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1
        file.write_bytes(data)
        told: list[CheckpointDamaged] = []
        found = newest_checkpoint(folder, told.append)
        assert found is not None
        if found.manifest.state.step == 2 and found.manifest != wanted:
            silent.append(good[max(0, position - 24) : position + 1])
        elif found.manifest.state.step == 1:
            assert told[0].reason.startswith(str(folder / folder_name(2)))
    assert silent == []


@pytest.mark.parametrize("kind", ["manifest is a folder", "checkpoint is a file"])
def test_a_manifest_that_cannot_be_read_is_passed_over(kind: str, folder: Path) -> None:
    path = folder / folder_name(3)
    if kind == "checkpoint is a file":
        path.write_text("x")
    else:
        (path / "manifest.json").mkdir(parents=True)
    told: list[CheckpointDamaged] = []
    found = newest_checkpoint(folder, told.append)
    assert found is not None
    assert (found.manifest.state.step, [event.step for event in told]) == (2, [3])


def test_tensors_are_saved_by_name_whatever_their_order(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=2)
    for step, names in ((1, "ab"), (2, "ba")):
        begin_save(writer, letter_tensors(names), counted_manifest(step))
    writer.finish()
    for step in (1, 2):
        stored = load_file(tmp_path / folder_name(step) / MODEL_FILE)
        assert {name: tensor[0].item() for name, tensor in stored.items()} == {"a": 97.0, "b": 98.0}
