"""The tasks in the box: which of four definitions is a word's? Made from the WordNet pages in the box, always the same bytes.

    python -m trainer.evaluation.wordnet_tasks trainer/evaluation/box

    wordnet-choice.jsonl        four definitions of one part of speech: the model must know the word, or guess it from its parts
    wordnet-word-class.jsonl    one definition of each part of speech: the model must know how each is defined. A model of a
                                million parameters learns this one, which tells its first steps from guessing
    wordnet-kind.jsonl          in form chat: is it an act, an animal ...? From the dialogs in the box that sft holds out

Only pages that every run with `corpus.held_out` 0.02 or more holds out are used, for right and wrong choices alike, so that
none of the four was trained on. A word that also stands in the head of another page's line is left out with its senses,
and so is a definition that another page gives to another word.
Wrong choices are about as long as the right one. The question is the beginning of a dictionary line, as the model has seen
many: no instruction needs to be understood. The third task's questions are those that every run with `chat.held_out` 0.05 or
more holds out.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config import CorpusSection, SourceSection
from trainer.config_tuning import ChatSourceSection
from trainer.corpus.normalising import fingerprint, is_held_out, normalise
from trainer.corpus.reading import JSON_LINES, Document, files_at, read_source
from trainer.files import write_file
from trainer.tokens.chat_encoding import question_fingerprint, split_of
from trainer.tokens.chat_files import ChatLine, Conversation, read_chat_file

HELD_OUT = 0.02
"""The default of `corpus.held_out`: a page that is held out at a share is held out at any larger one."""
CHAT_HELD_OUT = 0.05
"""The default of `chat.held_out`."""
PARTS_OF_SPEECH = ("noun", "verb", "adjective", "adverb")
NUM_CHOICES = 4
MIN_GLOSS_CHARS = 16
NEAREST = 12
"""Wrong choices are drawn from so many definitions of the most similar length."""

_LINE = re.compile(r"(?P<word>[^(]+) \((?P<part>noun|verb|adjective|adverb)(?:; also (?P<others>.+?))?\): (?P<gloss>.+)")
_KINDS_NAMED = re.compile(r'What is "[^"]+": (?P<kinds>[^?]+)\?(?: It means: .+)?')


@dataclass(frozen=True, slots=True)
class Sense:
    """One line of a page."""

    words: tuple[str, ...]
    part_of_speech: str
    gloss: str
    """The definition alone, without its examples."""
    document: str
    """Fingerprint of the page, in hexadecimal."""
    held_out: bool


def senses() -> Iterator[Sense]:
    """All lines of the pages in the box."""
    source = SourceSection(name="wordnet", path="box:wordnet-glosses.jsonl.zst")
    for page in read_source(source, CorpusSection()):
        assert isinstance(page, Document), page
        text = normalise(page.text)
        name = fingerprint(text)
        for line in text.splitlines():
            if match := _LINE.fullmatch(line):
                others = (match["others"] or "").split(", ")
                words = tuple(word for word in (match["word"], *others) if word)
                gloss = re.split(r'[;:,]? *"', match["gloss"])[0].strip(" ;:,")
                yield Sense(words, match["part"], gloss, name.hex(), is_held_out(name, HELD_OUT))


def tasks() -> dict[str, str]:
    """File names and content. Which of a word's senses is asked, the wrong choices and their order are hashes of the words."""
    everything = list(senses())
    trained_on = {text for sense in everything if not sense.held_out for text in (sense.gloss, *_folded(sense.words))}
    usable = [
        each for each in everything if each.held_out and len(each.gloss) >= MIN_GLOSS_CHARS and each.gloss not in trained_on
    ]
    by_word: dict[str, list[Sense]] = {}
    for sense in usable:
        if trained_on.isdisjoint(_folded(sense.words)):
            by_word.setdefault(sense.words[0].casefold(), []).append(sense)
    asked = [min(several, key=lambda sense: _number(sense.gloss)) for several in by_word.values()]
    made = {"wordnet-choice.jsonl": _of_one_class, "wordnet-word-class.jsonl": _of_each_class}
    definitions = {
        name: "".join(_line(number, sense, wrong(sense, usable)) for number, sense in enumerate(asked))
        for name, wrong in made.items()
    }
    return definitions | {"wordnet-kind.jsonl": "".join(_kinds())}


def _folded(words: Sequence[str]) -> list[str]:
    return [word.casefold() for word in words]


def _of_one_class(sense: Sense, usable: Sequence[Sense]) -> list[str]:
    """Definitions of other words of the same part of speech."""
    return _similar(sense, [other for other in usable if other.part_of_speech == sense.part_of_speech])[: NUM_CHOICES - 1]


def _of_each_class(sense: Sense, usable: Sequence[Sense]) -> list[str]:
    """A definition of each other part of speech."""
    classes = [each for each in PARTS_OF_SPEECH if each != sense.part_of_speech]
    return [_similar(sense, [other for other in usable if other.part_of_speech == each])[0] for each in classes]


def _similar(sense: Sense, others: Sequence[Sense]) -> list[str]:
    """The definitions of the most similar length, in an order drawn by lot."""
    glosses = {other.gloss for other in others if not set(other.words) & set(sense.words)} - {sense.gloss}
    nearest = sorted(glosses, key=lambda gloss: (abs(len(gloss) - len(sense.gloss)), gloss))[:NEAREST]
    return sorted(nearest, key=lambda gloss: _number(sense.words[0], gloss))


def _line(number: int, sense: Sense, wrong: Sequence[str]) -> str:
    """An item. The right answer takes each place in turn, so that always the same place is right as often as guessing."""
    place = number % NUM_CHOICES
    choices = [*wrong[:place], sense.gloss, *wrong[place:]]
    item = {"question": f"{sense.words[0]} ({sense.part_of_speech}):", "choices": choices, "answer": place}
    return json.dumps(item | {"document": sense.document}, ensure_ascii=False) + "\n"


def _kinds() -> Iterator[str]:
    """Questions of the dialogs that name four kinds of things, with the answers as the dialogs give them."""
    source = ChatSourceSection(name="dialogs", path="box:wordnet-dialogs.jsonl.zst")
    (file,) = files_at(source.path, source.name, JSON_LINES)
    for line in read_chat_file(source.name, file, "conversations"):
        assert isinstance(line, ChatLine), line
        assert isinstance(line.row, Conversation)
        asked, answered = line.row.conversations
        named = _KINDS_NAMED.fullmatch(asked.content)
        if named and split_of(line.row, CHAT_HELD_OUT) == "held_out":
            choices = [f"{kind[0].upper()}{kind[1:]}." for kind in re.split(", | or ", named["kinds"])]
            item = {"question": asked.content, "choices": choices, "answer": choices.index(answered.content)}
            yield json.dumps(item | {"document": question_fingerprint(line.row).hex()}, ensure_ascii=False) + "\n"


def _number(*parts: str) -> int:
    """A number that looks drawn by lot and is always the same."""
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:8], "big")


if __name__ == "__main__":
    for name, content in tasks().items():
        write_file(Path(sys.argv[1]) / name, content.encode())
