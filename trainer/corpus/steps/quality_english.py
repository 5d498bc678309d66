"""Quality rules for English: Gopher's, C4's and FineWeb's, with their papers' numbers as defaults. Pure.

A word is what stands between blanks, without the punctuation at its ends. The published code splits by a model instead; where
both were run on the same text, docs/lab.md says how often they agree.
"""

import re
from collections import Counter
from collections.abc import Iterator

from trainer.config_steps import C4Section, FineWebSection, GopherSection, QualitySection
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.judging import Limit, code_lines, duplicates, first_broken, prose_of, repetition, share

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”‘’…–—•«»"
_BULLETS = ("•", "-", "*", "‣", "◦", "●", "○")
_ENDS = (".", "?", "!", '"', "'", "”", "’")
_ELLIPSES = ("...", "…")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[(?:[0-9]{0,4}|edit|citation needed)\]")
_SENTENCE_BREAK = re.compile(r"[.!?][\"'”’)\]]{0,3}\s")
_SHORT_LINE_CHARS = 30


def judge_english(text: str, section: QualitySection) -> Dropped | None:
    """The first rule of the chosen preset that the document breaks, or None. Costs about 0.1 s per MB."""
    prose = prose_of(text, section.keep_code)
    return first_broken(_limits(prose, section))


def _limits(text: str, section: QualitySection) -> Iterator[Limit]:
    preset = section.english
    words = text.split()
    if preset in ("gopher", "fineweb"):
        yield from gopher(text, words, section.gopher)
        yield from repetition(text, words, section.repetition, "repetition")
    if preset in ("c4", "fineweb"):
        yield from c4(text, section.c4)
    if preset == "fineweb":
        yield from fineweb(text, words, section.fineweb)


def gopher(text: str, words: list[str], rules: GopherSection) -> Iterator[Limit]:
    """Gopher's document rules (arXiv 2112.11446, section A.1.1)."""
    spoken = [plain for word in words if (plain := word.strip(_PUNCTUATION))]
    yield Limit("gopher.words", "number of words", len(spoken), rules.min_words, rules.max_words)
    mean = share(sum(map(len, spoken)), len(spoken))
    yield Limit("gopher.mean_word_length", "mean word length", mean, rules.min_mean_word_chars, rules.max_mean_word_chars)
    for name, count in (("hash signs", text.count("#")), ("ellipses", text.count("...") + text.count("…"))):
        yield Limit("gopher.symbols", f"{name} per word", share(count, len(words)), most=rules.max_symbols_per_word)
    lines = _lines(text)
    bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines)
    yield Limit("gopher.bullet_lines", "share of bullet lines", share(bullets, len(lines)), most=rules.max_bullet_lines)
    ellipses = sum(line.rstrip().endswith(_ELLIPSES) for line in lines)
    yield Limit(
        "gopher.ellipsis_lines", "share of lines with an ellipsis", share(ellipses, len(lines)), most=rules.max_ellipsis_lines
    )
    letters = sum(any(map(str.isalpha, word)) for word in spoken)
    yield Limit(
        "gopher.alphabetic_words", "share of words with letters", share(letters, len(words)), rules.min_alphabetic_words
    )
    stops = len(STOP_WORDS.intersection(map(str.lower, spoken)))
    yield Limit("gopher.stop_words", "number of different stop words", stops, rules.min_stop_words)


def c4(text: str, rules: C4Section) -> Iterator[Limit]:
    """C4's document rules (arXiv 1910.10683, section 2.2); its line rules come before, in `english_lines`."""
    if rules.lorem_ipsum:
        yield Limit("c4.lorem_ipsum", "number of lorem ipsum", text.lower().count("lorem ipsum"), most=0)
    if rules.curly_bracket:
        yield Limit("c4.curly_bracket", "number of curly brackets", text.count("{"), most=0)
    if rules.min_sentences is not None:
        # a line holds at least one, and one more for each full stop within it
        sentences = sum(1 + len(_SENTENCE_BREAK.findall(line.rstrip())) for line in _lines(text))
        yield Limit("c4.sentences", "number of sentences", sentences, rules.min_sentences)


def fineweb(text: str, words: list[str], rules: FineWebSection) -> Iterator[Limit]:
    """FineWeb's document rules (arXiv 2406.17557, section 3.6)."""
    lines = _lines(text)
    ended = share(sum(line.rstrip().endswith(_ENDS) for line in lines), len(lines))
    yield Limit("fineweb.punctuated_lines", "share of lines that end in punctuation", ended, rules.min_punctuated_lines)
    short = share(sum(len(line) <= _SHORT_LINE_CHARS for line in lines), len(lines))
    yield Limit("fineweb.short_lines", "share of short lines", short, most=rules.max_short_lines)
    repeated = share(duplicates(lines)[1], sum(map(len, lines)))
    what = "share of characters in repeated lines"
    yield Limit("fineweb.duplicate_line_chars", what, repeated, most=rules.max_duplicate_line_chars)
    yield Limit(
        "fineweb.lines_per_word", "line ends per word", share(text.count("\n"), len(words)), most=rules.max_lines_per_word
    )


def english_lines(text: str, section: QualitySection) -> tuple[str, Counter[str]]:
    """The text without the lines that C4's line rules remove, and how many by which rule. Blank lines and code stay."""
    rules = section.c4
    ended = rules.terminal_punctuation and section.english == "c4"
    lines = text.split("\n")
    is_code = code_lines(lines) if section.keep_code else [False] * len(lines)
    kept: list[str] = []
    removed: Counter[str] = Counter()
    for line, code in zip(lines, is_code, strict=True):
        if code or not line.strip():
            kept.append(line)
            continue
        rule = _c4_line_rule(line, rules, ended)
        if rule:
            removed[rule] += 1
            continue
        kept.append(_CITATION.sub("", line) if rules.citations and "[" in line else line)
    return "\n".join(kept), removed


def _c4_line_rule(line: str, rules: C4Section, ended: bool) -> str | None:
    words = line.split()
    if rules.max_word_chars is not None and len(line) > rules.max_word_chars and max(map(len, words)) > rules.max_word_chars:
        return "c4.long_word"
    last = (_CITATION.sub("", line) if rules.citations else line).rstrip()
    if ended and (not last.endswith(_ENDS) or last.endswith(_ELLIPSES)):
        return "c4.terminal_punctuation"
    if rules.min_words_per_line is not None and len(words) < rules.min_words_per_line:
        return "c4.words_per_line"
    lower = line.lower()
    if rules.javascript and "javascript" in lower:
        return "c4.javascript"
    if rules.policy and any(phrase in lower for phrase in _POLICY):
        return "c4.policy"
    return None


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]
