"""Metrics, as Prometheus would fetch them."""

import socket
import urllib.request

import pytest

from trainer.errors import ConfigError
from trainer.events import CheckpointSaved, Record, StepsDone, TrainingStarted, Validated
from trainer.tracking.prometheus_sink import Prometheus

STEP = StepsDone(
    step=40, loss=2.5, lr=1e-3, grad_norm=0.5, epoch=0.1, tokens_seen=4000, tokens_per_s=123.0, step_time_s=0.1,
    data_wait_share=0.01, mfu=None, eta_s=1.0,
)  # fmt: skip


def fetched(port: int) -> dict[str, float]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    text = direct.open(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_the_newest_values_are_fetched_with_the_runs_name() -> None:
    sink = Prometheus(0, "demo")
    try:
        started = TrainingStarted(
            step=0, stage="pretrain", num_steps=100, world_size=3, restart=0, pids=[1], device="cpu", engine="ddp",
            precision="fp32", threads=1, num_parameters=1, rows=1, row_tokens=8, utilisation=1.0, peak_tflops=None,
            torch_version="2", resumed_from=None,
        )  # fmt: skip
        saved = CheckpointSaved(step=40, path="x", size_bytes=1, stall_s=0.0, write_s=0.0)
        for event in (started, STEP, Validated(step=40, bits_per_byte=2.25, by_source={}, duration_s=1.0), saved, saved):
            sink.write(Record(1700000000.0, "hash", event))
        values = fetched(sink.port)
    finally:
        sink.close()
    label = '{run_name="demo"}'
    assert values[f"pretrain_run_step{label}"] == 40
    assert values[f"pretrain_run_loss{label}"] == 2.5
    assert values[f"pretrain_run_world_size{label}"] == 3
    assert values[f"pretrain_run_held_out_bits_per_byte{label}"] == 2.25
    assert values[f"pretrain_run_checkpoints_saved_total{label}"] == 2
    assert values[f"pretrain_run_last_event_time_seconds{label}"] == 1700000000.0
    assert values[f"pretrain_run_mfu{label}"] == 0  # never told


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"tracking.prometheus_port {port}: Address already in use; choose another port"):
            Prometheus(port, "demo")


def test_a_closed_sink_frees_its_port() -> None:
    first = Prometheus(0, "demo")
    port = first.port
    first.close()
    Prometheus(port, "demo").close()
