"""What used to puzzle a newcomer, told so that the way out stands in the line."""

import shutil
from pathlib import Path

import pytest

from tests.support import ranks
from tests.support.data import write_config
from trainer.corpus.finding import ALL_KINDS, files_at
from trainer.errors import CorpusError
from trainer.tracking.progress import byte_progress


def last_line(tmp_path: Path, *arguments: str, code: int = 65) -> str:
    processes = ranks.trainer(*arguments, folder=tmp_path / "outputs")
    assert processes.wait() == [code], processes.text()
    output = processes.outputs[0].read_text()
    assert "Traceback" not in output
    return output.splitlines()[-1]


def test_done_without_checkpoints_says_what_to_remove(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=4)
    ranks.run_trainer("pretrain", "--config", str(config), folder=tmp_path)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run = tmp_path / "run"
    assert last_line(tmp_path, "generate", "--config", str(config), "--prompt", "a") == (
        f"trainer: {run}/DONE says trained, but {run}/checkpoints holds no checkpoint; remove {run}/DONE to train again"
    )


def test_a_corpus_of_which_nothing_can_be_read_names_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"this is no gzip\n" * 10)
    config = write_config(
        tmp_path / "config.yaml", tmp_path / "data", corpus__sources=[{"name": "mine", "path": f"{tmp_path}/a.jsonl.gz"}]
    )
    line = last_line(tmp_path, "prepare", "--config", str(config))
    assert line.startswith("trainer: corpus: nothing is left to train on: source mine: 1 could not be read, the first is ")
    assert f"{tmp_path}/a.jsonl.gz:0: the file breaks off or is damaged" in line


def test_a_file_that_is_there_but_of_another_kind_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    (tmp_path / "empty").mkdir()
    for path, kinds, wanted in (
        (
            tmp_path / "a.csv",
            ALL_KINDS,
            "a.csv is there, but is of no kind that is read (.csv); set the source's format",
        ),
        (tmp_path / "a.csv", (".jsonl",), "a.csv is there, but is of no kind that is read (.csv); give a file, folder or glob"),
        (tmp_path / "empty", (".jsonl",), f"no file is in the folder {tmp_path}/empty; give a file, folder or glob of .jsonl"),
    ):
        with pytest.raises(CorpusError) as raised:
            files_at(str(path), "source a", kinds)
        assert str(raised.value).startswith("source a: ")
        assert wanted in str(raised.value)


def test_progress_is_told_in_a_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    with byte_progress("encode", log_every_s=0.0) as show:
        show(0, 4_000_000)
        show(1_000_000, 4_000_000)
        show(4_000_000, 4_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("encode: 25% of 4.0 MB, ")
    assert line.endswith(" left")
