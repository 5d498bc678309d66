"""Quality rules for Chinese: characters where English has words, full-width marks, boilerplate lines. Pure.

No library has these. Thresholds come from FineWeb-2's configuration for cmn_Hani where it has one (its words taken as two
characters), else from measuring clean text: poems, manual pages, the Debian handbook (docs/corpus-rules.md). Every rule keeps
at least 99.5% of the poems in the box.
"""

import re
from collections import Counter
from collections.abc import Iterator

from trainer.config_steps import ChineseSection, QualitySection
from trainer.corpus.steps.boilerplate import boilerplate_rule
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.judging import Limit, code_lines, first_broken, prose_of, repetition, share

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_UNIT = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]|[A-Za-z0-9_\u00c0-\u024f]+|[\u0370-\u1fff]+")
"""What Chinese text is counted in: a Han character, or a whole foreign word or number."""
_MARK = re.compile("[，。！？；：、（）《》〈〉「」『』“”‘’…—·,.!?;:()\"'\\[\\]-]")
_SYMBOL = re.compile(r"[^\w\s，。！？；：、（）《》〈〉「」『』“”‘’【】〔〕…—–·～￥％,.!?;:()\"'\[\]/%+\-]|_")
_WIDE_MARK = re.compile("[，。！？；：（）]")
_ASCII_MARK_AT_HAN = re.compile("(?<=[\u4e00-\u9fff])[,.!?;:()]|[,.!?;:()](?=[\u4e00-\u9fff])")
_ENDS = tuple("。！？；：，、…”’』」）》.!?;:\"'")
_ELLIPSES = ("...", "…", "。。。")
_BULLETS = ("•", "·", "-", "*", "●", "○", "■", "□", "◆", "◇", "▪", "★", "☆", "►", "▶")
_SHORT_LINE_CHARS = 10
_FEW_MARKS, _FEW_LINES, _FEW_UNITS = 5, 5, 100
"""With fewer marks, lines or characters their shares say nothing: a quatrain has four lines, two of them title and author, and
in a song of 40 characters a refrain of four makes up a fifth."""


def judge_chinese(text: str, section: QualitySection) -> Dropped | None:
    """The first rule that the document breaks, or None. Costs about 0.15 s per MB."""
    return first_broken(chinese(prose_of(text, section.keep_code), section.han))


def chinese(text: str, rules: ChineseSection) -> Iterator[Limit]:
    """Document rules; each name is that of its threshold in ChineseSection."""
    han = len(_HAN.findall(text))
    yield Limit("chinese.han_chars", "number of Han characters", han, rules.min_han_chars)
    units = _UNIT.findall(text)
    yield Limit("chinese.han_share", "share of Han characters", share(han, len(units)), rules.min_han_share)
    visible = "".join(text.split())
    symbols = share(len(_SYMBOL.findall(visible)), len(visible))
    yield Limit("chinese.symbol_share", "share of symbols", symbols, most=rules.max_symbol_share)
    wide, ascii_marks = len(_WIDE_MARK.findall(text)), len(_ASCII_MARK_AT_HAN.findall(text))
    if wide + ascii_marks >= _FEW_MARKS:
        what = "share of full-width punctuation"
        yield Limit("chinese.full_width_punctuation", what, share(wide, wide + ascii_marks), rules.min_full_width_punctuation)
    marks = len(_MARK.findall(text))
    yield Limit("chinese.chars_per_mark", "Han characters per mark", han / max(1, marks), most=rules.max_chars_per_mark)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) >= _FEW_LINES:
        yield from _line_limits(lines, rules)
    yield from repetition(text, units if len(units) >= _FEW_UNITS else (), rules.repetition, "chinese")


def _line_limits(lines: list[str], rules: ChineseSection) -> Iterator[Limit]:
    ended = [line.endswith(_ENDS) for line in lines]
    what = "share of lines that end in punctuation"
    yield Limit("chinese.punctuated_lines", what, share(sum(ended), len(lines)), rules.min_punctuated_lines)
    short = sum(len(line) < _SHORT_LINE_CHARS and not end for line, end in zip(lines, ended, strict=True))
    yield Limit("chinese.short_lines", "share of short lines", share(short, len(lines)), most=rules.max_short_lines)
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
    yield Limit(
        "chinese.ellipsis_lines", "share of lines with an ellipsis", share(ellipses, len(lines)), most=rules.max_ellipsis_lines
    )
    bullets = sum(line.startswith(_BULLETS) for line in lines)
    yield Limit("chinese.bullet_lines", "share of bullet lines", share(bullets, len(lines)), most=rules.max_bullet_lines)


def chinese_lines(text: str, section: QualitySection) -> tuple[str, Counter[str]]:
    """The text without boilerplate lines, and how many of which kind. Code and blank lines stay. O(n)."""
    if not section.han.boilerplate:
        return text, Counter()
    lines = text.split("\n")
    is_code = code_lines(lines) if section.keep_code else [False] * len(lines)
    kept: list[str] = []
    removed: Counter[str] = Counter()
    for line, code in zip(lines, is_code, strict=True):
        kind = None if code or len(line) > 200 or not line.strip() else boilerplate_rule(line)
        if kind:
            removed[f"chinese.{kind}"] += 1
        else:
            kept.append(line)
    return "\n".join(kept), removed
