"""Mojibake put right: text that was decoded by the wrong table, by ftfy. Pure.

Only that: typographic quotes, full-width punctuation, ligatures and line breaks are the author's and stay. Line by line, so a
damaged line in a long document does not decide over the others. `trainer.corpus.normalising` stays the last word on Unicode
form and white space.
"""

import re
from dataclasses import dataclass

from trainer.corpus.steps.draft import Draft, Dropped
from trainer.errors import MissingDependencyError

_SUSPECT = re.compile("[\u0080-\u009f]|[\u00a0-\u024f\u2013-\u2122][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u2122]")
"""What mojibake always has: two of Windows-1252's upper half in a row (a lead byte and a next one), or a C1 control."""
_MAX_LINE_CHARS = 100_000


def repaired(text: str) -> tuple[str, int]:
    """The text with mojibake put right, and the number of lines that changed. Raises MissingDependencyError. O(n)."""
    if not _SUSPECT.search(text):
        return text, 0
    try:
        import ftfy
    except ImportError:
        raise MissingDependencyError("repair needs ftfy: pip install 'pretrain-run[corpus]'") from None
    config = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    lines = text.split("\n")
    changed = 0
    for number, line in enumerate(lines):
        if len(line) <= _MAX_LINE_CHARS and _SUSPECT.search(line):
            fixed = ftfy.fix_encoding(line, config)
            changed += fixed != line
            lines[number] = fixed
    return "\n".join(lines), changed


@dataclass(frozen=True, slots=True)
class Repair:
    """The step."""

    name: str = "repair"

    def __call__(self, document: Draft) -> Draft | Dropped:
        text, changed = repaired(document.text)
        if not changed:
            return document
        return Draft(text, document.language, (*document.changes, ("repair.mojibake", changed)))
