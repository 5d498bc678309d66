"""`trainer plan`: hand-computed costs, the direction of every effect, published figures within the band that is claimed."""

import json
from dataclasses import replace

import pytest
import torch

from trainer.cli import main
from trainer.config import ModelSection
from trainer.config_loading import load_config, preset_names
from trainer.errors import UsageError
from trainer.model.gpt import GPT
from trainer.planning.hardware import GPUS, LINKS, Cluster, gpu_named, link_named
from trainer.planning.job import Job
from trainer.planning.measured import Comparison, compare
from trainer.planning.memory import DDP, ENGINES, FSDP, ZERO, layer_bytes_per_token, memory_of
from trainer.planning.plan import best_micro_batch, make_plan, tokens_per_s
from trainer.planning.speed import ATTAINABLE, micro_batch_s, step_time

SMALL = Job.of(load_config(None, preset="minimind-26m"))
LARGE = Job.of(load_config(None, ["activation_checkpointing=false"], "gpt-1b"))


def cluster(num_gpus: int, link: str = "100GbE", gpus_per_node: int = 8, gpu: str = "h100") -> Cluster:
    return Cluster(GPUS[gpu], num_gpus, gpus_per_node, LINKS[link])


@pytest.mark.parametrize(("preset", "count"), [("gpt-125m", 125_854_464), ("gpt-350m", 349_234_176), ("gpt-1b", 1_000_425_472)])
def test_the_larger_presets_have_the_size_of_their_names(preset: str, count: int) -> None:
    config = load_config(None, preset=preset)
    assert config.model.num_parameters == count
    assert config.model.ffn_size % 256 == 0
    assert config.pretrain.schedule.warmup_steps * config.pretrain.global_batch * config.tokens.row_tokens == pytest.approx(
        375e6, rel=0.01
    )


@pytest.mark.parametrize("preset", preset_names())
def test_each_presets_model_has_the_declared_parameters_and_runs_on_shapes(preset: str) -> None:
    config = load_config(None, preset=preset)
    with torch.device("meta"):
        model = GPT(config.model, config.tokens.row_tokens)
        hidden_BTC = model(torch.zeros(2, config.tokens.row_tokens, dtype=torch.int64))
    assert sum(parameter.numel() for parameter in model.parameters()) == config.model.num_parameters
    assert hidden_BTC.shape == (2, config.tokens.row_tokens, config.model.hidden_size)


def test_a_ring_moves_twice_all_but_one_share() -> None:
    # 8 nodes of one GPU over 12.5 GB/s: 2 x 7/8 x 100 MB / 12.5 GB/s
    assert cluster(8, gpus_per_node=1).all_reduce_s(100e6) == pytest.approx(0.014)
    # one node over 450 GB/s
    assert cluster(8).all_reduce_s(100e6) == pytest.approx(175e6 / 450e9)
    # two nodes of 8: the ring within, then 2 x 1/2 of the bytes over the nodes' link, or over eight of them
    assert cluster(16).all_reduce_s(100e6) == pytest.approx(175e6 / 450e9 + 100e6 / 12.5e9)
    assert cluster(16, "8x400Gb-IB").all_reduce_s(100e6) == pytest.approx(175e6 / 450e9 + 100e6 / 400e9)
    assert cluster(16).all_gather_s(100e6) == cluster(16).all_reduce_s(100e6) / 2
    assert cluster(1).all_reduce_s(100e6) == 0


def test_state_is_shared_out_by_stage() -> None:
    job, n = replace(LARGE, micro_batch=32), 16  # one micro-batch each
    parameters = job.model.num_parameters
    # fp32 weights, gradients, moments and DeepSpeed's second copy of the weights; 2 bytes more for the cast to bf16
    for engine, bytes_per_parameter in zip(ZERO, (22, 10 + 12 / n, 6 + 16 / n), strict=False):
        memory = memory_of(job, engine, n)
        assert memory.weights_and_gradients + memory.optimizer == pytest.approx(bytes_per_parameter * parameters)
    # FSDP2 and ZeRO-3 share out all of it and hold two units, here the embedding, at a time
    unit = job.model.vocab_size * job.model.hidden_size
    for engine, state in ((ZERO[3], 20), (FSDP, 16)):
        memory = memory_of(job, engine, n)
        expected = state / n * parameters + unit * (2 * 2 + 4)
        assert memory.weights_and_gradients + memory.optimizer == pytest.approx(expected)
    # ddp casts its fp32 weights: 2 bytes more
    memory = memory_of(job, DDP, n)
    assert memory.weights_and_gradients + memory.optimizer == pytest.approx(18 * parameters)


