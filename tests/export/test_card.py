"""The model card names all that a model learned from, in this run and in those before it."""

import json
import re
from pathlib import Path

import pytest

from tests.support import ranks, runs
from tests.support.data import chat_of_box, write_config
from trainer.config_loading import load_config
from trainer.export.exporting import export
from trainer.run_folder import RunFolder


@pytest.fixture(scope="module")
def tuned(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that was tuned from another run's folder, with conversations whose longest rows are longer."""
    folder = tmp_path_factory.mktemp("card")
    base = write_config(folder / "base.yaml", small_data, name="base", run_dir=str(folder / "base"))
    ranks.run_trainer("pretrain", "--config", str(base), folder=folder)
    chat = chat_of_box(small_data).model_dump(mode="json")
    config = write_config(
        folder / "tuned.yaml", small_data, init_from=str(folder / "base"), chat=chat, run_dir=str(folder / "tuned")
    )
    ranks.run_trainer("sft", "--config", str(config), folder=folder)
    return config


def test_it_names_every_source_and_all_tokens_of_every_stage_also_of_the_run_before(tuned: Path, tmp_path: Path) -> None:
    config = load_config(tuned)
    card = (export(config, RunFolder.of(config), tmp_path / "out", "hf", "float32") / "README.md").read_text(encoding="utf-8")
    base, own = tuned.parent / "base", tuned.parent / "tuned"
    seen = [
        runs.events(base, "steps_done", "pretrain")[-1]["tokens_seen"],
        runs.events(own, "steps_done", "sft")[-1]["tokens_seen"],
    ]
    training = card[: card.index("## Held-out figures")]
    rows = [line.split("|") for line in training.splitlines() if line.startswith("|")]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["pretrain"][0].startswith("base (")
    assert cells["pretrain"][1:] == ["12", f"{seen[0]:,}", "64", "poetry, wordnet"]
    assert cells["sft"][1:] == ["12", f"{seen[1]:,}", "160", "dialogs"]
    assert cells["tokens seen in all stages"] == [f"{sum(seen):,}"]
    assert cells["context"][0].startswith("160 tokens")
    assert [line.split("|")[1:3] for line in card.splitlines() if "find out before you publish" in line] == [
        [" pretrain ", " poetry "],
        [" pretrain ", " wordnet "],
        [" sft ", " dialogs "],
    ]


def test_its_lines_of_python_load_the_model_and_talk_to_it(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(tuned)
    out = export(config, RunFolder.of(config), tmp_path / "out", "hf", "float32")
    card = (out / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL)).replace("FOLDER", str(out))
    assert "apply_chat_template" in code
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
    assert json.loads((out / "config.json").read_bytes())["max_position_embeddings"] == 160


def test_a_start_that_is_gone_is_said_and_no_reason_to_refuse(tuned: Path, tmp_path: Path) -> None:
    base = tuned.parent / "base"
    base.rename(tmp_path / "elsewhere")
    try:
        config = load_config(tuned)
        out = export(config, RunFolder.of(config), tmp_path / "out", "hf", "float32")
    finally:
        (tmp_path / "elsewhere").rename(base)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert re.search(
        r"tokens seen in all stages \| [\d,]+ and more: sft started from \.\..*, which is not there any more", card
    )
