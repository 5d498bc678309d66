"""Normal form of a document, and its fingerprint. Pure."""

import hashlib
import re
import unicodedata

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
_TRAILING_SPACE = re.compile(r"[ \t\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")


def normalise(text: str) -> str:
    """Unicode NFC, line ends as \\n, no control characters, no trailing blanks, at most two blank lines in a row.

    Indentation, full-width punctuation and everything else that carries meaning in code, poems and Chinese stays.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))  # in this order: a control character may part letter and accent
    text = _TRAILING_SPACE.sub("", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def fingerprint(text: str) -> bytes:
    """16 bytes that name a document by its normal form alone (BLAKE2b)."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def is_held_out(document: bytes, share: float) -> bool:
    """Whether the document with this fingerprint is for validation. Depends on nothing else, so no document ever moves."""
    return int.from_bytes(document[:8], "big") < share * 2**64
