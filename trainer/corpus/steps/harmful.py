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


def pattern_of(words: Iterable[str]) -> re.Pattern[str] | None:
    """One alternation of all words. Han phrases match anywhere, others as whole words in any case; a blank is any white space.

    Linear: at each place at most one attempt per word, and none can look further than the longest word is long.
    """
    alternatives = []
    for word in sorted({word.lower() for word in words}, key=lambda word: (-len(word), word)):
        body = r"\s".join(map(re.escape, word.split()))
        alternatives.append(body if _HAN.search(word) else rf"(?<!\w){body}(?!\w)")
    return re.compile("|".join(alternatives)) if alternatives else None


@dataclass(frozen=True)
class DropHarmful:
    """The step."""

    section: HarmfulSection
    words: tuple[str, ...]
    name: str = "harmful"

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return pattern_of(self.words)

    def __call__(self, document: Draft) -> Draft | Dropped:
        if self._pattern is None:
            return document
        hits = len(self._pattern.findall(document.text.lower()))
        density = 1000 * hits / max(1, len(document.text))
        if hits < self.section.min_hits or density <= self.section.max_hits_per_1000_chars:
            return document
        most = self.section.max_hits_per_1000_chars
        return Dropped("harmful.words", f"{hits} hits, {density:.3g} for each 1,000 characters, are above {most:g}")
