"""Documents that are full of harmful words are dropped. Pure.

The lists are the user's; a small neutral one of each language comes with the package. Words alone do not tell a novel or a page
of medicine from what nobody wants to learn from, so it is their density that counts, and never a single one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from trainer.config_steps import HarmfulSection
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.errors import MissingDependencyError

DEFAULT_WORDS = (
    # what spam sells: pornography, illegal gambling, drugs, forged papers
    *("xxx video", "porn", "porno", "hardcore sex", "live sex", "escort girls", "nude cams", "camgirl", "milf"),
    *("casino bonus", "online casino", "free spins", "sports betting tips", "buy viagra", "cheap viagra", "cialis online"),
    *("buy cocaine", "fake passport", "counterfeit money", "stolen credit cards"),
    *("色情", "黄色网站", "成人视频", "成人电影", "裸聊", "约炮", "一夜情", "援交", "上门服务", "激情视频", "无码", "三级片"),
    *("六合彩", "时时彩", "赌球", "网上赌场", "真人娱乐城", "百家乐", "博彩网", "棋牌平台", "彩票计划"),
    *("办证刻章", "代开发票", "迷药", "冰毒", "枪支出售", "高利贷", "套现"),
)
_HAN = re.compile("[\u3400-\u9fff]")


def words_of(text: str) -> list[str]:
    """The words of a list: one a line, # begins a comment."""
    return [word for line in text.splitlines() if (word := line.partition("#")[0].strip())]


class WordList:
    """Counts the words of a list in a text: Han phrases anywhere, others as whole words, in any case and with any white space.

    Linear in the text, whatever the length of the list (Aho-Corasick). Raises MissingDependencyError.
    """

    def __init__(self, words: Iterable[str]) -> None:
        try:
            from ahocorasick_rs import AhoCorasick, MatchKind
        except ImportError:
            raise MissingDependencyError("word lists need ahocorasick-rs: pip install 'pretrain-run[corpus]'") from None
        self._words = sorted({" ".join(word.lower().split()) for word in words})
        self._automaton = AhoCorasick(self._words, matchkind=MatchKind.LeftmostLongest)

    def count(self, text: str) -> int:
        """How many words of the list stand in the text, none within another."""
        text = " ".join(text.lower().split())
        return sum(
            bool(_HAN.search(self._words[index]))
            or not (_is_letter(text[start - 1 : start]) or _is_letter(text[end : end + 1]))
            for index, start, end in self._automaton.find_matches_as_indexes(text)
        )


def _is_letter(char: str) -> bool:
    return char.isalnum() and not _HAN.match(char)


@dataclass(frozen=True)
class DropHarmful:
    """The step."""

    section: HarmfulSection
    words: tuple[str, ...]
    name: str = "harmful"

    @cached_property
    def _list(self) -> WordList:
        return WordList(self.words)

    def __getstate__(self) -> dict[str, object]:
        return {"section": self.section, "words": self.words, "name": self.name}  # each process builds its own automaton

    def __call__(self, document: Draft) -> Draft | Dropped:
        hits = self._list.count(document.text)
        density = 1000 * hits / max(1, len(document.text))
        if hits < self.section.min_hits or density <= self.section.max_hits_per_1000_chars:
            return document
        most = self.section.max_hits_per_1000_chars
        return Dropped("harmful.words", f"{hits} hits, {density:.3g} for each 1,000 characters, are above {most:g}")
