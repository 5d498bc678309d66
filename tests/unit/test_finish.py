"""When a run is finished, and when it is not any more."""

from pathlib import Path

import pytest

from tests.support.data import SMALL, load_config_values
from trainer.elastic import finish
from trainer.errors import BudgetError
from trainer.run_folder import RunFolder


def test_a_run_is_finished_until_its_config_asks_for_other_results(tmp_path: Path) -> None:
    values = SMALL | {"run_dir": str(tmp_path / "run")}
    config = load_config_values(values)
    folder = RunFolder.of(config)
    assert not finish.is_finished(config, folder)
    finish.mark_finished(config, folder)
    finish.wait_until_finished(config, folder)
    elsewhere = load_config_values(values | {"tracking": {"log_every_steps": 7}, "collective_timeout_s": 7})
    assert finish.is_finished(elsewhere, folder)
    for change in ({"seed": 2}, {"generate": {"prompts": ["Once"]}}, {"stages": ["pretrain"]}):
        assert not finish.is_finished(load_config_values(values | change), folder), change


def test_waiting_for_the_first_process_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "WAIT_DEADLINE_S", 0.0)
    config = load_config_values(SMALL | {"run_dir": str(tmp_path / "run")})
    with pytest.raises(BudgetError, match="FINISHED did not appear within 0 s; is the first process gone"):
        finish.wait_until_finished(config, RunFolder.of(config), sleep=lambda _: None)
