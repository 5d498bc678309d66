"""The trainer under DeepSpeed's own launcher, as its users start it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]


def test_the_deepspeed_launcher_trains_by_each_engine(small_data: Path, tmp_path: Path) -> None:
    engines = {"ddp": {}, "deepspeed": {"zero_stage": 2, "offload_optimizer": True}}
    for engine, section in engines.items():
        folder = tmp_path / engine
        folder.mkdir()
        config = write_config(folder / "config.yaml", small_data, engine={"kind": engine, "deepspeed": section})
        port = str(ranks.free_port())
        launcher = Path(sys.executable).with_name("deepspeed")
        command = [launcher, "--master_port", port, "--num_gpus=2", "--module", "trainer", "pretrain", "--config", config]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=190
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        started = runs.events(folder / "run", "training_started")[0]
        assert started["world_size"] == 2
        assert started["engine"].startswith(engine)
    assert runs.losses(tmp_path / "deepspeed" / "run") == pytest.approx(runs.losses(tmp_path / "ddp" / "run"), abs=1e-5)


def test_offloaded_parameters_train_alike(small_data: Path, tmp_path: Path) -> None:
    sections = {
        "kept": {"zero_stage": 3},
        "offloaded": {"zero_stage": 3, "offload_parameters": True, "offload_optimizer": True},
    }
    for name, section in sections.items():
        folder = tmp_path / name
        folder.mkdir()
        config = write_config(folder / "config.yaml", small_data, engine={"kind": "deepspeed", "deepspeed": section})
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder, world_size=2)
    assert runs.losses(tmp_path / "offloaded" / "run") == pytest.approx(runs.losses(tmp_path / "kept" / "run"), abs=1e-5)
