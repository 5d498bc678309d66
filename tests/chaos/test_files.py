"""Files and folders appear whole or not at all, whatever the disk does, and two processes never share a run folder."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from trainer.errors import RunFolderError, StorageError
from trainer.files import (
    Disk,
    HashingWriter,
    locked,
    new_folder,
    partial_path,
    record_of,
    storage_errors,
    write_file,
    write_json,
)


class FaultyDisk(Disk):
    """Acts at its n-th operation, before carrying it out; n = 0 only counts."""

    def __init__(self, at: int, act: Callable[[], None], *, exchanges: bool = True) -> None:
        self.at = at
        self.exchanges = exchanges
        self.act = act
        self.operations: list[tuple[str, Path | None]] = []

    def _before(self, name: str, path: Path | None = None) -> None:
        self.operations.append((name, path))
        if len(self.operations) == self.at:
            self.act()

    def make_folder(self, path: Path) -> None:
        self._before("make_folder", path)
        super().make_folder(path)

    def create(self, path: Path) -> IO[bytes]:
        self._before("create", path)
        return super().create(path)

    def write(self, file: IO[bytes], data: memoryview) -> None:
        self._before("write")
        super().write(file, data[: len(data) // 2])  # a fault between two writes leaves half of the data
        super().write(file, data[len(data) // 2 :])

    def flush(self, file: IO[bytes]) -> None:
        self._before("flush")
        super().flush(file)

    def rename(self, source: Path, target: Path) -> None:
        self._before("rename", target)
        super().rename(source, target)

    def exchange(self, one: Path, other: Path) -> bool:
        self._before("exchange", other)
        return self.exchanges and super().exchange(one, other)

    def flush_folder(self, path: Path) -> None:
        self._before("flush_folder", path)
        super().flush_folder(path)

    def remove(self, path: Path) -> None:
        self._before("remove", path)
        super().remove(path)


def refuse(number: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def nothing() -> None:
    pass


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(job: Callable[[], None]) -> int:
    """The signal that ended a forked child that does only this job; 0 if it finished."""
    child = os.fork()
    if child == 0:
        try:
            job()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def two_files(folder: Path, disk: Disk, word: str) -> None:
    with new_folder(folder, disk) as partial:
        for name in ("a", "b"):
            writer = HashingWriter(partial / name, disk)
            try:
                writer.write(f"{word} {name}".encode())
                writer.close()
            except BaseException:
                writer.abandon()
                raise


def texts(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(folder.iterdir())}


def num_operations(job: Callable[[Disk], None]) -> int:
    disk = FaultyDisk(0, nothing)
    job(disk)
    return len(disk.operations)


def test_a_file_is_replaced_whole_or_not_at_all_by_a_kill_at_any_operation(tmp_path: Path) -> None:
    count = num_operations(lambda disk: write_file(tmp_path / "counted", b"new content", disk))
    assert count == 6
    for at in range(1, count + 1):
        path = tmp_path / f"file-{at}"
        write_file(path, b"old content")
        assert (
            in_a_child(lambda at=at, path=path: write_file(path, b"new content", FaultyDisk(at, kill_myself))) == signal.SIGKILL
        )
        assert path.read_bytes() in (b"old content", b"new content")
        write_file(path, b"next content")
        assert path.read_bytes() == b"next content"
        assert not partial_path(path).exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_refused_operation_leaves_the_old_file_and_names_the_place_and_the_way_out(number: int, tmp_path: Path) -> None:
    ways_out = {
        errno.ENOSPC: "no space is left; free some, then start again",
        errno.EIO: "the disk reports an input/output error",
        errno.EROFS: "the file system is read-only",
        errno.EDQUOT: "the disk quota is used up; free some space, then start again",
    }
    for at in range(1, 7):
        path = tmp_path / f"file-{at}"
        write_file(path, b"old content")
        with pytest.raises(StorageError) as raised:
            write_file(path, b"new content", FaultyDisk(at, refuse(number)))
        assert str(raised.value) == f"{path}: cannot be written: {ways_out[number]}"
        assert path.read_bytes() == (
            b"new content" if at == 6 else b"old content"
        )  # only the last flush comes after the rename


def test_a_new_folder_is_there_whole_or_not_at_all_by_a_kill_at_any_operation(tmp_path: Path) -> None:
    count = num_operations(lambda disk: two_files(tmp_path / "counted", disk, "new"))
    assert count == 10
    for at in range(1, count + 1):
        folder = tmp_path / f"folder-{at}"
        assert in_a_child(lambda at=at, folder=folder: two_files(folder, FaultyDisk(at, kill_myself), "new")) == signal.SIGKILL
        assert folder.exists() == (at == count)  # only the flush of the folder above comes after the rename
        if folder.exists():
            assert texts(folder) == {"a": "new a", "b": "new b"}
        two_files(folder, Disk(), "next")
        assert texts(folder) == {"a": "next a", "b": "next b"}
        assert not partial_path(folder).exists()


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole_or_not_at_all_by_a_kill_at_any_operation(exchanges: bool, tmp_path: Path) -> None:
    disk = FaultyDisk(0, nothing, exchanges=exchanges)
    for word in ("old", "new"):
        two_files(tmp_path / "counted", disk, word)
    count = len(disk.operations) - 10
    assert ("exchange", tmp_path / "counted") in disk.operations
    old, new = {"a": "old a", "b": "old b"}, {"a": "new a", "b": "new b"}
    for at in range(1, count + 1):
        folder = tmp_path / f"folder-{at}"
        two_files(folder, Disk(), "old")
        faulty = FaultyDisk(at, kill_myself, exchanges=exchanges)
        assert in_a_child(lambda folder=folder, disk=faulty: two_files(folder, disk, "new")) == signal.SIGKILL
        if exchanges:
            assert texts(folder) in (old, new), at
        else:  # between two renames the old one has another name
            assert texts(folder if folder.exists() else folder.with_name(f"{folder.name}.replaced")) in (old, new), at
        with pytest.raises(KeyError):
            half_made(folder, keep_partial=False)
        assert texts(folder) in (old, new), at
        two_files(folder, Disk(), "next")
        assert texts(folder) == {"a": "next a", "b": "next b"}
        assert sorted(path.name for path in tmp_path.glob(f"folder-{at}*")) in (
            [folder.name],
            [folder.name, f"{folder.name}.replaced"],
        )


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_refused_operation_leaves_the_old_folder_or_the_new_one(exchanges: bool, tmp_path: Path) -> None:
    old, new = {"a": "old a", "b": "old b"}, {"a": "new a", "b": "new b"}
    for at in range(1, 11):
        folder = tmp_path / f"folder-{at}"
        two_files(folder, Disk(), "old")
        with pytest.raises(StorageError):
            two_files(folder, FaultyDisk(at, refuse(errno.ENOSPC), exchanges=exchanges), "new")
        assert texts(folder) in (old, new), at


def test_a_refused_operation_leaves_no_folder_and_nothing_half_made(tmp_path: Path) -> None:
    for at in range(1, 10):
        folder = tmp_path / str(at) / "folder"
        folder.parent.mkdir()
        with pytest.raises(StorageError, match=rf"{folder}.*no space is left"):
            two_files(folder, FaultyDisk(at, refuse(errno.ENOSPC)), "new")
        assert list(folder.parent.iterdir()) == []


def half_made(folder: Path, *, keep_partial: bool) -> None:
    with new_folder(folder, keep_partial=keep_partial) as partial:
        (partial / "piece").write_text("1")
        raise KeyError(folder.name)


def test_an_error_in_the_block_leaves_nothing_or_with_keep_partial_the_finished_pieces(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        half_made(tmp_path / "a", keep_partial=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        half_made(tmp_path / "b", keep_partial=True)
    assert not (tmp_path / "b").exists()
    with new_folder(tmp_path / "b", keep_partial=True) as partial:
        assert texts(partial) == {"piece": "1"}
    assert texts(tmp_path / "b") == {"piece": "1"}


def test_what_a_kill_left_does_not_get_into_the_next_folder(tmp_path: Path) -> None:
    partial_path(tmp_path / "a").mkdir()
    (partial_path(tmp_path / "a") / "stale").write_text("x")
    two_files(tmp_path / "a", Disk(), "new")
    assert sorted(texts(tmp_path / "a")) == ["a", "b"]


def test_every_folder_within_a_new_folder_is_flushed_before_the_rename(tmp_path: Path) -> None:
    """Else a power cut after the rename may leave a manifest whose files in `train/` and `held_out/` have lost their names."""
    disk = FaultyDisk(0, nothing)
    with new_folder(tmp_path / "corpus", disk) as partial:
        (partial / "train").mkdir()
        writer = HashingWriter(partial / "train" / "a", disk)
        writer.write(b"text")
        writer.close()
    names = [name for name, _ in disk.operations]
    before = disk.operations[: names.index("rename")]
    assert ("flush_folder", partial / "train") in before
    assert ("flush_folder", partial) in before
    assert disk.operations[-1] == ("flush_folder", tmp_path)


def test_a_writer_knows_what_is_on_the_disk(tmp_path: Path) -> None:
    writer = HashingWriter(tmp_path / "a")
    for data in (b"", b"one", memoryview(b"two"), bytes(5_000_000)):
        writer.write(data)
    record = writer.close()
    assert record == record_of(tmp_path / "a")
    assert record.size_bytes == 6 + 5_000_000


def test_json_is_readable_by_people_in_any_language(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "床前明月光"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "text": "床前明月光"\n}\n'


def test_errors_that_are_not_the_disk_s_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError), storage_errors(tmp_path):
        raise ChildProcessError(errno.ECHILD, "no child processes")


HOLD = """
import sys
from pathlib import Path
from trainer.files import locked
with locked(Path(sys.argv[1]), "process 42 on host-a"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_by_name_until_the_first_one_dies(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError) as raised, locked(lock, "me"):
            pass
        assert str(raised.value) == (
            f"{lock.parent}: process 42 on host-a, pid {holder.pid}, works in this folder; stop it, or choose another run_dir"
        )
        holder.kill()  # no chance to clean up: the kernel frees the lock
        holder.wait(timeout=30)
    with locked(lock, "me"):
        assert lock.read_text() == f"me, pid {os.getpid()},\n"
