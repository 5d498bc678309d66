"""The number of processes changes who computes what, never what is computed."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config
from trainer.tokens.shards import read_manifest

FROM, TO = 6, 14


@pytest.fixture(scope="module")
def begun(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps in one process, to be continued."""
    folder = tmp_path_factory.mktemp("begun")
    config = write_config(folder / "config.yaml", small_data, pretrain__steps=TO)
    ranks.run_trainer("pretrain", "--config", str(config), "--set", f"pretrain.stop_after={FROM}", folder=folder)
    return folder / "run"


def go_on(begun: Path, data: Path, folder: Path, world_size: int) -> Path:
    shutil.copytree(begun, folder / "run")
    config = write_config(folder / "config.yaml", data, pretrain__steps=TO)
    ranks.run_trainer("pretrain", "--config", str(config), folder=folder, world_size=world_size)
    return folder / "run"


def test_worlds_of_1_to_4_take_the_same_rows_and_lose_alike_from_one_checkpoint(
    begun: Path, small_data: Path, tmp_path: Path
) -> None:
    runs_by_size = {size: go_on(begun, small_data, tmp_path / str(size), size) for size in (1, 2, 3, 4)}
    alone = runs_by_size[1]
    for size, run in runs_by_size.items():
        assert runs.rows_by_step(run) == runs.rows_by_step(alone), size
        assert len(list((run / "sample_log" / "attempt-0002").iterdir())) == size
        for step in range(1, TO + 1):
            assert runs.losses(run)[step] == pytest.approx(runs.losses(alone)[step], abs=1e-5), (size, step)
        bits = runs.events(run, "validated")[-1]["bits_per_byte"]
        assert bits == pytest.approx(runs.events(alone, "validated")[-1]["bits_per_byte"], abs=1e-5)


def test_an_epoch_with_random_resizes_repeats_and_skips_no_row(small_data: Path, tmp_path: Path) -> None:
    num_rows = read_manifest(small_data / "tokens").splits["train"].rows
    config = write_config(
        tmp_path / "config.yaml",
        small_data,
        pretrain__steps=None,
        pretrain__epochs=1,
        pretrain__global_batch=96,
        pretrain__micro_batch=24,
    )
    random_ = random.Random(7)
    stop_after, size = 0, 0
    while stop_after * 96 < num_rows:
        stop_after += random_.randint(1, 4)
        size = random_.choice([other for other in (1, 2, 3, 4) if other != size])
        setting = f"pretrain.stop_after={stop_after}"
        ranks.run_trainer("pretrain", "--config", str(config), "--set", setting, folder=tmp_path, world_size=size)
    taken = Counter(row for rows in runs.rows_by_step(tmp_path / "run").values() for row in rows)
    assert taken == Counter(range(num_rows))
    assert (tmp_path / "run" / "DONE").exists()
    assert len({event["world_size"] for event in runs.events(tmp_path / "run", "training_started")}) > 2


def test_more_processes_than_micro_batches_are_refused_with_the_way_out(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    refused = ranks.trainer("pretrain", "--config", str(config), folder=tmp_path, world_size=5)
    assert refused.wait() == [65] * 5
    assert "5 processes share 4 micro-batches of a step; start fewer, or lower micro_batch 2" in refused.text()
