"""Adapters: at first they change nothing, they alone are trained and saved, and merged they are the same model."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.support import ranks, runs
from tests.support.data import SMALL, load_config_values, write_config
from tests.support.tuning import pretrained, tuned_from
from trainer.config_loading import load_config
from trainer.config_tuning import LoraSection
from trainer.errors import CheckpointError
from trainer.inference.loading import load_model
from trainer.model.gpt import GPT
from trainer.model.lora import LORA_A, LORA_B, add_adapters, merged_weights
from trainer.run_folder import RunFolder

CPU = torch.device("cpu")
IDS = torch.randint(0, 512, (2, 20), generator=torch.Generator().manual_seed(0))


def model() -> GPT:
    made = GPT(load_config_values(SMALL).model, 160)
    made.init_weights(3)
    return made


def test_adapters_start_as_nothing_and_are_all_that_is_trained() -> None:
    plain, adapted = model(), model()
    add_adapters(adapted, LoraSection(rank=4, targets=("q_proj", "down_proj")), seed=1)
    assert torch.equal(plain(IDS), adapted(IDS))
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained == {f"layers.{n}.{layer}.{part}" for n in (0, 1) for layer in ("self_attn.q_proj", "mlp.down_proj")
                       for part in (LORA_A, LORA_B)}  # fmt: skip
    assert {name for name, _ in plain.named_parameters()} < {name for name, _ in adapted.named_parameters()}


def test_merged_weights_are_the_adapted_model() -> None:
    section = LoraSection(rank=4, alpha=6.0)
    plain, adapted = model(), model()
    add_adapters(adapted, section, seed=1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if name.endswith(LORA_B):
                weight.normal_(0.0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    adapters = {name: weight.detach() for name, weight in adapted.named_parameters() if weight.requires_grad}
    weights = {name: weight.detach() for name, weight in plain.named_parameters()}
    merged = merged_weights(weights, adapters, section)
    before = plain(IDS)
    for name, weight in plain.named_parameters():
        weight.data.copy_(merged[name])
    assert (plain(IDS) - before).abs().max() > 0.05
    torch.testing.assert_close(plain(IDS), adapted(IDS), atol=1e-5, rtol=1e-5)


def test_muon_does_not_move_adapters() -> None:
    with pytest.raises(ValueError, match=r"lora works with optimizer\.kind adamw"):
        load_config_values(SMALL | {"sft": {"lora": {"rank": 2}, "optimizer": {"kind": "muon"}}})


def test_a_run_saves_adapters_alone_and_whoever_loads_it_gets_them_merged(small_data: Path, tmp_path: Path) -> None:
    run = pretrained(small_data, tmp_path / "base")
    folder = tmp_path / "lora"
    config_file = tuned_from(run, small_data, folder, "sft", sft__lora={"rank": 2, "alpha": 4.0})
    ranks.run_trainer("sft", "--config", str(config_file), folder=folder)
    file = folder / "run" / "sft" / "checkpoints" / "step-00000012" / "model.safetensors"
    with safe_open(file, framework="pt") as stored:
        names = list(stored.keys())
    assert len(names) == 2 * 7 * 2
    assert all(name.endswith((LORA_A, LORA_B)) for name in names)
    config = load_config(config_file)
    loaded = load_model(config, RunFolder.of(config), CPU, 64)
    assert (loaded.stage, loaded.step) == ("sft", 12)
    base = load_model(config, RunFolder(run, small_data), CPU, 64, "pretrain")
    assert set(dict(loaded.model.named_parameters())) == set(dict(base.model.named_parameters()))
    assert (loaded.model(IDS) - base.model(IDS)).abs().max() > 1e-4
    # a later stage starts from the merged weights: dpo's first step is undecided, and it saves all weights
    changes = {"init_from": str(folder / "run"), "run_dir": str(folder / "dpo"), "dpo__steps": 2}
    dpo = write_config(folder / "dpo.yaml", small_data, dpo__schedule={"warmup_steps": 1}, **changes)
    ranks.run_trainer("dpo", "--config", str(dpo), folder=folder)
    assert runs.events(folder / "dpo", "steps_done", "dpo")[0]["figures"]["margin"] == 0.0
    (run / "checkpoints" / "step-00000012").rename(run / "checkpoints" / "moved")
    with pytest.raises(CheckpointError, match=r"its adapters belong to .*step-00000012, which is missing"):
        load_model(config, RunFolder.of(config), CPU, 64)
