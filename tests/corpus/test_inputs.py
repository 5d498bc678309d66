"""What is prepared is known again by the content of its raw text: moved or copied it goes on, edited it is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.data import SMALL
from tests.support.raw_text import documents, write_lines
from trainer.config_corpus import CorpusSection
from trainer.corpus.inputs import BLOCK_BYTES, INPUTS
from trainer.corpus.preparing import prepare
from trainer.errors import CorpusError

TEXTS = documents("a", 40)


def section(folder: Path, unit_bytes: int = 5000) -> CorpusSection:
    sources = [{"name": "lines", "path": str(folder / "lines")}, {"name": "texts", "path": str(folder / "texts")}]
    return CorpusSection.model_validate({"sources": sources, "workers": 1, "held_out": 0.2, "unit_bytes": unit_bytes})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two sources, of which one has a file of several units."""
    write_lines(tmp_path / "raw" / "lines" / "a.jsonl", TEXTS)
    write_lines(tmp_path / "raw" / "lines" / "b" / "a.jsonl", TEXTS[:2])
    (tmp_path / "raw" / "texts").mkdir()
    (tmp_path / "raw" / "texts" / "a.txt").write_text("One more text, in a file of its own.\n", encoding="utf-8")
    prepare(section(tmp_path / "raw"), tmp_path / "corpus")
    return tmp_path / "raw"


def found(raw: Path) -> bool:
    """Whether the corpus is taken for what these files give; no units are cut as they were."""
    return prepare(section(raw, unit_bytes=1_000_000), raw.parent / "corpus")[1] is False


def edit(path: Path) -> None:
    """Change one letter, in the middle, at another time."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] = ord("#")
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


def test_moved_text_is_known_again_and_told_once(raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moved = raw.rename(raw.parent / "elsewhere")
    assert found(moved)
    assert capfd.readouterr().err == f"{raw.parent}/corpus: prepared from {raw}, now found at {moved} with equal content\n"
    assert found(moved)
    assert capfd.readouterr().err == ""


def test_copied_text_of_another_time_is_known_again_by_its_content(raw: Path) -> None:
    copy = raw.parent / "copy"
    shutil.copytree(raw, copy, copy_function=shutil.copyfile)
    for file in copy.rglob("*.*"):
        os.utime(file, ns=(1, 1))
    assert found(copy)
    assert all(record["changed_ns"] == 1 for record in json.loads((raw.parent / "corpus" / INPUTS).read_bytes())["files"])
    edit(copy / "lines" / "a.jsonl")
    os.utime(copy / "lines" / "a.jsonl", ns=(2, 2))
    with pytest.raises(CorpusError, match=r"copy/lines/a\.jsonl changed since"):
        found(copy)


@pytest.mark.parametrize("name", ["lines/a.jsonl", "lines/b/a.jsonl", "texts/a.txt"])
def test_an_edit_that_keeps_the_size_is_refused(raw: Path, name: str) -> None:
    edit(raw / name)
    with pytest.raises(CorpusError, match=rf"made from other input \({raw}/{name} changed since\); choose another run_dir"):
        found(raw)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "new": (lambda raw: (raw / "texts" / "b.txt").write_text("new"), "texts/b.txt is new"),
    "gone": (lambda raw: (raw / "lines" / "b" / "a.jsonl").unlink(), "a.jsonl is gone"),
    "swapped": (lambda raw: (raw / "texts" / "a.txt").rename(raw / "texts" / "b.txt"), "b.txt is new, .*a.txt is gone"),
    "longer": (lambda raw: (raw / "texts" / "a.txt").write_text("longer " * 20), "texts/a.txt changed since"),
}


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("name", list(CHANGES))
def test_every_other_change_is_named(raw: Path, name: str, is_older: bool) -> None:
    if is_older:
        (raw.parent / "corpus" / INPUTS).unlink()
    change, words = CHANGES[name]
    change(raw)
    with pytest.raises(CorpusError, match=words):
        found(raw)


def test_the_hash_of_a_file_of_many_blocks_does_not_depend_on_how_it_was_cut(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw" / "lines" / "a.jsonl", [f"{number} " + "x" * 100_000 for number in range(130)])
    write_lines(tmp_path / "raw" / "texts" / "a.jsonl", ["a text of its own"])
    written = []
    for number, unit_bytes in enumerate((1_000_003, 5_000_000, 100_000_000)):
        corpus = tmp_path / f"corpus-{number}"
        prepare(section(tmp_path / "raw", unit_bytes), corpus)
        written.append((corpus / INPUTS).read_bytes())
    assert written[0] == written[1] == written[2]
    data = (tmp_path / "raw" / "lines" / "a.jsonl").read_bytes()
    assert len(data) > 3 * BLOCK_BYTES
    hashes = [hashlib.sha256(data[at : at + BLOCK_BYTES]).hexdigest() for at in range(0, len(data), BLOCK_BYTES)]
    assert json.loads(written[0])["files"][0]["blocks_sha256"] == hashlib.sha256("".join(hashes).encode()).hexdigest()


def test_what_an_earlier_version_prepared_is_done_before_and_after_a_move(raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (raw.parent / "corpus" / INPUTS).unlink()  # the only file that is new
    assert found(raw)
    assert capfd.readouterr().err == ""
    moved = raw.rename(raw.parent / "elsewhere")
    assert found(moved)
    assert "now found at" in capfd.readouterr().err


def test_an_unfinished_work_folder_of_an_earlier_version_is_gone_on_with(raw: Path) -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    from trainer.corpus.phases import Surroundings

    corpus = raw.parent / "other"
    with pytest.raises(KeyboardInterrupt):
        prepare(section(raw), corpus, Surroundings(stop))
    (unit,) = (raw.parent / "other.work" / "units").glob("*/unit.json")
    values = json.loads(unit.read_bytes())
    assert values.pop("blocks")
    unit.write_text(json.dumps(values), encoding="utf-8")
    prepare(section(raw), corpus)
    assert prepare(section(raw), corpus)[1] is False


def test_a_project_folder_that_is_moved_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_lines(folder / "raw.jsonl", TEXTS)
    asked = [{"role": "user", "content": "%d + 2?"}, {"role": "assistant", "content": "4"}]
    (folder / "chat.jsonl").write_text(
        "".join(json.dumps({"conversations": asked}).replace("%d", str(n)) + "\n" for n in range(9)), encoding="utf-8"
    )
    values = SMALL | {
        "stages": ["prepare", "tokenizer", "encode"],
        "run_dir": "runs/it",
        "corpus": {"sources": [{"name": "a", "path": "raw.jsonl"}], "held_out": 0.2},
        "chat": {"conversations": [{"name": "c", "path": "chat.jsonl"}], "row_tokens": 160, "held_out": 0.1},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for name in ("project", "moved"):
        moved = folder.rename(tmp_path / name)
        command = [sys.executable, "-m", "trainer", "run", "--config", "run.yaml"]
        ended = subprocess.run(command, cwd=moved, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
    assert f"prepared from {tmp_path}/project, now found at {tmp_path}/moved with equal content" in ended.stderr
    told = [json.loads(line) for line in (moved / "runs" / "it" / "events.jsonl").read_text().splitlines()]
    assert [each["skipped"] for each in told if each["event"] == "stage_finished"] == [False, False, False, True, True, True]
