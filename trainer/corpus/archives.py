"""Records of web archives (WARC 1.0 and 1.1), read from untrusted bytes with bounded memory.

The format is a few lines of header and a block of known length (iipc.github.io/warc-specifications). We read it ourselves:
fastwarc 2.0.1 panics on streams that cannot seek, and warcio 1.8.1 reads a header line of any length into memory.
"""

import http.client
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

_MAX_LINE_BYTES = 1 << 16
_MAX_HEADERS = 200
_SKIP_BYTES = 1 << 20

_PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 47}
"""Content encodings, and zlib's word for how to read them."""


class ArchiveError(OSError):
    """The bytes are no WARC file, or no longer."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record, and as much of its content as was asked for."""

    kind: str
    """response, conversion, resource, request, warcinfo, ..."""
    media_type: str
    """Of the content: text/html, say; empty if it is not told."""
    charset: str | None
    content: bytes
    is_whole: bool
    """Whether the content ended before the limit."""


def read_records(stream: IO[bytes], max_bytes: int) -> Iterator[Record]:
    """All records; of each at most `max_bytes` of its content, whose encodings are undone. Raises ArchiveError, EOFError."""
    while headers := _record_headers(stream):
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise ArchiveError(f"a record of length {length or 'unknown'}")
        block = _Block(stream, int(length))
        yield _record(headers, block, max_bytes)
        block.skip()


def _record_headers(stream: IO[bytes]) -> dict[str, str]:
    """The header of the next record; empty at the end of the file."""
    line = b"\n"
    blank = 0
    while line in (b"\n", b"\r\n"):
        line = stream.readline(_MAX_LINE_BYTES)
        blank += 1
        if blank > _MAX_HEADERS:
            raise ArchiveError("no record where one should begin")
    if not line:
        return {}
    if not line.startswith(b"WARC/"):
        raise ArchiveError("no record where one should begin")
    return dict(_headers(stream))


def _headers(stream: "IO[bytes] | _Block") -> Iterator[tuple[str, str]]:
    """Names in lower case with their values, to the empty line. Folded lines, which nobody writes any more, are passed over."""
    for _ in range(_MAX_HEADERS):
        line = stream.readline(_MAX_LINE_BYTES)
        if line in (b"", b"\n", b"\r\n"):
            return
        name, colon, value = line.decode("latin-1").partition(":")
        if colon and not line[:1].isspace():
            yield name.strip().lower(), value.strip()
    raise ArchiveError(f"a header of more than {_MAX_HEADERS} lines")


def _record(headers: Mapping[str, str], block: "_Block", max_bytes: int) -> Record:
    kind, content_type = headers.get("warc-type", ""), headers.get("content-type", "")
    content: _Block | _Chunks = block
    packed = None
    if kind == "response" and content_type.startswith("application/http"):
        if not block.readline(_MAX_LINE_BYTES).startswith(b"HTTP/"):
            raise ArchiveError("a response without HTTP's first line")
        answer = dict(_headers(block))
        content_type = answer.get("content-type", "")
        if answer.get("transfer-encoding", "").lower() == "chunked":
            content = _Chunks(block)
        packed = _PACKED.get(answer.get("content-encoding", "identity").lower())
    data = content.read(max_bytes + 1) if packed is None else _unpacked(content, packed, max_bytes + 1)
    media_type, charset = _media_type(content_type)
    return Record(kind, media_type, charset, data[:max_bytes], len(data) <= max_bytes)


def _media_type(content_type: str) -> tuple[str, str | None]:
    """`text/html; charset=x` as its parts."""
    message = http.client.HTTPMessage()
    message["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
    try:
        charset = message.get_param("charset")
    except (ValueError, LookupError):
        charset = None
    return content_type.partition(";")[0].strip().lower(), charset if isinstance(charset, str) else None


class _Block:
    """The bytes of one record's block."""

    def __init__(self, stream: IO[bytes], length: int) -> None:
        self._stream = stream
        self._left = length

    def readline(self, max_bytes: int) -> bytes:
        line = self._stream.readline(min(max_bytes, self._left))
        self._left -= len(line)
        return line

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer at the end of the block only. Raises EOFError where the file ends before it."""
        wanted = min(count, self._left)
        data = self._stream.read(wanted)
        self._left -= len(data)
        if len(data) < wanted:
            raise EOFError("the last record has no end")
        return data

    def skip(self) -> None:
        """Read to the end of the block."""
        while self._left:
            self.read(_SKIP_BYTES)


class _Chunks:
    """A body in HTTP's chunked transfer encoding; as it is where it claims to be but is not, as some crawlers store it."""

    def __init__(self, block: _Block) -> None:
        self._block = block
        self._left = 0
        self._ended = False

    def read(self, count: int) -> bytes:
        out = io.BytesIO()
        while out.tell() < count and not self._ended:
            if not self._left and not self._next():
                break
            data = self._block.read(min(count - out.tell(), self._left))
            self._left -= len(data)
            out.write(data)
            if not data:
                self._ended = True
            elif not self._left:
                self._block.readline(_MAX_LINE_BYTES)
        return out.getvalue()

    def _next(self) -> bool:
        size = self._block.readline(_MAX_LINE_BYTES).partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            self._left = 0
        self._ended = self._left <= 0
        return not self._ended


def _unpacked(content: "_Block | _Chunks", window_bits: int, max_bytes: int) -> bytes:
    """At most `max_bytes` of packed content; what is damaged ends where the damage is."""
    unpacker = zlib.decompressobj(window_bits)
    out = io.BytesIO()
    data = content.read(_MAX_LINE_BYTES)
    try:
        while data and out.tell() < max_bytes and not unpacker.eof:
            out.write(unpacker.decompress(data, max_bytes - out.tell()))
            data = unpacker.unconsumed_tail or content.read(_MAX_LINE_BYTES)
    except zlib.error:
        pass
    return out.getvalue()
