"""What a start costs: every pod and every restart imports it anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ranks
from tests.support.data import write_config

TRAIN = """
import sys
from trainer.cli import main
try:
    main(["pretrain", "--config", sys.argv[1]])
except SystemExit as end:
    assert not end.code, end.code
assert "torch._dynamo" not in sys.modules
print("without the compiler")
"""


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_that_is_not_compiled_never_imports_torchs_compiler(world_size: int, small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=4)
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
    processes = []
    for rank in range(world_size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} if world_size > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **place}
        # not forked from the tests' server of processes, which has imported everything
        command = [sys.executable, "-c", TRAIN, str(config)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for process in processes:
        said, _ = process.communicate(timeout=150)
        assert process.returncode == 0, said
        assert "without the compiler" in said
