"""Text of any encoding as a stream of UTF-8, so that reading by lines needs to know one encoding only."""

import codecs
import io
from typing import IO, Any

from trainer.corpus.opening import BUFFER_BYTES

_CHUNK_BYTES = 1 << 16


def as_utf8(raw: IO[bytes], encoding: str) -> "io.BufferedReader[Any]":
    """The same text in UTF-8. `auto` leaves alone what is UTF-8 in its first 64 KiB, or of no encoding that can be told."""
    stream = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(_Raw(raw), BUFFER_BYTES)
    name = encoding
    if encoding == "auto":
        name = _detected(stream.peek())
    if codecs.lookup(name).name == "utf-8":
        return stream
    return io.BufferedReader(_Recoded(stream, name), BUFFER_BYTES)


def decoded(data: bytes, encoding: str, declared: str | None, *, is_html: bool) -> str | None:
    """A whole page as text; None if it is no text. `declared` is what came with the page, which may be wrong."""
    if b"\0" in data[:1024]:
        return None
    return data.decode(encoding if encoding != "auto" else "utf-8", "replace")


def _detected(sample: bytes) -> str:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # a character may be cut at the end of the sample
    except UnicodeDecodeError:
        return "utf-8"
    return "utf-8"


class _Raw(io.RawIOBase):
    """A stream that is read through a buffer of our own."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """Bytes decoded by one table and encoded by another; what the table does not know becomes U+FFFD."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            data = self._stream.read(_CHUNK_BYTES)
            self._ended = not data
            self._ready = memoryview(self._decoder.decode(data, final=self._ended).encode("utf-8", "replace"))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
