"""Events as metrics that Prometheus fetches from the first process, at http://HOST:PORT/metrics."""

from types import ModuleType
from typing import Any

from trainer.errors import ConfigError, MissingDependencyError
from trainer.events import (
    CheckpointFailed,
    CheckpointSaved,
    Record,
    SinkFailed,
    StepsDone,
    StepSkipped,
    TrainingStarted,
    Validated,
)

_STEP_GAUGES = {
    "loss": "Nats per target token",
    "lr": "Learning rate",
    "grad_norm": "L2 norm of the gradient before clipping",
    "tokens_seen": "Target tokens trained on",
    "tokens_per_s": "Useful tokens per second of all processes",
    "data_wait_share": "Share of the time that the loop waited for data",
    "mfu": "Useful FLOPs over what this machine can do",
}


def import_client() -> ModuleType:
    """The package prometheus_client. Raises MissingDependencyError."""
    try:
        import prometheus_client
    except ImportError:
        raise MissingDependencyError(
            "prometheus-client is not installed: pip install 'pretrain-run[prometheus]' (for `trainer serve`: [serve]), "
            "or unset tracking.prometheus_port"
        ) from None
    return prometheus_client


class Prometheus:
    """Holds the newest values; a server thread of the client library answers whoever asks."""

    name = "prometheus"

    def __init__(self, port: int, run_name: str) -> None:
        """Raises ConfigError if the port is taken, MissingDependencyError."""
        client = import_client()
        registry = client.CollectorRegistry()
        options: dict[str, Any] = {"registry": registry, "labelnames": ("run_name",), "namespace": "pretrain_run"}
        self._gauges = {name: client.Gauge(name, text, **options).labels(run_name) for name, text in _STEP_GAUGES.items()}
        self._step = client.Gauge("step", "Finished optimizer steps", **options).labels(run_name)
        self._world_size = client.Gauge("world_size", "Training processes", **options).labels(run_name)
        self._held_out = client.Gauge("held_out_bits_per_byte", "Held-out bits per byte", **options).labels(run_name)
        self._last = client.Gauge("last_event_time_seconds", "When the run last told anything", **options).labels(run_name)
        self._skipped = client.Counter("steps_skipped", "Steps that were not finite", **options).labels(run_name)
        self._saved = client.Counter("checkpoints_saved", "Checkpoints on the disk", **options).labels(run_name)
        self._failed = client.Counter("checkpoints_failed", "Checkpoints that could not be written", **options).labels(run_name)
        self._sinks_failed = client.Counter("sinks_failed", "Sinks that began to fail", **options).labels(run_name)
        try:
            self._server, self._thread = client.start_http_server(port, registry=registry)
        except OSError as error:
            raise ConfigError(f"tracking.prometheus_port {port}: {error.strerror}; choose another port") from None

    @property
    def port(self) -> int:
        """The port, also where 0 asked for a free one."""
        return int(self._server.server_port)

    def write(self, record: Record) -> None:
        event = record.event
        self._last.set(record.time)
        if event.step is not None:
            self._step.set(event.step)
        if isinstance(event, StepsDone):
            for name, gauge in self._gauges.items():
                value = getattr(event, name)
                if value is not None:
                    gauge.set(value)
        elif isinstance(event, TrainingStarted):
            self._world_size.set(event.world_size)
        elif isinstance(event, Validated):
            self._held_out.set(event.bits_per_byte)
        elif isinstance(event, StepSkipped):
            self._skipped.inc()
        elif isinstance(event, CheckpointSaved):
            self._saved.inc()
        elif isinstance(event, CheckpointFailed):
            self._failed.inc()
        elif isinstance(event, SinkFailed):
            self._sinks_failed.inc()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
