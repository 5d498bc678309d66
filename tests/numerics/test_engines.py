"""One config key chooses the engine: the losses, the rows and the checkpoints do not change.

A test that compares engines runs them all in one set of processes, one after another, each a whole command with its own group.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import ranks, runs
from tests.support.data import write_config

pytestmark = pytest.mark.timeout(400)

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"engine__kind": "fsdp"},
    **{f"zero-{stage}": {"engine__kind": "deepspeed", "engine__deepspeed": {"zero_stage": stage}} for stage in (0, 1, 2, 3)},
}
STEPS, SAVED = 20, 6


def _train_in_turn(folder: str, *configs: str) -> None:
    """Several commands in one process, one after another. Each meets at a port of its own, as the last one's may linger; the
    first process chooses it when it is about to listen, as a port chosen long before may be taken by then.
    """
    import os

    from trainer.cli import main

    for number, config in enumerate(configs):
        if os.environ.get("WORLD_SIZE"):
            os.environ["MASTER_PORT"] = ranks.agreed_port(Path(folder) / f"port-{number}", os.environ["RANK"] == "0")
        with pytest.raises(SystemExit) as ended:
            main(["pretrain", "--config", config])
        assert ended.value.code == 0


def train_in_turn(configs: Sequence[Path], folder: Path, world_size: int) -> None:
    meeting = Path(tempfile.mkdtemp(dir=folder))
    processes = ranks.start(_train_in_turn, [str(meeting), *map(str, configs)], folder, world_size)
    codes = processes.wait(deadline_s=330)
    assert codes == [0] * world_size, processes.text()


def configure(folder: Path, data: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    # AdamW, which every engine has
    steps = {"pretrain__steps": STEPS, "pretrain__global_batch": 10, "checkpoint__every_steps": SAVED}
    return write_config(folder / "config.yaml", data, **(steps | changes))


@pytest.fixture(scope="module")
def alone(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps in a single process by ddp: five micro-batches a step, so two processes have uneven shares."""
    folder = tmp_path_factory.mktemp("alone")
    train_in_turn([configure(folder, small_data)], folder, 1)
    return folder / "run"


@pytest.mark.engines
def test_every_engine_loses_alike_on_the_same_rows(alone: Path, small_data: Path, tmp_path: Path) -> None:
    configs = [configure(tmp_path / name, small_data, **changes) for name, changes in ENGINES.items()]
    train_in_turn(configs, tmp_path, 2)
    wanted = runs.losses(alone)
    assert len(wanted) == STEPS
    for name in ENGINES:
        run = tmp_path / name / "run"
        assert runs.losses(run) == pytest.approx(wanted, abs=1e-5), name
        assert runs.rows_by_step(run) == runs.rows_by_step(alone), name
        norms = {event["step"]: event["grad_norm"] for event in runs.events(run, "steps_done")}
        assert norms == pytest.approx({e["step"]: e["grad_norm"] for e in runs.events(alone, "steps_done")}, abs=1e-4), name
        bits = runs.events(run, "validated")[-1]["bits_per_byte"]
        assert bits == pytest.approx(runs.events(alone, "validated")[-1]["bits_per_byte"], abs=1e-5), name


@pytest.mark.engines
def test_in_bf16_every_engine_trains_the_model_that_ddp_trains(small_data: Path, tmp_path: Path) -> None:
    configs = [configure(tmp_path / name, small_data, precision="bf16", **changes) for name, changes in ENGINES.items()]
    train_in_turn(configs, tmp_path, 2)
    wanted, norms = (figures_of(tmp_path / "ddp" / "run", name) for name in ("loss", "grad_norm"))
    assert len(wanted) == STEPS
    for name in ENGINES:
        run = tmp_path / name / "run"
        # ZeRO sums a gradient's parts in another order, and bf16 then rounds some weights to another neighbour
        most_steps, later = (STEPS, 1e-5) if name in ("fsdp", "zero-0") else (2, 2e-3)
        for step, loss in figures_of(run, "loss").items():
            assert loss == pytest.approx(wanted[step], abs=1e-6 if step <= most_steps else later), (name, step)
        for step in range(1, most_steps + 1):
            assert figures_of(run, "grad_norm")[step] == pytest.approx(norms[step], rel=1e-5), (name, step)


def figures_of(run: Path, name: str) -> dict[int, float]:
    """A figure of each step."""
    return {event["step"]: event[name] for event in runs.events(run, "steps_done")}


@pytest.mark.engines
@pytest.mark.parametrize("world_size", [1, 3])
def test_sharded_engines_run_alone_and_in_worlds_that_divide_nothing(
    alone: Path, small_data: Path, tmp_path: Path, world_size: int
) -> None:
    names = ["fsdp", "zero-2", "zero-3"]
    configs = [configure(tmp_path / name, small_data, **ENGINES[name], pretrain__steps=6) for name in names]
    train_in_turn(configs, tmp_path, world_size)
    wanted = {step: loss for step, loss in runs.losses(alone).items() if step <= 2}  # the schedule differs later on
    for name in names:
        found = runs.losses(tmp_path / name / "run")
        assert {step: found[step] for step in wanted} == pytest.approx(wanted, abs=1e-5), name


