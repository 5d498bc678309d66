"""Raw text for tests of the corpus pipeline: documents of words by a seed, with duplicates of every kind among them."""

import hashlib
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.config_corpus import CorpusSection

WORDS = re.findall(
    r"\w+", "river stone light walks between under the old mill and bridge where nobody counted seven slow boats"
)


def sentences(seed: str, count: int) -> list[str]:
    """Sentences that a seed determines and that no other seed gives."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=9)) + f" {chance.randrange(10**6)}." for _ in range(count)]


def documents(seed: str, count: int) -> list[str]:
    """Texts, of which every ninth repeats the one four before it and every eleventh is nearly the one five before it."""
    texts: list[str] = []
    for number in range(count):
        if number % 9 == 8:
            texts.append(texts[-4])
        elif number % 11 == 10:
            texts.append(texts[-5] + "\nAnother line at its end.")
        else:
            lines = ["Home | About | Contact | Imprint", *sentences(f"{seed} {number}", 12)]
            texts.append("\n".join([*lines, f"Write to boats{number}@river-mill.net."]))
    return texts


def write_lines(path: Path, texts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")


def raw_sources(folder: Path) -> list[dict[str, Any]]:
    """Two sources: a file of JSON lines with bad and short ones in it, and a folder of small files; they share documents."""
    write_lines(folder / "lines" / "a.jsonl", [*documents("a", 120), "short"])
    with (folder / "lines" / "a.jsonl").open("a") as file:
        file.write('{"txt": 1}\nnot json\n')
    write_lines(folder / "lines" / "b.jsonl", documents("b", 30))
    texts = [*documents("c", 40), *documents("a", 5)]
    for number, text in enumerate(texts):
        path = folder / "texts" / f"{number // 10}" / f"{number:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [{"name": "lines", "path": str(folder / "lines")}, {"name": "texts", "path": str(folder / "texts")}]


def section(sources: list[dict[str, Any]], **fields: Any) -> CorpusSection:
    """Settings with everything on, and units so small that there are dozens."""
    values: dict[str, Any] = {
        "sources": sources,
        "held_out": 0.1,
        "part_bytes": 20_000,
        "unit_bytes": 6_000,
        "workers": 1,
        "steps": {"repair": True, "redaction": {"replace": ["email"]}},
        "near_duplicates": {"enabled": True},
        "repeated_lines": {"max_documents": 20},
    }
    return CorpusSection.model_validate(values | fields)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
