"""Runs to export, trained once for all tests of a process."""

from pathlib import Path

import pytest

from tests.support import ranks
from tests.support.data import write_config


@pytest.fixture(scope="session", params=[False, True], ids=["llama", "qwen3"])
def run(request: pytest.FixtureRequest, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config file of a trained run. Its model has ids that the tokenizer has not."""
    folder = tmp_path_factory.mktemp("export")
    shape = {"qk_norm": request.param, "norm_eps": 3e-6, "vocab_size": 520}
    config = write_config(folder / "config.yaml", small_data, **{f"model__{name}": value for name, value in shape.items()})
    ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
    return config
