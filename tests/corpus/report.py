"""make corpus-report: recall and precision of the corpus steps on truth sets, as the tables of docs/lab.md.

Registries are asked once; a truth set whose package cannot be had is named, and the exit code is 65.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, median

from tests.corpus import truth
from tests.corpus.box import box, manuals, poems
from tests.corpus.redaction_truth import ALL, samples, score
from tests.support.tables import table
from trainer.config_steps import HtmlSection, QualitySection
from trainer.corpus.steps.charset import Decoded, decode
from trainer.corpus.steps.extract import extract_html
from trainer.corpus.steps.language import identify
from trainer.corpus.steps.near_duplicates import Signature, bands, signature, similarity
from trainer.corpus.steps.quality_chinese import chinese_lines, judge_chinese
from trainer.corpus.steps.quality_english import english_lines, judge_english
from trainer.errors import CorpusError


def redaction(_: Path) -> str:
    """On seeds that the tests do not use."""
    totals: Counter[tuple[str, str]] = Counter()
    seeds, each = range(100, 105), 300
    for seed in seeds:
        for kind, entry in score(samples(seed=seed, each=each)).items():
            totals.update({(kind, "found"): entry.found, (kind, "missed"): entry.missed, (kind, "false"): entry.false})
    rows = []
    for kind in sorted({kind for kind, _ in totals}):
        found, missed, false = (totals[kind, what] for what in ("found", "missed", "false"))
        rows.append((kind, found + missed, found / (found + missed), found / max(1, found + false)))
    size = sum(len(samples(seed=seed, each=each)) for seed in seeds)
    names = ", ".join(ALL.replace)
    return table(f"Redaction of {names}: {size:,} generated texts", ("kind", "in the texts", "recall", "precision"), rows)


def languages(cache: Path) -> str:
    documents = truth.language_documents(truth.files_of(truth.HANDBOOK, cache))
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    taken_for: dict[str, Counter[str]] = defaultdict(Counter)
    for language, text in documents:
        found = identify(text).code
        total[language] += 1
        right[language] += found == language
        if found != language:
            taken_for[language][found] += 1
    rows: list[Sequence[object]] = [
        ("Debian handbook, all 26", sum(total.values()), sum(right.values()) / sum(total.values()), "")
    ]
    pieces = [(language, text[:300]) for language, text in documents]
    short = sum(identify(text).code == language for language, text in pieces) / len(pieces)
    rows.append(("their first 300 characters", len(pieces), short, ""))
    for language in sorted(total):
        told = ", ".join(f"{code} {count}" for code, count in taken_for[language].most_common())
        if told or language in ("en", "zh"):
            rows.append((f"of these {language}", total[language], right[language] / total[language], told))
    for name, language in (("chinese-poetry", "zh"), ("python-docs", "en"), ("wordnet-glosses", "en")):
        codes = Counter(identify(text).code for text in box(name))
        others = ", ".join(f"{code} {count}" for code, count in codes.most_common() if code != language)
        rows.append((f"box: {name}", codes.total(), codes[language] / codes.total(), others))
    return table("Language by document", ("set", "documents", "right", "taken for"), rows)


def extraction(cache: Path) -> str:
    rows = []
    for name, pages in (
        ("anarchism against Markdown", truth.anarchism_pages(truth.files_of(truth.ANARCHISM, cache))),
        ("python-docs against reStructuredText", truth.python_pages(truth.files_of(truth.PYTHON_PAGES, cache))),
    ):
        scores = []
        started, chars = time.process_time(), sum(len(page.html) for page in pages)
        texts = [extract_html(page.html, HtmlSection()) for page in pages]
        speed = chars / 1e6 / (time.process_time() - started)
        for page, text in zip(pages, texts, strict=True):
            found, wanted = truth.tokens(text if isinstance(text, str) else ""), truth.tokens(page.source)
            common = (found & wanted).total()
            scores.append((common / max(1, found.total()), common / max(1, wanted.total())))
        f1 = [2 * p * r / max(1e-9, p + r) for p, r in scores]
        rows.append(
            (name, len(pages), mean(f1), median(f1), mean(p for p, _ in scores), mean(r for _, r in scores), f"{speed:.0f}")
        )
    head = ("pages", "number", "token F1, mean", "median", "precision", "recall", "MB/s")
    return table("Main text of HTML", head, rows)


def near_duplicates(cache: Path) -> str:
    rows = []
    pages = truth.anarchism_pages(truth.files_of(truth.ANARCHISM, cache))
    # the same text in two forms is wanted here, so pages of links stay whole
    texts = [extract_html(page.html, HtmlSection(main_content=False)) for page in pages]
    both = [(text, page.source) for page, text in zip(pages, texts, strict=True) if isinstance(text, str)]
    html, source = ([signature(text, "en") for text in side] for side in zip(*both, strict=True))
    bags = [[truth.tokens(text) for text in side] for side in zip(*both, strict=True)]

    def same_page(pair: tuple[int, int]) -> bool:
        first, second = bags[0][pair[0]], bags[1][pair[1]]
        return pair[0] == pair[1] or 2 * (first & second).total() >= truth.NEAR * (first.total() + second.total())

    wanted = {(number, number) for number in range(len(both))}
    rows += _pairs("anarchism, HTML and Markdown", html, source, wanted, same_page)
    poem = truth.poem_truth(truth.files_of(truth.POEMS, cache))
    first, second = ([signature(text, "zh") for text in side] for side in (poem.first, poem.second))

    def same_poem(pair: tuple[int, int]) -> bool:
        return pair in poem.same or truth.equal_characters(poem.first[pair[0]], poem.second[pair[1]]) >= truth.NOT_NEAR

    rows += _pairs("Tang poems, two editions", first, second, poem.same, same_poem)
    head = ("set", "similarity at least", "true pairs", "found", "recall", "precision")
    return table("Near-duplicates", head, rows)


def _pairs(
    name: str,
    first: Sequence[Signature],
    second: Sequence[Signature],
    wanted: Iterable[tuple[int, int]],
    is_right: Callable[[tuple[int, int]], bool],
) -> list[Sequence[object]]:
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, sketch in enumerate(second):
        for place, key in enumerate(bands(sketch).tolist()):
            buckets[place, key].append(number)
    candidates = {
        (number, other)
        for number, sketch in enumerate(first)
        for place, key in enumerate(bands(sketch).tolist())
        for other in buckets.get((place, key), ())
    }
    wanted = set(wanted)
    rows: list[Sequence[object]] = []
    for least in (0.0, 0.6, 0.7, 0.75):
        found = {pair for pair in candidates if similarity(first[pair[0]], second[pair[1]]) >= least}
        right = sum(map(is_right, found))
        label = "any" if least == 0 else least
        rows.append((name, str(label), len(wanted), len(found), len(found & wanted) / len(wanted), right / max(1, len(found))))
    return rows


def quality(cache: Path) -> str:
    handbook = [text for language, text in truth.language_documents(truth.files_of(truth.HANDBOOK, cache)) if language == "zh"]
    rows: list[Sequence[object]] = []
    for name, texts in (("chinese-poetry in the box", poems()), ("Debian handbook, Chinese", handbook)):
        section = QualitySection(chinese="web")
        cleaned = [chinese_lines(text, section) for text in texts]
        fates = Counter(fate.rule for text, _ in cleaned if (fate := judge_chinese(text, section)))
        rows.append(_kept(name, "web", texts, cleaned, fates))
    for name, texts in (("python-docs in the box", manuals()), ("wordnet-glosses in the box", box("wordnet-glosses"))):
        for preset in ("gopher", "c4", "fineweb"):
            section = QualitySection(english=preset)  # type: ignore[arg-type]
            cleaned = [english_lines(text, section) if preset != "gopher" else (text, Counter()) for text in texts]
            fates = Counter(fate.rule for text, _ in cleaned if (fate := judge_english(text, section)))
            rows.append(_kept(name, preset, texts, cleaned, fates))
    head = ("clean text", "preset", "documents", "kept", "lines", "lines removed", "what dropped most")
    return table("What quality rules do to clean text", head, rows)


def _kept(
    name: str, preset: str, texts: Sequence[str], cleaned: Sequence[tuple[str, Counter[str]]], fates: Counter[str]
) -> Sequence[object]:
    lines = sum(text.count("\n") + 1 for text in texts)
    removed = sum(count.total() for _, count in cleaned)
    told = ", ".join(f"{rule} {count}" for rule, count in fates.most_common(3))
    return name, preset, len(texts), 1 - fates.total() / len(texts), lines, removed, told


def charsets(_: Path) -> str:
    rows = []
    sample = random.Random(1).sample(poems(), 3000)
    for encoding in ("utf-8", "utf-16-le", "gb18030", "big5hkscs"):
        encoded = [(poem, data) for poem in sample if (data := _encoded(poem, encoding)) is not None]
        right = sum(isinstance(told := decode(data), Decoded) and told.text == poem for poem, data in encoded)
        rows.append((encoding, len(encoded), right / len(encoded)))
    return table("Poems read in an encoding that is not declared", ("encoding", "poems", "read as they were"), rows)


def _encoded(text: str, encoding: str) -> bytes | None:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return None


PARTS: dict[str, Callable[[Path], str]] = {
    "redaction": redaction,
    "languages": languages,
    "extraction": extraction,
    "near-duplicates": near_duplicates,
    "quality": quality,
    "charsets": charsets,
}


def main() -> int:
    """Entry point; returns the exit code."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrain-run" / "registry"
    parser = argparse.ArgumentParser(prog="python -m tests.corpus.report", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="only these (%(choices)s)")
    parser.add_argument("--cache", type=Path, default=default, help="folder of downloads (%(default)s)")
    options = parser.parse_args()
    missing = 0
    for name in options.parts or PARTS:
        try:
            print(PARTS[name](options.cache), flush=True)
        except CorpusError as error:
            missing += 1
            print(f"missing: {name}: {error}", file=sys.stderr)
    return 65 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
