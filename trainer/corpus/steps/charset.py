"""Bytes to text: UTF-8 and UTF-16, what the page declares, else GB18030 or Big5 by their structure, else Windows-1252. Pure.

Strict decoding comes first, statistics only where it leaves a choice. GB 2312 and Big5 both put the characters in everyday use
into a block of their own (level 1: lead bytes B0 to D7, and A4 to C6). Together these are 7,500 characters, simplified and
traditional, of which real text nearly all consists, and text that was read by the wrong table does not. No word list is needed.
"""

import codecs
import re
from dataclasses import dataclass
from functools import cache

from trainer.corpus.steps.draft import Dropped

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAGIC = (
    *(b"%PDF-", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b", b"\x7fELF", b"MZ\x90", b"\x28\xb5\x2f\xfd"),
    *(b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"RIFF", b"OggS", b"ID3", b"wOFF", b"wOF2", b"\xca\xfe\xba\xbe"),
)
_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{1,256}?(?:charset|encoding)\s{0,8}=\s{0,8}["']?\s{0,8}([A-Za-z0-9_.:-]{2,32})""", re.I
)
_DECLARED_WITHIN = 2048
_NAMES = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "big5": "big5hkscs",
    "big5-hkscs": "big5hkscs",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "us-ascii": "cp1252",
    "utf8": "utf-8",
    "x-sjis": "cp932",
    "shift_jis": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
}
"""Labels of the web and the superset that is meant by them (encoding.spec.whatwg.org)."""
_CODECS = {"utf-8", "gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "iso2022_jp", "koi8_r", "koi8_u", "cp874"}
_CODECS |= {f"cp{number}" for number in range(1250, 1259)} | {f"iso8859_{part}" for part in (*range(2, 11), 13, 14, 15, 16)}
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\x1b\0"))
_LOOKED_AT = 65_536
_MIN_EVERYDAY = 0.8
"""Least share of everyday characters. Of 1,500 poems, the hardest text, 0.86 and more; by the wrong table at most 0.75."""
_MAX_DAMAGED = 0.001
"""Most characters that may be damaged, for each character."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text, the encoding that it was in, and how many damaged characters became U+FFFD."""

    text: str
    encoding: str
    damaged: int = 0


def decode(data: bytes, declared: str | None = None) -> Decoded | Dropped:
    """The text of a file or page; `declared` is what its transport said (HTTP's charset). O(n).

    Dropped with charset.binary for what is no text, charset.unknown for text in no encoding that we know.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], name) or Dropped("charset.unknown", f"has the mark of {name}, but is not in it")
    head = data[:_LOOKED_AT]
    wide = _wide(head)
    if wide:
        return _decoded(data, wide) or Dropped("charset.unknown", f"looks like {wide}, but is not in it")
    if _is_binary(head):
        return Dropped("charset.binary", "is binary: NUL or control characters, or a known file type")
    return _decoded(data, "utf-8") or _by_declaration(data, declared) or _by_structure(data)


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: has NULs, yet one of its byte orders gives letters and signs of everyday use."""
    if b"\0" not in head:
        return None
    shares = {
        name: everyday_share(head[: len(head) & ~1].decode(name, errors="replace"), ascii_too=True)
        for name in ("utf-16-le", "utf-16-be")
    }
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _MIN_EVERYDAY else None


def _is_binary(head: bytes) -> bool:
    if head.startswith(_MAGIC):
        return True
    controls = len(head) - len(head.translate(None, _CONTROL))
    return b"\0" in head or controls > len(head) // 100


def _decoded(data: bytes, name: str) -> Decoded | None:
    """Strictly, but for an incomplete last character: files are cut at byte counts."""
    try:
        return Decoded(codecs.getincrementaldecoder(name)("strict").decode(data, final=False), name)
    except (UnicodeDecodeError, LookupError):
        pass
    text = data.decode(name, errors="replace")
    damaged = text.count("\ufffd")
    wide = sum(char > "\x7f" for char in text[:_LOOKED_AT])
    whole = damaged <= max(1, _MAX_DAMAGED * len(text)) and (name != "utf-8" or wide >= 20 * text[:_LOOKED_AT].count("\ufffd"))
    return Decoded(text, name, damaged) if whole else None


def _by_declaration(data: bytes, declared: str | None) -> Decoded | None:
    found = _DECLARED.search(data[:_DECLARED_WITHIN])
    for label in (declared, found[1].decode("ascii") if found else None):
        if label is None:
            continue
        name = _NAMES.get(label.lower(), label.lower().replace("windows-", "cp").replace("iso-8859-", "iso8859_"))
        name = name if name in _CODECS else name.replace("-", "_")
        if name in ("gb18030", "big5hkscs") and _share(data, name) < _MIN_EVERYDAY / 2:
            continue  # a template's declaration that does not fit this page
        if name in _CODECS and name != "utf-8":
            decoded = _decoded(data, name)
            if decoded:
                return decoded
    return None


def _by_structure(data: bytes) -> Decoded | Dropped:
    shares = {name: _share(data, name) for name in ("gb18030", "big5hkscs")}
    for name in sorted(shares, key=lambda name: -shares[name]):
        decoded = _decoded(data, name) if shares[name] >= _MIN_EVERYDAY else None
        if decoded:
            return decoded
    western = _decoded(data, "cp1252")
    if western and western.damaged == 0 and _is_western(western.text[:_LOOKED_AT]):
        return western
    told = ", ".join(f"{share:.2f} of {name}" for name, share in shares.items())
    return Dropped("charset.unknown", f"in none of UTF-8, GB18030, Big5, Windows-1252 (everyday characters: {told})")


def _share(data: bytes, name: str) -> float:
    return everyday_share(data[:_LOOKED_AT].decode(name, errors="replace"))


def everyday_share(text: str, ascii_too: bool = False) -> float:
    """Share of everyday Chinese characters and marks among what is not ASCII, 0 to 1; 0 where there is nothing else."""
    plain = sum(char in _PLAIN for char in text)
    looked_at = len(text) if ascii_too else len(text) - plain
    if looked_at == 0:
        return 0.0
    everyday = _everyday()
    return (sum(char in everyday for char in text) + (plain if ascii_too else 0)) / looked_at


_PLAIN = frozenset(map(chr, (*range(32, 127), *b"\t\n\r\f")))


@cache
def _everyday() -> frozenset[str]:
    """Level 1 and the marks of GB 2312 and of Big5."""
    chinese = (*(bytes((lead, trail)) for lead in (*range(0xA1, 0xA4), *range(0xB0, 0xD8)) for trail in range(0xA1, 0xFF)),)
    taiwan = (*(bytes((lead, trail)) for lead in range(0xA1, 0xC7) for trail in (*range(0x40, 0x7F), *range(0xA1, 0xFF))),)
    decoded = [code.decode("gb2312", "ignore") for code in chinese] + [code.decode("big5", "ignore") for code in taiwan]
    return frozenset(char for char in decoded if len(char) == 1)


def _is_western(text: str) -> bool:
    """Letters with accents are few and stand within words; typographic marks stand beside them."""
    high = [char for char in text if char > "\x7f"]
    letters = sum(map(str.isalpha, high))
    marks = sum(char in "’‘“”–—…€£©®°·«»¿¡\u00a0½²³§•™" for char in high)
    return len(high) <= 0.3 * len(text) and letters + marks >= 0.9 * len(high)
