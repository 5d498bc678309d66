"""What is there and cannot be read ends the stage as loudly as what is missing, and every such message says what is there."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks
from tests.support.raw_text import documents, write_lines
from trainer.config_corpus import CorpusSection
from trainer.config_steps import StepsSection
from trainer.config_tuning import ChatSection
from trainer.corpus.finding import files_at
from trainer.corpus.opening import UnreadableError
from trainer.corpus.phases import Surroundings
from trainer.corpus.preparing import prepare
from trainer.corpus.reading import JSON_LINES
from trainer.errors import CorpusError
from trainer.tokens.chat_encoding import encode_chats

NOBODY = 65534


def section(path: Path, **fields: Any) -> CorpusSection:
    good = next(folder for folder in path.parents if (folder / "good.jsonl").exists()) / "good.jsonl"
    sources = [{"name": "good", "path": str(good)}, {"name": "mine", "path": str(path), **fields}]
    return CorpusSection.model_validate({"sources": sources, "workers": 1, "held_out": 0.2})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of text beside good text."""
    write_lines(tmp_path / "good.jsonl", documents("good", 30))
    write_lines(tmp_path / "raw" / "a.jsonl", documents("a", 10))
    return tmp_path / "raw"


def message_of(raw: Path, **fields: Any) -> str:
    with pytest.raises(CorpusError) as raised:
        prepare(section(raw, **fields), raw.parent / "corpus")
    assert not (raw.parent / "corpus").exists()
    return str(raised.value).replace(f"{raw.parent}/", "")


def link_to_nowhere(raw: Path) -> Path:
    (raw / "b.jsonl").symlink_to("gone.jsonl")
    return raw


def link_to_itself(raw: Path) -> Path:
    (raw / "b.jsonl").symlink_to("b.jsonl")
    return raw


def link_as_the_source(raw: Path) -> Path:
    (raw / "b.jsonl").symlink_to("gone.jsonl")
    return raw / "b.jsonl"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (link_to_nowhere, "it is gone, or a link that leads nowhere; put it back"),
        (link_as_the_source, "it is gone, or a link that leads nowhere; put it back"),
        (link_to_itself, "it is a link that leads to itself; remove it"),
    ],
)
def test_a_link_that_leads_nowhere_is_not_passed_over(raw: Path, make: Callable[[Path], Path], why: str) -> None:
    path = make(raw)
    with pytest.raises(UnreadableError) as raised:
        prepare(section(path).model_copy(update={"sources": section(path).sources[1:]}), raw.parent / "corpus")
    wanted = f"corpus.sources: source mine: {raw}/b.jsonl cannot be read: {why}, or take it out of the source"
    assert str(raised.value) == wanted
    with pytest.raises(UnreadableError, match=r"b\.jsonl cannot be read"):
        files_at(str(path), "chat.conversations: source c", JSON_LINES)


def test_links_by_which_editors_mark_open_files_and_those_of_other_kinds_are_passed_over(raw: Path) -> None:
    (raw / ".#a.jsonl").symlink_to("someone@somewhere.1234:5678")
    (raw / "newest.log").symlink_to("gone.log")
    assert prepare(section(raw), raw.parent / "corpus")[1]


def test_a_file_that_goes_while_text_is_read_ends_the_stage_and_what_is_done_stays(raw: Path, tmp_path: Path) -> None:
    config = section(raw).model_copy(update={"unit_bytes": 100})

    def remove(*_: int) -> None:
        (raw / "a.jsonl").unlink(missing_ok=True)

    with pytest.raises(UnreadableError, match=r"source mine: .*raw/a\.jsonl cannot be read: it is gone"):
        prepare(config, tmp_path / "corpus", Surroundings(remove))
    assert list((tmp_path / "corpus.work" / "units").iterdir()), "the next try goes on with them"


def test_a_folder_that_takes_the_place_of_a_file_ends_the_stage(raw: Path, tmp_path: Path) -> None:
    config = section(raw).model_copy(update={"unit_bytes": 100})

    def replace(*_: int) -> None:
        if (raw / "a.jsonl").is_file():
            (raw / "a.jsonl").unlink()
            (raw / "a.jsonl").mkdir()

    with pytest.raises(UnreadableError, match=r"raw/a\.jsonl cannot be read: it is a folder; give a file"):
        prepare(config, tmp_path / "corpus", Surroundings(replace))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_a_damaged_file_is_still_a_bad_line_with_its_reason(raw: Path, suffix: str) -> None:
    (raw / f"b.jsonl{suffix}").write_bytes(b"this is no archive")
    manifest, _ = prepare(section(raw), raw.parent / "corpus")
    assert manifest.counts["mine"]["bad"] == 1