def test_fsdp_keeps_whole_gradients_while_a_gpu_has_more_than_one_micro_batch() -> None:
    one, two = (memory_of(replace(LARGE, micro_batch=size), FSDP, 16) for size in (32, 16))
    assert two.weights_and_gradients - one.weights_and_gradients == pytest.approx(4 * 15 / 16 * LARGE.model.num_parameters)


@pytest.mark.parametrize("num_kv_heads", [8, 2])
def test_activations_are_what_autograd_keeps(num_kv_heads: int) -> None:
    rows, row_tokens = 2, 80
    config = ModelSection(vocab_size=512, hidden_size=128, num_heads=8, num_kv_heads=num_kv_heads, ffn_size=384)

    def kept_bytes(num_layers: int) -> int:
        model = GPT(config.model_copy(update={"num_layers": num_layers}), row_tokens)
        storages = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address comes twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            hidden = model(torch.zeros(rows, row_tokens, dtype=torch.int64))
        assert hidden.requires_grad
        # weights and their casts do not grow with the positions
        weights = {tuple(parameter.shape) for parameter in model.parameters()}
        weights |= {shape[::-1] for shape in weights}
        kept = [tensor for tensor in storages.values() if tuple(tensor.shape) not in weights]
        return sum(tensor.untyped_storage().nbytes() for tensor in kept)

    per_layer = (kept_bytes(3) - kept_bytes(1)) / 2
    assert per_layer / (rows * row_tokens) == layer_bytes_per_token(config, 2)


def test_large_products_take_palms_flops_and_small_ones_their_bytes() -> None:
    endless = replace(GPUS["h100"], memory_gb_per_s=1e12)
    flops = LARGE.model.flops_per_token(LARGE.row_tokens) * LARGE.tokens_per_micro_batch
    assert micro_batch_s(LARGE, endless) == pytest.approx(flops / (ATTAINABLE * 989e12), rel=1e-3)  # norms are not products
    checkpointed = micro_batch_s(replace(LARGE, checkpointing=True), endless) / micro_batch_s(LARGE, endless)
    assert 1.28 < checkpointed < 4 / 3  # the head is not computed again
    # the 26M model on an H100 is bound by memory: H200, with the same FLOPS, is faster
    assert micro_batch_s(SMALL, GPUS["h200"]) < 0.85 * micro_batch_s(SMALL, GPUS["h100"])


def test_ddp_sums_gradients_once_a_step_and_fsdp_gathers_for_each_micro_batch() -> None:
    slow = cluster(8, "10GbE", gpus_per_node=1)
    gradient_s = slow.all_reduce_s(4 * LARGE.model.num_parameters)
    assert step_time(LARGE, DDP, slow).exposed_s == pytest.approx(gradient_s)
    more_steps = replace(LARGE, global_batch=2 * LARGE.global_batch)
    assert step_time(more_steps, DDP, slow).exposed_s == pytest.approx(gradient_s)
    assert step_time(more_steps, FSDP, slow).exposed_s > 1.8 * step_time(LARGE, FSDP, slow).exposed_s
    # bf16 gradients take half
    assert step_time(replace(LARGE, reduce_bytes=2), DDP, slow).exposed_s == pytest.approx(gradient_s / 2)


def test_more_gpus_are_faster_and_slower_links_less_efficient() -> None:
    for engine in ENGINES:
        speeds = [tokens_per_s(LARGE, engine, cluster(n)) for n in (1, 2, 4, 8)]
        assert speeds == sorted(speeds), engine.name
        links = ("10GbE", "25GbE", "100GbE", "400Gb-IB", "nvlink")
        by_link = [tokens_per_s(LARGE, engine, cluster(16, link)) for link in links]
        assert by_link == sorted(by_link), engine.name
    for row in make_plan(LARGE, cluster(8)).engines:
        assert row.efficiency is not None
        assert 0.9 < row.efficiency < 1.05


def test_memory_falls_with_stage_gpus_and_checkpointing() -> None:
    stages = [memory_of(LARGE, engine, 8).total for engine in ZERO]
    assert stages == sorted(stages, reverse=True)
    assert memory_of(LARGE, FSDP, 64).total < memory_of(LARGE, FSDP, 8).total
    checkpointed = memory_of(replace(LARGE, checkpointing=True), DDP, 8)
    assert checkpointed.activations < 0.25 * memory_of(LARGE, DDP, 8).activations


