"""`trainer prepare --explain ID`: the story of one document, from the fates that the corpus keeps."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from trainer.corpus.account import fate_files
from trainer.corpus.opening import ZstdReader
from trainer.corpus.store import read_manifest
from trainer.errors import CorpusError

_FATES = {"train": "kept for training", "held_out": "held out for validation", "dropped": "left out"}


def explain(folder: Path, name: str) -> list[str]:
    """What became of the document with this id, as lines to print. Raises CorpusError where there is none."""
    sources = read_manifest(folder).counts
    source = name.partition(":")[0]
    if source not in sources:
        raise CorpusError(f"{name}: no source {source}; an id is SOURCE:FILE:LINE, of one of the sources {', '.join(sources)}")
    fate = _fate_of(folder, source, name)
    if fate is None:
        example = next(_fates(folder, source, b""), {"id": f"{source}:FILE:LINE"})["id"]
        raise CorpusError(f"{name}: {source} has no such document; its first one is {example}")
    lines = [name, *_story(fate)]
    if "of" in fate:
        other = str(fate["of"])
        found = _fate_of(folder, other.partition(":")[0], other)
        lines += ["", other, *(_story(found) if found is not None else [])]
    return lines


def _story(fate: dict[str, Any]) -> list[str]:
    lines = [f"  {fate['chars']:,} characters" + (f", language {fate['language']}" if "language" in fate else "")]
    lines += [f"  changed: {rule}, {count} times" for rule, count in fate.get("changes", {}).items()]
    told = _FATES[fate["fate"]]
    if fate["fate"] == "dropped":
        lines.append(f"  {told} by {fate['rule']}: {fate['reason']}")
    else:
        copies = f", {fate['copies']} times" if "copies" in fate else ""
        lines.append(f"  {told}{copies}: {fate['part']}")
    if "begins" in fate:
        lines.append(f"  it began: {json.dumps(fate['begins'][:120], ensure_ascii=False)}")
    return lines


def _fate_of(folder: Path, source: str, name: str) -> dict[str, Any] | None:
    wanted = json.dumps(name, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return next((fate for fate in _fates(folder, source, wanted) if fate["id"] == name), None)


def _fates(folder: Path, source: str, wanted: bytes) -> Iterator[dict[str, Any]]:
    """The fates of a source whose lines hold these bytes: only those are parsed."""
    for path in fate_files(folder, source):
        try:
            with path.open("rb") as raw:
                for line in io.BufferedReader(ZstdReader(raw), 1 << 20):
                    if wanted in line:
                        yield json.loads(line)
        except (OSError, EOFError, zstandard.ZstdError, ValueError) as error:
            raise CorpusError(f"{path}: damaged or missing ({error})") from None
