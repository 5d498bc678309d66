"""Text of any encoding as a stream of UTF-8, so that reading by lines needs to know one encoding only."""

import codecs
import io
from typing import IO, Any

from trainer.corpus.opening import BUFFER_BYTES
from trainer.corpus.steps.charset import Decoded, decode
from trainer.corpus.steps.draft import Dropped

BINARY = "charset.binary"

_CHUNK_BYTES = 1 << 16


def as_utf8(raw: IO[bytes], encoding: str) -> "io.BufferedReader[Any] | Dropped":
    """The same text in UTF-8, or why it is no text. `auto` goes by the first 64 KiB; what it cannot tell it leaves as it is."""
    stream = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(_Raw(raw), BUFFER_BYTES)
    name = encoding
    if encoding == "auto":
        told = decode(stream.peek())
        if isinstance(told, Dropped) and told.rule == BINARY:
            return told
        name = told.encoding if isinstance(told, Decoded) else "utf-8"
    if codecs.lookup(name).name == "utf-8":
        return stream
    return io.BufferedReader(_Recoded(stream, name), BUFFER_BYTES)


def decoded(data: bytes, encoding: str, declared: str | None) -> str | Dropped:
    """A whole page as text, or why it is none. `declared` is what came with the page, which may be wrong."""
    if encoding != "auto":
        return data.decode(encoding, "replace")
    told = decode(data, declared)
    return told.text if isinstance(told, Decoded) else told


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
