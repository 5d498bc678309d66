"""The files of a source: a path, a folder, a glob, the box, a data set of Hugging Face."""

import errno
import glob
import os
import stat
from collections import Counter
from importlib import resources
from pathlib import Path

from trainer.config_corpus import SourceSection
from trainer.corpus.hub import HUB, dataset_files
from trainer.corpus.opening import COMPRESSED, unreadable
from trainer.errors import CorpusError

BOX = "box:"
"""Begins a path into the corpus that comes with the package."""

STANDARD_INPUT = "-"

JSON_LINES = (".jsonl", ".ndjson")
PLAIN_TEXT = (".txt", ".md", ".rst", ".text")
HTML = (".html", ".htm", ".xhtml")
WARC = (".warc", ".wet")
PARQUET = (".parquet",)

KINDS = {"jsonl": JSON_LINES, "text": PLAIN_TEXT, "html": HTML, "warc": WARC, "parquet": PARQUET}
"""The name endings of each format."""

ALL_KINDS = tuple(ending for endings in KINDS.values() for ending in endings)


def files_of(source: SourceSection) -> list[Path]:
    """The files of a source, as `files_at` finds them. Raises CorpusError if there is none."""
    kinds = ALL_KINDS if source.format == "auto" else None
    return files_at(source.path, f"corpus.sources: source {source.name}", kinds)


def files_at(path: str, owner: str, kinds: tuple[str, ...] | None) -> list[Path]:
    """The files of these kinds that a path names, sorted; of several links to one file the first, so that none is read twice.

    `box:NAME` is a file of the box; kinds None takes every file. Raises CorpusError, with the owner named, if there is none,
    and UnreadableError for what is there and cannot be read.
    """
    if path.startswith(BOX):
        found = [Path(str(resources.files("trainer.corpus") / "box" / path.removeprefix(BOX)))]
    elif path.startswith(HUB):
        found = dataset_files(path, owner)
    else:
        found = _named(path, owner)
    by_target: dict[Path, Path] = {}
    passed_over: Counter[str] = Counter()
    for entry in found:
        if kinds is not None and kind_of(entry) not in kinds:
            if os.path.isfile(entry):  # noqa: PTH113 - never raises: what is not read may be as broken as it likes
                passed_over[_ending(entry)] += 1
        elif _is_file(entry, owner):
            by_target.setdefault(entry.resolve(), entry.absolute())  # its own name tells the kind: caches link to bare hashes
    files = list(by_target.values())
    if not files:
        raise CorpusError(f"{owner}: {_why_none(path, passed_over, kinds)}")
    for file in files:
        if not os.access(file, os.R_OK):
            raise unreadable(file, PermissionError(errno.EACCES, ""), owner)
    return files


def _named(path: str, owner: str) -> list[Path]:
    """All that a path of the file system names, folders within a folder included."""
    place = Path(path)
    try:
        is_folder = stat.S_ISDIR(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        matches = [Path(name) for name in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207 - absolute patterns too
        if not matches:
            _refuse_closed(place, owner)
        return matches or [place]
    except OSError as error:
        _refuse_closed(place, owner)
        raise unreadable(place, error, owner) from None
    if not is_folder:
        return [place]

    def refuse(error: OSError) -> None:
        raise unreadable(Path(str(error.filename or place)), error, owner) from None

    return sorted(Path(folder, name) for folder, _, names in os.walk(place, onerror=refuse) for name in names)


def _refuse_closed(pattern: Path, owner: str) -> None:
    """Raises UnreadableError where a path or pattern finds nothing because its folder may not be looked into."""
    for folder in reversed(pattern.parents):
        if not glob.has_magic(str(folder)) and folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            raise unreadable(folder, PermissionError(errno.EACCES, ""), owner)


def _is_file(entry: Path, owner: str) -> bool:
    """Whether an entry is a file. Raises UnreadableError where that cannot be known, and for a link that leads nowhere."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        # editors mark files that are open by such links with hidden names
        if isinstance(error, FileNotFoundError) and entry.is_symlink() and not entry.name.startswith("."):
            raise unreadable(entry, error, owner) from None
        return False
    except OSError as error:
        raise unreadable(entry, error, owner) from None


def _why_none(path: str, passed_over: Counter[str], kinds: tuple[str, ...] | None) -> str:
    """What is at a path that has no file to read, and the way out."""
    way_out = f"give a file, folder or glob of {', '.join(kinds or ['any kind'])} (also .gz, .zst, .xz)"
    if passed_over and kinds == ALL_KINDS:
        way_out = f"set the source's format (such as format: text), or {way_out}"
    endings = ", ".join(ending or "names without an ending" for ending, _ in passed_over.most_common(5))
    if os.path.isfile(path):  # noqa: PTH113 - never raises
        return f"{path} is there, but is of no kind that is read ({endings}); {way_out}"
    if passed_over:
        return f"none of the {passed_over.total()} files at {path} is of a kind that is read ({endings}); {way_out}"
    if os.path.isdir(path):  # noqa: PTH112 - never raises
        return f"no file is in the folder {path}; {way_out}"
    seen_from = "" if Path(path).is_absolute() or ":" in path else f" (seen from {Path.cwd()})"
    return f"no file at {path}{seen_from}; {way_out}"


def kind_of(file: Path) -> str:
    """The suffix that tells the format, compression aside; empty if it is none that is read here."""
    kind = _ending(file)
    return kind if kind in ALL_KINDS else ""


def _ending(file: Path) -> str:
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    return suffixes[-1].lower() if suffixes else ""


def format_of(source: SourceSection, file: Path) -> str:
    """The key of KINDS by which a file of a source is read."""
    if source.format != "auto":
        return source.format
    kind = kind_of(file)
    return next((name for name, endings in KINDS.items() if kind in endings), "jsonl")