def test_the_best_micro_batch_fits_and_leaves_every_gpu_work() -> None:
    best = best_micro_batch(SMALL, DDP, cluster(8))
    assert best is not None
    assert SMALL.global_batch % best == 0
    assert SMALL.global_batch // best >= 8
    assert best_micro_batch(replace(LARGE, row_tokens=1 << 20), DDP, cluster(8, gpu="4090")) is None


def notes(job: Job, on: Cluster) -> str:
    return "\n".join(make_plan(job, on).notes)


def test_what_cannot_work_is_named_with_a_way_out() -> None:
    plan = make_plan(SMALL, cluster(64))
    assert plan.notes[0] == (
        "64 GPUs are more than the 16 micro-batches of a step (global_batch 256 / micro_batch 16): "
        "lower pretrain.micro_batch to 4, or raise pretrain.global_batch to 1024 or more"
    )
    assert all(row.time is None and row.tokens_per_s is None for row in plan.engines)
    assert "micro_batch 16): raise pretrain.global_batch to 8192 or more" in notes(SMALL, cluster(512))
    assert "16 micro-batches on 6 GPUs: 4 GPUs compute 3, the others 2, and 11%" in notes(SMALL, cluster(6))
    sharded = "fsdp, deepspeed ZeRO-1, deepspeed ZeRO-2; pretrain.micro_batch 2 fits"
    assert f"above the 21.6 GB that are usable: {sharded}" in notes(LARGE, cluster(8, gpu="4090"))
    tripled = replace(LARGE, model=LARGE.model.model_copy(update={"num_layers": 60}))
    assert "not even with activation_checkpointing and micro_batch 1; fsdp would" in notes(tripled, cluster(256, gpu="4090"))
    assert "no engine fits: take more or larger GPUs" in notes(tripled, cluster(1, gpu="4090"))
    assert "waits for the network" in notes(SMALL, cluster(8, "10GbE", gpus_per_node=1))


def test_unknown_hardware_is_a_usage_error_that_lists_what_is_known() -> None:
    assert gpu_named("H100") is GPUS["h100"]
    assert link_named("100gbe") is LINKS["100GbE"]
    with pytest.raises(UsageError, match="--gpu 'h1000' is not known; known: b200, h200, h100, a100-80"):
        gpu_named("h1000")
    with pytest.raises(UsageError, match="--link 'wifi' is not known; known: 10GbE, 25GbE, 100GbE"):
        link_named("wifi")
    assert UsageError.exit_code == 2


@pytest.mark.parametrize("comparison", compare(), ids=lambda each: each.point.what)
def test_predictions_stay_within_the_stated_band_of_published_figures(comparison: Comparison) -> None:
    least, greatest = comparison.point.band
    assert 0.4 <= least < greatest <= 2
    assert least <= comparison.ratio <= greatest


@pytest.mark.parametrize(
    ("arguments", "exit_code", "wanted"),
    [
        (["--preset", "gpt-1b", "--gpus", "16"], 0, "deepspeed ZeRO-3"),
        (["--compare"], 0, "Llama 3.1 8B FSDP2, 8 x H100"),
        (["--preset", "tiny"], 2, "trainer: plan needs --gpus N, or --compare"),
        (["--preset", "tiny", "--gpus", "2", "--gpu", "abacus"], 2, "trainer: --gpu 'abacus' is not known; known: "),
        (["--preset", "tiny", "--gpus", "0"], 2, "'0' is not a number of 1 or more"),
        (["--gpus", "2"], 2, "trainer: no config: give --config FILE or --preset NAME"),
    ],
)
def test_the_command(arguments: list[str], exit_code: int, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == exit_code
    assert wanted in (err if exit_code else out)


def test_json_holds_the_tables_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--preset", "gpt-1b", "--set", "activation_checkpointing=false", "--gpus", "16", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in plan["engines"]] == [engine.name for engine in ENGINES]
    assert plan["engines"][0]["memory"]["total"] == memory_of(LARGE, DDP, 16).total
    with pytest.raises(SystemExit):
        main(["plan", "--compare", "--json"])
    assert {"published", "predicted", "ratio", "source"} <= set(json.loads(capsys.readouterr().out)[0])
