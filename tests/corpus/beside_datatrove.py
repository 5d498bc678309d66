"""Steps of the corpus pipeline and the same steps of datatrove, in turns on the same English documents, by CPU time.

It runs in the environment of `make bench-corpus`, which has datatrove. datatrove splits words by spaCy; a second column gives
it a splitter at blanks, as ours is, so that what the rules themselves cost can be seen.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.utils.word_tokenizers import WordTokenizer

from trainer.config_steps import FineWebSection, GopherSection, HtmlSection, QualitySection, RedactionSection, RepetitionSection
from trainer.corpus.steps.extract import extract_html
from trainer.corpus.steps.judging import first_broken, repetition
from trainer.corpus.steps.near_duplicates import bands, signature
from trainer.corpus.steps.quality_english import english_lines, fineweb, gopher, judge_english
from trainer.corpus.steps.redaction import redacted
from trainer.corpus.steps.repair import repaired

ROUNDS = 3
Work = Callable[[str], object]


class AtBlanks(WordTokenizer):  # type: ignore[misc]
    """A splitter for datatrove that costs next to nothing."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError("C4's sentences are split by its own")

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError("C4's sentences are split by its own")


@dataclass(frozen=True)
class Pair:
    """A step of ours, datatrove's, and datatrove's with words split at blanks where it splits words at all."""

    name: str
    ours: Work
    theirs: Work
    at_blanks: Work | None = None


def pairs() -> list[Pair]:
    """Steps that both have and that run without a download. datatrove's language filter and C4's bad words download lists."""
    c4, pii = QualitySection(english="c4"), RedactionSection(replace=("email", "ip"))
    splitter = AtBlanks("en")

    def judged(filter_: "GopherQualityFilter | GopherRepetitionFilter | C4QualityFilter | FineWebQualityFilter") -> Work:
        return lambda text: filter_.filter(Document(text, ""))

    def signed(language: object) -> Work:
        step = MinhashDedupSignature("/tmp", language=language)
        return lambda text: step.get_signature(step.get_shingles(text)) if len(text) > 50 else None

    return [
        Pair(
            "Gopher quality",
            lambda text: first_broken(gopher(text, text.split(), GopherSection())),
            judged(GopherQualityFilter()),
            judged(GopherQualityFilter(language=splitter)),
        ),
        Pair(
            "Gopher repetition",
            lambda text: first_broken(repetition(text, text.split(), RepetitionSection(), "repetition")),
            judged(GopherRepetitionFilter()),
            judged(GopherRepetitionFilter(language=splitter)),
        ),
        Pair(
            "C4",
            lambda text: judge_english(english_lines(text, c4)[0], c4),
            judged(C4QualityFilter()),
        ),
        Pair(
            "FineWeb",
            lambda text: first_broken(fineweb(text, text.split(), FineWebSection())),
            judged(FineWebQualityFilter()),
            judged(FineWebQualityFilter(language=splitter)),
        ),
        Pair("redaction of email and ip", lambda text: redacted(text, pii), PIIFormatter().format),
        Pair("repair (ftfy)", repaired, FTFYFormatter().format),
        Pair("MinHash of 112", lambda text: bands(signature(text, "en")), signed("en"), signed(splitter)),
    ]


def html_pair() -> Pair:
    """Main text of pages."""
    return Pair("main text of HTML", lambda html: extract_html(html, HtmlSection()), Trafilatura(timeout=60).extract)


@dataclass(frozen=True)
class Rates:
    """MB of text per CPU-second."""

    name: str
    ours: float
    theirs: float
    at_blanks: float | None


def race(pair: Pair, texts: Sequence[str]) -> Rates:
    """Turns in alternation, after one document each to load what they need."""
    works = [work for work in (pair.ours, pair.theirs, pair.at_blanks) if work is not None]
    for work in works:
        work(texts[0])
    spent = [0.0] * len(works)
    for _ in range(ROUNDS):
        for place, work in enumerate(works):
            started = time.process_time()
            for text in texts:
                work(text)
            spent[place] += time.process_time() - started
    size = ROUNDS * sum(len(text.encode()) for text in texts) / 1e6
    rates = [size / max(1e-9, seconds) for seconds in spent]
    return Rates(pair.name, rates[0], rates[1], rates[2] if len(rates) > 2 else None)
