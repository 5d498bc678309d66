"""What only a GPU can show (`make test-gpu`): no waiting inside a step, a CPU's numbers, exact resumption."""

import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values, write_config
from trainer.run_folder import RunFolder
from trainer.training.assembly import make_model, order_of
from trainer.training.batches import Loader
from trainer.training.engines.ddp import DataParallel
from trainer.training.engines.protocol import Share
from trainer.training.optimizers.update import Rates
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import TrainingData
from trainer.world import World

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    # torch.compile imports modules of torch that use what torch itself deprecates, and looks at gradients that are not there
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]
LARGER_HEADS = {**SMALL["model"], "num_heads": 2, "num_kv_heads": 1}
"""FlexAttention asks for 16 numbers a head."""


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_a_step_never_waits_for_the_gpu(small_data: Path, kind: str, attention: str) -> None:
    values = SMALL | {
        "run_dir": str(small_data / "unused"),
        "data_dir": str(small_data),
        "device": "cuda",
        "attention": attention,
        "model": LARGER_HEADS,
    }
    values |= {"deterministic": False, "pretrain": {**SMALL["pretrain"], "optimizer": {"kind": kind, "lr": 0.01}}}
    config, device = load_config_values(values), torch.device("cuda", 0)
    data = TrainingData.open(config, RunFolder.of(config))
    order = order_of(config.pretrain, config.seed, len(data.train))
    model = make_model(config, device)
    engine = DataParallel(
        NextTokenLoss(model, Numerics.of(config, "bf16", device)), model, config.pretrain, World(), device, torch.bfloat16
    )
    pending = []
    with closing(Loader(data.train, order, World(), device, in_lockstep=False)) as loader:
        for step in range(8):
            if step == 3:  # the first steps allocate and compile
                torch.cuda.set_sync_debug_mode("error")
            engine.start_step()
            loss, targets = torch.zeros((), device=device), 0
            for micro in loader.micro_batches(step):
                part = engine.loss(micro.batch)
                engine.backward(part, last=micro.is_last)
                loss += part.detach()
                targets += micro.batch.num_targets
            pending.append(engine.finish_step(Share(loss, targets), Rates(0.01, 0.1)))
        torch.cuda.set_sync_debug_mode("default")
    assert all(each.read().applied for each in pending)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="eager"),
        pytest.param({"attention": "flex"}, id="flex"),
        pytest.param({"compile": True}, id="compiled"),
        pytest.param({"activation_checkpointing": True}, id="recomputing"),
        pytest.param({"engine": {"kind": "fsdp"}}, id="fsdp"),
    ],
)
def test_a_gpu_trains_as_a_cpu_does(small_data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    losses = {}
    for device, changes in (("cpu", {}), ("cuda", options)):
        folder = tmp_path / device
        folder.mkdir()
        config = write_config(
            folder / "config.yaml", small_data, device=device, deterministic=False, model=LARGER_HEADS, **changes
        )
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
        losses[device] = runs.losses(folder / "run")
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_on_a_gpu_ends_with_the_bits_of_one_that_was_not(small_data: Path, tmp_path: Path, precision: str) -> None:
    pretrain = {**SMALL["pretrain"], "steps": 200}
    ends = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        options = {"device": "cuda", "precision": precision, "deterministic": True, "pretrain": pretrain}
        config = write_config(folder / "config.yaml", small_data, **options)
        if name == "killed":
            killed = ranks.trainer("pretrain", "--config", str(config), folder=folder)
            killed.wait_for(lambda run=folder / "run": runs.newest_step(run) >= 40)  # type: ignore[misc]
            killed.signal(signal.SIGKILL, 0)
            assert killed.wait() == [-signal.SIGKILL]
            assert runs.newest_step(folder / "run") < 200
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
        ends[name] = runs.state_of(folder / "run", 200), runs.losses(folder / "run")
    assert ends["killed"] == ends["whole"]


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "grpo"])
def test_a_gpu_tunes(small_data: Path, tmp_path: Path, stage: str) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, device="cuda", deterministic=False)
    for each in dict.fromkeys(("pretrain", "sft", stage)):
        ranks.run_trainer(each, "--config", str(config), folder=tmp_path)
    assert runs.last_step(tmp_path / "run", stage) == 12
