"""The files of a source: a path, a folder, a glob, the box, a data set of Hugging Face."""

import glob
import os
from importlib import resources
from pathlib import Path

from trainer.config_corpus import SourceSection
from trainer.corpus.hub import HUB, dataset_files
from trainer.corpus.opening import COMPRESSED
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

    `box:NAME` is a file of the box; kinds None takes every file. Raises CorpusError, with the owner named, if there is none.
    """
    if path.startswith(BOX):
        found = [Path(str(resources.files("trainer.corpus") / "box" / path.removeprefix(BOX)))]
    elif path.startswith(HUB):
        found = dataset_files(path, owner)
    elif Path(path).is_dir():
        found = sorted(Path(path).rglob("*"))
    elif Path(path).exists():
        found = [Path(path)]
    else:
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207 - absolute patterns too
    by_target: dict[Path, Path] = {}
    for entry in found:
        if entry.is_file() and (kinds is None or kind_of(entry) in kinds):
            by_target.setdefault(entry.resolve(), entry.absolute())  # its own name tells the kind: caches link to bare hashes
    files = list(by_target.values())
    if not files:
        raise CorpusError(f"{owner}: {_why_none(path, kinds)}")
    return files


def _why_none(path: str, kinds: tuple[str, ...] | None) -> str:
    """Why a path gives no file, and the way out."""
    listed = ", ".join(kinds or ["any kind"])
    place = Path(path)
    way_out = f"give a file, folder or glob of {listed} (also .gz, .zst, .xz)"
    try:
        if place.is_dir():
            next(os.scandir(place), None)
            return f"{path} is a folder without such files; {way_out}"
        if place.is_file():
            ending = "".join(place.suffixes) or "a name without an ending"
            other = "set format: text, jsonl, html, warc or parquet" if kinds == ALL_KINDS else f"rename it to one of {listed}"
            return f"{path} is there, but {ending} is not read; {other}"
    except PermissionError:
        return f"{path}: permission denied; the user who runs this must be able to read it"
    start = "" if place.is_absolute() or ":" in path else f" (seen from {Path.cwd()})"
    return f"no file at {path}{start}; {way_out}"


def kind_of(file: Path) -> str:
    """The suffix that tells the format, compression aside; empty if it is none that is read here."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    kind = suffixes[-1].lower() if suffixes else ""
    return kind if kind in ALL_KINDS else ""


def format_of(source: SourceSection, file: Path) -> str:
    """The key of KINDS by which a file of a source is read."""
    if source.format != "auto":
        return source.format
    kind = kind_of(file)
    return next((name for name, endings in KINDS.items() if kind in endings), "jsonl")
