"""datatrove's executor runs the corpus steps (`make test-datatrove`): the same documents with the same bytes as `prepare`."""

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.box import box, manuals
from trainer.config_corpus import CorpusSection
from trainer.corpus.preparing import prepare
from trainer.corpus.store import read_documents

pytestmark = [pytest.mark.datatrove, pytest.mark.timeout(300)]

PYTHON = Path(os.environ.get("DATATROVE_PYTHON", ".venv-datatrove/bin/python")).absolute()
STEPS: dict[str, Any] = {
    "repair": True,
    "language": {"identify": True, "keep": ["en", "zh"]},
    "quality": {"english": "fineweb", "chinese": "web"},
    "harmful": {"use_default": True},
    "redaction": {"replace": ["email", "ip", "phone", "identity", "card", "secret"]},
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of pages, glosses and poems, some in mojibake, some in another language, none twice."""
    folder = tmp_path_factory.mktemp("raw")
    texts = [*manuals()[:60], *box("wordnet-glosses")[:60], *box("chinese-poetry")[:60]]
    texts += [text.encode().decode("cp1252", "ignore") for text in box("wordnet-glosses")[60:70]]
    texts += [f"Numéro {n} : ce texte est écrit en français, et il n'a rien à faire dans ce corpus anglais." for n in range(9)]
    for name, part in (("first", texts[::2]), ("second", texts[1::2])):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(("executor", "tasks"), [("local", 1), ("local", 2), ("ray", 2)])
def test_documents_come_out_as_prepare_writes_them(raw: Path, tmp_path: Path, executor: str, tasks: int) -> None:
    assert PYTHON.exists(), f"{PYTHON}: datatrove's environment is not there; `make test-datatrove` makes it"
    source = {"name": "raw", "path": str(raw)}
    section = CorpusSection.model_validate({"sources": [source], "steps": STEPS, "max_bad_lines": 0})
    manifest, _ = prepare(section, tmp_path / "corpus")
    wanted = sorted(doc.text for split in ("train", "held_out") for doc in read_documents(tmp_path / "corpus", split))  # type: ignore[arg-type]

    config = tmp_path / "section.json"
    config.write_text(section.model_dump_json())
    words = [PYTHON, "-m", "tests.corpus.datatrove_run", config, raw, tmp_path / "out", tasks, executor]
    quiet = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=240, env=quiet, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted((tmp_path / "out" / "texts").iterdir())
    assert len(files) == tasks
    records = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert sorted(record["text"] for record in records) == wanted

    counts = manifest.counts["raw"]
    assert 0 < counts["filtered"] < counts["read"]
    (ours,) = [each for each in json.loads((tmp_path / "out" / "logs" / "stats.json").read_text()) if "CLEAN" in each["name"]]
    told = {key: value["total"] if isinstance(value, dict) else value for key, value in ours["stats"].items()}
    assert told["total"] == counts["read"]
    assert told["dropped"] == counts["filtered"] + counts["too_short"]
    assert any(record["metadata"]["changes"] for record in records)
