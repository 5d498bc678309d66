"""What only a GPU can show (`make test-gpu`): no host synchronisation inside a step, and the numbers of the CPU."""

from contextlib import closing
from pathlib import Path

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

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_a_step_never_waits_for_the_gpu(small_data: Path, kind: str, attention: str) -> None:
    values = SMALL | {
        "run_dir": str(small_data / "unused"),
        "data_dir": str(small_data),
        "device": "cuda",
        "attention": attention,
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


def test_a_gpu_trains_as_a_cpu_does(small_data: Path, tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        config = write_config(folder / "config.yaml", small_data, device=device, deterministic=False)
        ranks.run_trainer("pretrain", "--config", str(config), folder=folder)
        losses[device] = runs.losses(folder / "run")
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-3)