@pytest.mark.engines
@pytest.mark.parametrize("saved_by", ENGINES)
def test_each_engines_checkpoint_resumes_under_each_other(saved_by: str, alone: Path, small_data: Path, tmp_path: Path) -> None:
    begun = configure(tmp_path / "begun", small_data, **ENGINES[saved_by], pretrain__stop_after=SAVED)
    train_in_turn([begun], tmp_path, 2)
    configs = []
    for name, changes in ENGINES.items():
        configs.append(configure(tmp_path / name, small_data, **changes, pretrain__stop_after=SAVED + 4))
        shutil.copytree(tmp_path / "begun" / "run" / "checkpoints", tmp_path / name / "run" / "checkpoints")
    train_in_turn(configs, tmp_path, 2)
    wanted = {step: loss for step, loss in runs.losses(alone).items() if SAVED < step <= SAVED + 4}
    for name in ENGINES:
        run = tmp_path / name / "run"
        assert runs.events(run, "training_started")[-1]["resumed_from"].endswith(f"{SAVED:08d}")
        assert runs.losses(run) == pytest.approx(wanted, abs=1e-5), (saved_by, name)


def test_muon_trains_alike_by_ddp_and_fsdp_and_its_checkpoint_goes_both_ways(small_data: Path, tmp_path: Path) -> None:
    muon = {"pretrain__optimizer": {"kind": "muon", "lr": 0.01}, "checkpoint__keep": 9}
    ddp = configure(tmp_path / "ddp", small_data, **muon)
    fsdp = configure(tmp_path / "fsdp", small_data, **ENGINES["fsdp"], **muon)
    train_in_turn([ddp, fsdp], tmp_path, 2)
    wanted = runs.losses(tmp_path / "ddp" / "run")
    assert runs.losses(tmp_path / "fsdp" / "run") == pytest.approx(wanted, abs=1e-5)
    others = []
    for name, changes in (("ddp", ENGINES["fsdp"]), ("fsdp", ENGINES["ddp"])):
        others.append(configure(tmp_path / f"after-{name}", small_data, **changes, **muon))
        checkpoint = Path("run") / "checkpoints" / f"step-{2 * SAVED:08d}"
        shutil.copytree(tmp_path / name / checkpoint, tmp_path / f"after-{name}" / checkpoint)
    train_in_turn(others, tmp_path, 2)
    for name in ("ddp", "fsdp"):
        found = runs.losses(tmp_path / f"after-{name}" / "run")
        assert found == pytest.approx({s: loss for s, loss in wanted.items() if s > 2 * SAVED}, abs=1e-5)


def _train_with_nan(config: str) -> None:
    """One rank's loss is not a number in one micro-batch of step 3."""
    import math
    import os

    import torch

    from trainer.cli import main
    from trainer.training.pretrain import NextTokenLoss

    original, calls = NextTokenLoss.forward, 0

    def forward(self: NextTokenLoss, batch: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()  # validation comes before the first step
        loss = original(self, batch)
        return loss * math.nan if calls == 2 * 2 + 1 and os.environ["RANK"] == "1" else loss

    NextTokenLoss.forward = forward  # type: ignore[method-assign]
    main(["pretrain", "--config", config])


@pytest.mark.engines
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "ddp"])
def test_a_step_that_is_not_finite_is_skipped_by_every_engine(engine: str, small_data: Path, tmp_path: Path) -> None:
    changes = {"pretrain__steps": 5, "pretrain__global_batch": 8} | ENGINES[engine]
    config = configure(tmp_path / "nan", small_data, **changes)
    processes = ranks.start(_train_with_nan, (str(config),), tmp_path, 2)
    assert processes.wait() == [0, 0], processes.text()
    run = tmp_path / "nan" / "run"
    assert [event["step"] for event in runs.events(run, "step_skipped")] == [3]
    assert runs.losses(run)[4] < 6.3
    assert runs.state_of(run, 5)[2]["skipped_steps"] == 1


@pytest.mark.engines
@pytest.mark.parametrize("engine", ["fsdp", "zero-3"])
def test_a_signal_to_one_process_of_a_sharded_run_stops_all_with_the_state_saved(
    engine: str, alone: Path, small_data: Path, tmp_path: Path
) -> None:
    import signal

    config = configure(tmp_path / engine, small_data, **ENGINES[engine], pretrain__stop_after=2000, pretrain__steps=2000)
    run = tmp_path / engine / "run"
    processes = ranks.trainer("pretrain", "--config", str(config), folder=tmp_path, world_size=2)
    processes.wait_for(lambda: runs.last_step(run) >= 3)
    processes.signal(signal.SIGTERM, 1)
    assert processes.wait() == [143, 143], processes.text()
    assert runs.newest_step(run) == runs.last_step(run) >= 3
