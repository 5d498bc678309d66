"""The one place that writes files: whole or not at all, durable, hashed while written.

A file or folder is written under a temporary name beside its place, flushed to the disk, renamed, and the folder that holds
it is flushed. A reader therefore sees the old state or the new one, also after a power cut. All operations that change a
disk go through `Disk`, so a test can fail or kill at each of them.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

from trainer.errors import RunFolderError, StorageError

CHUNK_BYTES = 4 << 20
LOCK_WAIT_S = 1.5
PARTIAL_SUFFIX = ".partial"
"""Ends the name of everything that is not committed; a reader ignores such names and the next writer removes them."""

_DISK_TROUBLE = {
    errno.ENOSPC: "no space is left; free some, then start again",
    errno.EDQUOT: "the disk quota is used up; free some space, then start again",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error",
    errno.EACCES: "permission denied; the user who runs this must be able to write there",
    errno.EPERM: "permission denied; the user who runs this must be able to write there",
    errno.EISDIR: "a folder stands there; remove it, or choose another place",
    errno.EEXIST: "a file, or a link to nowhere, stands there; remove it, or choose another place",
    errno.ENOTDIR: "a part of this path is a file and no folder; choose another place",
    errno.ENAMETOOLONG: "the path is too long for this file system; choose a shorter one",
    errno.ELOOP: "the path leads through links in a circle; choose another place",
    errno.EFBIG: "the file would grow beyond what this system allows; raise the limit (ulimit -f)",
}


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class Disk:
    """The operations that change a disk, one method each."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> IO[bytes]:
        return path.open("wb", buffering=0)

    def write(self, file: IO[bytes], data: memoryview) -> None:
        while data:
            data = data[file.write(data) :]

    def flush(self, file: IO[bytes]) -> None:
        os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def exchange(self, one: Path, other: Path) -> bool:
        """Let two paths change places in one act, as Linux can on most file systems; whether it did."""
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is None:
            return False
        code: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
        if code != 0 and (number := ctypes.get_errno()) not in _NO_EXCHANGE:
            raise OSError(number, os.strerror(number), str(other))
        return code == 0

    def flush_folder(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


DISK = Disk()


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says of one file."""

    size_bytes: int
    sha256: str


class HashingWriter:
    """A new file that knows its size and SHA-256 when it is closed."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._disk = disk
        self._file = disk.create(path)
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, in chunks, so that hashing never holds up other threads for long."""
        view = memoryview(data)
        if view.nbytes == 0:  # which cannot be cast
            return
        view = view.cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            self._disk.write(self._file, chunk)
            self._hash.update(chunk)
            self._size_bytes += len(chunk)

    def close(self) -> FileRecord:
        """Flush to the disk and close."""
        try:
            self._disk.flush(self._file)
        finally:
            self._file.close()
        return FileRecord(self._size_bytes, self._hash.hexdigest())

    def abandon(self) -> None:
        """Close without flushing, after an error."""
        self._file.close()


class LineFile:
    """A file that grows by whole lines: a kill or a full disk can tear at most the last one, and the next one ends it first."""

    def __init__(self, path: Path) -> None:
        """Opens the file and makes its folder. Raises StorageError."""
        self._path = path
        self._file: FileIO | None = None
        with storage_errors(path):
            self._open()

    def append(self, line: bytes) -> None:
        """Write a line, which has no end yet. Raises OSError; the file is opened anew at the next call, so it may come back."""
        file = self._file or self._open()
        data = line + b"\n"
        try:
            while data:  # a disk that is nearly full takes a part
                data = data[file.write(data) :]
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(self._path, "ab+")
        try:
            if _is_torn(file):
                file.write(b"\n")
        except BaseException:
            file.close()
            raise
        self._file = file
        return file


def _is_torn(file: FileIO) -> bool:
    """Whether the last line lacks its end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def partial_path(path: Path) -> Path:
    """The temporary name beside `path`."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def write_file(path: Path, data: bytes | memoryview, disk: Disk = DISK) -> FileRecord:
    """Replace `path` by a file with this content. Raises StorageError."""
    partial = partial_path(path)
    with storage_errors(path):
        disk.make_folder(path.parent)
        writer = HashingWriter(partial, disk)
        try:
            writer.write(data)
            record = writer.close()
        except BaseException:
            writer.abandon()
            _remove_quietly(partial, disk)
            raise
        disk.rename(partial, path)
        disk.flush_folder(path.parent)
    return record


def write_json(path: Path, value: Any, disk: Disk = DISK) -> FileRecord:
    """Replace `path` by indented JSON. Raises StorageError."""
    return write_file(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(), disk)


@contextmanager
def new_folder(path: Path, disk: Disk = DISK, *, keep_partial: bool = False) -> Iterator[Path]:
    """A folder that appears at `path` whole, when the block ends well, and not at all otherwise.

    The block fills the folder that it is given. With `keep_partial` that folder stays after an error or a kill, and the next
    call is given it again, so that finished pieces need not be made twice. A folder that was there before is replaced whole.
    Raises StorageError.
    """
    partial = partial_path(path)
    with storage_errors(path):
        if not path.exists() and _replaced(path).exists():  # a kill in `_replace`
            disk.rename(_replaced(path), path)
        if partial.exists() and not keep_partial:
            disk.remove(partial)
        disk.make_folder(partial)
        try:
            yield partial
            for folder in [*(path for path in partial.rglob("*") if path.is_dir()), partial]:
                disk.flush_folder(folder)
            if path.exists():
                _replace(path, partial, disk)
            else:
                disk.rename(partial, path)
        except BaseException:
            if not keep_partial:
                _remove_quietly(partial, disk)
            raise
        disk.flush_folder(path.parent)


def _replace(path: Path, partial: Path, disk: Disk) -> None:
    """Put a finished folder in another one's place. A kill leaves the one or the other.

    Where the file system cannot exchange them (NFS), a kill between two renames leaves the old one as PATH.replaced, and the
    next writer puts it back.
    """
    if disk.exchange(partial, path):
        disk.flush_folder(path.parent)
        disk.remove(partial)
        return
    disk.rename(path, _replaced(path))
    try:
        disk.rename(partial, path)
    except OSError:
        _replaced(path).replace(path)
        raise
    disk.flush_folder(path.parent)
    disk.remove(_replaced(path))


def _replaced(path: Path) -> Path:
    return path.with_name(path.name + ".replaced")


def record_of(path: Path) -> FileRecord:
    """Size and SHA-256 of a file as it stands on the disk, about 1 s per GB."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(os.fstat(file.fileno()).st_size, digest)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's word on a full or failing disk into one that names the place and the way out."""
    try:
        yield
    except OSError as error:
        trouble = _DISK_TROUBLE.get(error.errno or 0)
        if trouble is None:
            raise
        raise StorageError(f"{error.filename or path}: cannot be written: {trouble}") from error


@contextmanager
def locked(path: Path, owner: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs; the kernel frees it when the process dies.

    Waits `wait_s` for a process that is just ending. Raises RunFolderError if another process holds it, StorageError where the
    file system has no locks.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        deadline = time.monotonic() + wait_s
        while not _try_lock(file, path):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunFolderError(f"{path.parent}: {holder} works in this folder; stop it, or choose another run_dir")
            time.sleep(0.05)
        file.truncate(0)
        file.write(f"{owner}, pid {os.getpid()},\n")
        file.flush()
        yield


def _try_lock(file: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"{path}: this file system has no locks ({error.strerror}); choose another place, or mount it with locks"
        ) from None
    return True


def _remove_quietly(path: Path, disk: Disk) -> None:
    """Clean up after an error; what cannot be removed is ignored by readers for its name."""
    try:
        disk.remove(path)
    except OSError:
        return
