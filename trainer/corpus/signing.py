"""Kept documents on their way to the disk: fingerprint, MinHash signature, hashes of lines."""

import hashlib

import numpy as np

from trainer.config_corpus import CorpusSection
from trainer.corpus.normalising import fingerprint
from trainer.corpus.steps.draft import Draft
from trainer.corpus.steps.near_duplicates import bands, signature
from trainer.corpus.store import line_of_text
from trainer.corpus.work import INDEX, Row, UnitWriter

MAX_SIGNED_CHARS = 1_000_000
"""A signature tells of this beginning of a document: n-grams take some hundred bytes of memory a character."""


class Signer:
    """Writes the documents of a unit with what deduplication needs of them."""

    def __init__(self, config: CorpusSection, writer: UnitWriter) -> None:
        self._min_line_chars = config.repeated_lines.min_chars
        self._writer = writer

    def keep(self, piece: int, line: int, draft: Draft) -> None:
        """Write a document that stays for now."""
        text, writer = draft.text, self._writer
        writer.rows.write(Row(piece, line, draft.language, len(text), line_of_text(text), draft.changes).to_lines())
        name = fingerprint(text)
        high, low = int.from_bytes(name[:8], "big"), int.from_bytes(name[8:], "big")
        record = np.array([(high, low, line, piece, len(text), len(text.encode()), 0)], INDEX)
        writer.index.write(record.tobytes())
        if writer.lines is not None:
            writer.lines.write(np.array(sorted(line_hashes(text, self._min_line_chars)), "<u8").tobytes())
        if writer.bands is not None and writer.signatures is not None:
            hashes = signature(text[:MAX_SIGNED_CHARS], draft.language)
            writer.signatures.write(hashes.astype("<u4").tobytes())
            writer.bands.write(bands(hashes).astype("<u8").tobytes())

    def drop(self, row: Row) -> None:
        """Write why there is no document in a place."""
        self._writer.rows.write(row.to_lines())


def line_hash(line: str) -> int:
    """64 bits of a line without the blanks around it."""
    return int.from_bytes(hashlib.blake2b(line.strip().encode(), digest_size=8).digest(), "big")


def line_hashes(text: str, min_chars: int) -> set[int]:
    """Of the different lines of a text that are not shorter than `min_chars`."""
    return {line_hash(line) for line in text.split("\n") if len(line.strip()) >= min_chars}
