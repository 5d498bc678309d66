"""The bytes of a file, decompressed as its name says: streamed, and with a limit on what a small file may become.

A bomb is a file of a few kilobytes that unpacks to gigabytes. Memory is bounded, because everything is read in small pieces;
time is bounded, because a file that unpacks to more than `MAX_RATIO` times its size is given up.
"""

import errno
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from trainer.errors import CorpusError

COMPRESSED = (".gz", ".zst", ".xz")

MAX_RATIO = 100
"""Natural text packs to 1/3 to 1/10, logs to 1/50; one repeated word to 1/300 by gzip and to 1/10,000 by Zstandard."""

BUFFER_BYTES = 1 << 16

FREE_BYTES = 32 << 20
"""A file may become this large whatever its ratio: small files of one repeated line are no danger."""

_XZ_MEMORY_BYTES = 128 << 20
"""xz -9 asks for 65 MiB; a hostile header may ask for 4 GiB."""

_ZSTD_READ_BYTES = 1 << 10
"""Each byte may stand for 32 KiB of text (a run-length block), so this bounds the memory at 32 MiB."""

_XZ_CHUNK_BYTES = 1 << 16


class BombError(OSError):
    """A compressed file unpacks to far more than its size tells."""


class UnreadableError(CorpusError):
    """A file is there and cannot be read: for want of rights, or because it is gone, or the disk fails."""


_WHY = {
    errno.EACCES: "permission denied; let this user read it",
    errno.EPERM: "permission denied; let this user read it",
    errno.ENOENT: "it is gone, or a link that leads nowhere; put it back",
    errno.EISDIR: "it is a folder; give a file",
    errno.ELOOP: "it is a link that leads to itself; remove it",
    errno.EIO: "the disk reports an input/output error; copy it to another one",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
}


def unreadable(file: Path, error: OSError, owner: str = "") -> UnreadableError:
    """What to raise for a file that cannot be opened or read, though nothing is known to be wrong with its content."""
    why = _WHY.get(error.errno or 0, f"{error.strerror or error}; see that this user can read it")
    prefix = f"{owner}: " if owner else ""
    return UnreadableError(f"{prefix}{file} cannot be read: {why}, or take it out of the source")


DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading a file may raise that is damaged or hostile; of OSError those without an errno: others are the system's word."""


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed as its name says. Reading raises one of DAMAGE."""
    with file.open("rb", BUFFER_BYTES) as raw:
        if file.suffix not in COMPRESSED:
            yield raw
            return
        size_bytes = file.stat().st_size
        if file.suffix == ".gz":
            with gzip.open(raw) as stream:
                yield io.BufferedReader(_Limited(stream, size_bytes), BUFFER_BYTES)
        elif file.suffix == ".xz":
            yield io.BufferedReader(_Limited(XzReader(raw), size_bytes), BUFFER_BYTES)
        else:
            yield io.BufferedReader(_Limited(ZstdReader(raw), size_bytes), BUFFER_BYTES)


class _Limited(io.RawIOBase):
    """Passes bytes on until they are too many for the size of the file that they came from."""

    def __init__(self, stream: Any, packed_bytes: int) -> None:
        self._stream = stream
        self._left = max(FREE_BYTES, MAX_RATIO * packed_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise BombError(f"it unpacks to more than {MAX_RATIO} times its size")
        return count


class ZstdReader(io.RawIOBase):
    """Decompressed bytes of one or more Zstandard frames. Raises EOFError where the last frame breaks off, at which
    zstandard's own stream reader just ends.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._between_frames = True
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._raw.read(_ZSTD_READ_BYTES)
            if not data:
                if not self._between_frames:
                    raise EOFError("the last Zstandard frame has no end")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
            self._between_frames = self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


class XzReader(io.RawIOBase):
    """Decompressed bytes of one or more xz streams, with a bound on the memory that their headers may ask for."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._stream: lzma.LZMADecompressor | None = None
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            stream = self._stream
            if stream is None or stream.needs_input:
                self._left = self._left or self._raw.read(_XZ_CHUNK_BYTES)
                if not self._left:
                    if stream is not None:
                        raise EOFError("the last xz stream has no end")
                    return 0
            if stream is None:
                stream = self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
            data = stream.decompress(self._left, min(len(buffer), _XZ_CHUNK_BYTES))
            self._left = b""
            if stream.eof:
                self._left, self._stream = stream.unused_data.lstrip(b"\0"), None  # streams are padded by zeros
            if data:
                buffer[: len(data)] = data
                return len(data)