def test_conversations_that_cannot_be_read_end_the_stage(raw: Path, small_data: Path, tmp_path: Path) -> None:
    (raw / "b.jsonl").symlink_to("gone.jsonl")
    chat = ChatSection.model_validate({"conversations": [{"name": "c", "path": str(raw)}]})
    with pytest.raises(
        CorpusError, match=r"chat\.conversations: source c: .*raw/b\.jsonl cannot be read: it is gone, or a link"
    ):
        encode_chats(chat, 64, "conversations", 512, small_data / "tokenizer", tmp_path / "chat")


# --- rights, as somebody who is not root -----------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are for one user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777)
    shutil.rmtree(folder)


def prepared_by_nobody(folder: str, path: str) -> None:
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    sources = [{"name": "mine", "path": path}]
    try:
        prepare(CorpusSection.model_validate({"sources": sources, "workers": 1}), Path(folder) / "corpus")
    except CorpusError as error:
        print(error)


@pytest.mark.parametrize(
    ("closed", "path", "named"),
    [
        ("raw/a.jsonl", "raw/a.jsonl", "raw/a.jsonl"),
        ("raw/a.jsonl", "raw", "raw/a.jsonl"),
        ("raw", "raw", "raw"),
        ("raw", "raw/a.jsonl", "raw"),
        ("raw", "raw/*.jsonl", "raw"),
        ("raw/deep", "raw", "raw/deep"),
    ],
)
def test_what_may_not_be_read_ends_the_stage_with_its_name(open_folder: Path, closed: str, path: str, named: str) -> None:
    for file in ("a.jsonl", "b.jsonl", "deep/c.jsonl"):
        write_lines(open_folder / "raw" / file, documents(file, 5))
    (open_folder / closed).chmod(0)
    run = ranks.start(prepared_by_nobody, (str(open_folder), str(open_folder / path)), open_folder / "output")
    assert run.wait() == [0], run.text()
    wanted = f"corpus.sources: source mine: {open_folder}/{named} cannot be read: permission denied; let this user read it"
    assert wanted in run.text()


# --- what is there instead -------------------------------------------------------------------------------------------


def test_a_file_that_is_not_read_is_told_from_one_that_is_not_there(raw: Path) -> None:
    (raw / "a.jsonl").unlink()
    assert message_of(raw).startswith(
        "corpus.sources: source mine: no file is in the folder raw; give a file, folder or glob of"
    )
    (raw / "a.csv").write_text("a,b\n")
    assert message_of(raw / "a.csv").startswith(
        "corpus.sources: source mine: a.csv is there, but is of no kind that is read (.csv); set the source's format (such as "
        "format: text), or give a file, folder or glob of .jsonl, .ndjson"
    )
    (raw / "README").write_text("x")
    assert (
        "none of the 2 files at raw is of a kind that is read (names without an ending, .csv); set the source's"
        in message_of(raw)
    )
    assert "no file at gone.jsonl; give" in message_of(raw / "gone.jsonl")
    assert "no file at *.md; give" in message_of(raw / "*.md")
    assert "no file at a\0b; give" in message_of(raw / "a\0b")


def test_nothing_to_train_on_says_of_each_source_why(raw: Path) -> None:
    (raw.parent / "good.jsonl").write_bytes(b"")
    (raw / "a.jsonl").rename(raw / "a.jsonl.gz")
    assert message_of(raw) == (
        "corpus: nothing is left to train on: source good: its files are empty; source mine: 1 could not be read, the first is "
        "raw/a.jsonl.gz:0: the file breaks off or is damaged: Not a gzipped file (b'{\"'); replace these files, or remove "
        "their sources"
    )


def test_nothing_to_train_on_says_which_rules_left_documents_out(raw: Path) -> None:
    write_lines(raw.parent / "good.jsonl", ["short", "tiny"])
    write_lines(raw / "a.jsonl", ["My number is 11010519491231002X.", "x"])
    config = section(raw).model_copy(update={"steps": StepsSection.model_validate({"redaction": {"drop": ["identity"]}})})
    with pytest.raises(CorpusError) as raised:
        prepare(config, raw.parent / "corpus")
    assert str(raised.value) == (
        "corpus: nothing is left to train on: source good: 2 documents read: 2 too_short; source mine: 2 documents read: "
        "1 redaction.identity, 1 too_short; change the rules that left them out, or add text"
    )


def test_conversations_of_which_none_is_left_say_why(small_data: Path, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "why " * 100}, {"role": "assistant", "content": "because"}]
    (tmp_path / "c.jsonl").write_text(json.dumps({"conversations": asked}) + "\n{}\n", encoding="utf-8")
    chat = ChatSection.model_validate({"conversations": [{"name": "c", "path": str(tmp_path / "c.jsonl")}]})
    with pytest.raises(CorpusError) as raised:
        encode_chats(chat, 64, "conversations", 512, small_data / "tokenizer", tmp_path / "chat")
    assert str(raised.value) == (
        "chat.conversations: nothing is left to train on: source c: 1 rows read: 1 too_long; 1 lines could not be read; "
        "raise chat.row_tokens 64, or add rows"
    )
