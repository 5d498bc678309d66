"""Figures for Prometheus, served at /metrics."""

from typing import Any

from trainer.tracking.prometheus_sink import import_client

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one server."""

    def __init__(self, model_name: str) -> None:
        """Raises MissingDependencyError."""
        self._client = import_client()
        self._registry = self._client.CollectorRegistry()
        common: dict[str, Any] = {"namespace": "pretrain_run_serve", "registry": self._registry}
        own: dict[str, Any] = common | {"labelnames": ("model",)}
        client = self._client
        self.requests = client.Counter("requests", "Responses by route and status", labelnames=("route", "status"), **common)
        self.prompt_tokens = client.Counter("prompt_tokens", "Tokens of prompts taken in", **own).labels(model_name)
        self.written_tokens = client.Counter("written_tokens", "Tokens written", **own).labels(model_name)
        self.disconnects = client.Counter("disconnects", "Clients that went before their answer", **own).labels(model_name)
        self.texts = client.Gauge("texts", "Texts of requests under way", **own).labels(model_name)
        self.running = client.Gauge("texts_running", "Texts that get a token in each step", **own).labels(model_name)
        self.first_token_s = client.Histogram(
            "first_token_seconds", "From a request's arrival to its first token", buckets=_SECONDS, **own
        ).labels(model_name)
        self.request_s = client.Histogram(
            "request_seconds", "From a request's arrival to its end", buckets=_SECONDS, **own
        ).labels(model_name)

    @property
    def content_type(self) -> str:
        """Of the text."""
        return str(self._client.CONTENT_TYPE_LATEST)

    def text(self) -> bytes:
        """What Prometheus reads."""
        return bytes(self._client.generate_latest(self._registry))
