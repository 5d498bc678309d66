"""The configured steps in their order. The one place of this package that reads files: word lists and evaluation sets.

    repair -> language -> lines -> quality -> harmful -> redaction -> decontamination

What is off makes no step, so a config without steps needs none of the packages that they are built on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard

from trainer.config_steps import QualitySection, StepsSection
from trainer.corpus.steps.decontaminate import Decontaminate, passages_of, texts_of
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.corpus.steps.harmful import DEFAULT_WORDS, DropHarmful, words_of
from trainer.corpus.steps.language import Identify
from trainer.corpus.steps.quality_chinese import chinese_lines, judge_chinese
from trainer.corpus.steps.quality_english import english_lines, judge_english
from trainer.corpus.steps.redaction import Redact
from trainer.corpus.steps.repair import Repair
from trainer.errors import CorpusError

BOX = Path(__file__).parent.parent / "box"
_TASKS = Path(__file__).parents[2] / "evaluation" / "box"


class Step(Protocol):
    """Something done to one document."""

    @property
    def name(self) -> str:
        """The step's name in reports."""

    def __call__(self, document: Draft) -> Draft | Dropped:
        """The document after this step, or why it is left out."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Removes lines: C4's rules for English, boilerplate for Chinese."""

    section: QualitySection
    name: str = "lines"

    def __call__(self, document: Draft) -> Draft | Dropped:
        if document.language == "en" and self.section.english in ("c4", "fineweb"):
            text, removed = english_lines(document.text, self.section)
        elif document.language == "zh" and self.section.chinese != "none":
            text, removed = chinese_lines(document.text, self.section)
        else:
            return document
        if text == document.text:
            return document
        return Draft(text, document.language, document.changes + tuple(sorted(removed.items())))


@dataclass(frozen=True, slots=True)
class Quality:
    """Drops documents by the rules of their language; other languages pass."""

    section: QualitySection
    name: str = "quality"

    def __call__(self, document: Draft) -> Draft | Dropped:
        fate = None
        if document.language == "en" and self.section.english != "none":
            fate = judge_english(document.text, self.section)
        elif document.language == "zh" and self.section.chinese != "none":
            fate = judge_chinese(document.text, self.section)
        return fate or document


def steps_of(section: StepsSection, source_language: str) -> tuple[Step, ...]:
    """The steps for a source in this language, in order.

    Raises CorpusError for a list or evaluation file that cannot be read, MissingDependencyError at the first document.
    """
    steps: list[Step] = []
    languages = {"en", "zh"} if section.language.identify else {source_language}
    judged = {language for language, preset in _presets(section.quality) if preset != "none"} & languages
    if section.repair:
        steps.append(Repair())
    if section.language.identify:
        steps.append(Identify(section.language))
    if ("en" in judged and section.quality.english != "gopher") or ("zh" in judged and section.quality.han.boilerplate):
        steps.append(Lines(section.quality))
    if judged:
        steps.append(Quality(section.quality))
    if section.harmful.use_default or section.harmful.files:
        words = [word for path in section.harmful.files for word in words_of(read_text(path))]
        steps.append(DropHarmful(section.harmful, (*(DEFAULT_WORDS if section.harmful.use_default else ()), *words)))
    if section.redaction.replace or section.redaction.drop or section.redaction.urls != "keep":
        steps.append(Redact(section.redaction))
    if section.decontamination.files:
        steps.append(Decontaminate(passages_of(_evaluation_texts(section.decontamination.files), section.decontamination)))
    return tuple(steps)


def _presets(section: QualitySection) -> tuple[tuple[str, str], ...]:
    return ("en", section.english), ("zh", section.chinese)


def input_files(section: StepsSection) -> tuple[Path, ...]:
    """The files whose content determines what the steps do: part of a corpus' identity, as its sources are."""
    return tuple(_path(path) for path in (*section.harmful.files, *section.decontamination.files))


def _evaluation_texts(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        try:
            yield from texts_of(read_text(path), is_json=".jsonl" in Path(path).name)
        except ValueError as error:
            raise CorpusError(f"{path}: not JSON lines ({error}); name a text file otherwise") from None


def read_text(path: str) -> str:
    """A list's or evaluation file's text; `.zst` is unpacked, `box:NAME` comes with the package. Raises CorpusError."""
    file = _path(path)
    try:
        content = file.read_bytes()
        if file.suffix == ".zst":
            content = zstandard.ZstdDecompressor().stream_reader(content).read()
        return content.decode("utf-8")
    except (OSError, zstandard.ZstdError) as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 (byte {error.start})") from None


def _path(path: str) -> Path:
    if not path.startswith("box:"):
        return Path(path)
    name = path.removeprefix("box:")
    return _TASKS / name if (_TASKS / name).is_file() else BOX / name
