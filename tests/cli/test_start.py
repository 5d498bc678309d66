"""What a start costs: every pod and every restart imports it anew."""

import sys
from pathlib import Path

import pytest

from tests.support import ranks
from tests.support.data import write_config


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_that_is_not_compiled_never_imports_torchs_compiler(world_size: int, small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=4)
    started = ranks.start(_train, [str(config)], tmp_path, world_size)
    assert started.wait() == [0] * world_size, started.text()
    assert started.text().count("without the compiler") == world_size


def _train(config: str) -> None:
    from trainer.cli import main

    with pytest.raises(SystemExit) as end:
        main(["pretrain", "--config", config])
    assert not end.value.code
    assert "torch._dynamo" not in sys.modules
    print("trained without the compiler")
