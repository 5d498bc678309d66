"""From a kubeconfig, or a pod's service account, to a client of the API server. Sends nothing."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from kubernetes import client, config
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry
from urllib3.util.url import parse_url

from k8s.errors import ClusterError, UsageError

_VARIABLE = "KUBECONFIG"
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Access:
    """A client, and what the context says of it."""

    api: client.ApiClient
    context: str
    namespace: str | None


class _Retry(Retry):
    """One more try for a connection that broke, none for a server that is silent: twice as long a silence helps nobody."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


def access(context: str | None, kubeconfig: Path | None) -> Access:
    """By kubeconfig, or inside a pod by its service account. Raises ClusterError, UsageError."""
    configuration = client.Configuration()
    found = _by_kubeconfig(configuration, context, kubeconfig) if _is_named(kubeconfig) else _in_pod(configuration)
    name, namespace = found
    configuration.retries = _Retry(total=1, connect=1, read=1, redirect=1, status=0, other=0)
    _check_server(configuration.host, name)
    try:
        return Access(client.ApiClient(configuration), name, namespace)
    except Exception as error:  # noqa: BLE001 - certificates are read here, and garbage raises anything
        raise ClusterError(f"{name}: the certificates of its kubeconfig cannot be used: {_first_line(error)}") from None


def _is_named(kubeconfig: Path | None) -> bool:
    """Whether there is a kubeconfig. Raises UsageError, ClusterError where one is named that is not there."""
    if kubeconfig is not None:
        if not kubeconfig.exists():
            raise UsageError(f"--kubeconfig {kubeconfig}: no such file")
        return True
    named = os.environ.get(_VARIABLE, "")
    paths = [Path(text) for text in named.split(os.pathsep) if text] or [Path.home() / ".kube" / "config"]
    if any(path.exists() for path in paths):
        return True
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return False
    where = f"{_VARIABLE}={named}: no such file" if named else f"there is no {paths[0]}"
    raise ClusterError(f"no cluster: {where}; set {_VARIABLE} or give --kubeconfig FILE")


def _by_kubeconfig(configuration: client.Configuration, context: str | None, kubeconfig: Path | None) -> tuple[str, str | None]:
    file = str(kubeconfig) if kubeconfig is not None else None
    shown = file or os.environ.get(_VARIABLE) or str(Path.home() / ".kube" / "config")
    if Path(shown).is_dir():
        raise ClusterError(f"{shown}: is a folder; give a kubeconfig file")
    try:
        contexts, active = config.list_kube_config_contexts(file)
        known = [each["name"] for each in contexts]
    except Exception as error:  # noqa: BLE001 - the client's loader raises whatever garbage makes of it
        # the loader's own words where it has some, and not what Python says of its stumbling
        told = isinstance(error, (config.ConfigException, yaml.YAMLError, UnicodeError, OSError))
        why = _first_line(error) if told else "it holds no list of contexts, clusters and users"
        raise ClusterError(f"{shown}: is no kubeconfig: {why}") from None
    if context is not None and context not in known:
        raise ClusterError(f"no context {context!r} in the kubeconfig; known: {', '.join(known)}")
    used = next(each for each in contexts if each["name"] == context) if context else active
    try:
        config.load_kube_config(file, context=context, client_configuration=configuration)
        return used["name"], used["context"].get("namespace")
    except Exception as error:  # noqa: BLE001 - as above
        raise ClusterError(f"{shown}: context {used.get('name')}: cannot be used: {_first_line(error)}") from None


def _in_pod(configuration: client.Configuration) -> tuple[str, str | None]:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise ClusterError(f"no cluster: {_first_line(error)}; set {_VARIABLE} or give --kubeconfig FILE") from None
    return "in-cluster", _NAMESPACE.read_text(encoding="utf-8") if _NAMESPACE.exists() else None


def _check_server(host: Any, context: str) -> None:
    """Raises ClusterError for what is no address."""
    try:
        url = parse_url(str(host))
        usable = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        usable = False
    if not usable:
        raise ClusterError(f"{context}: server {str(host)[:80]!r} of its kubeconfig is no address; https://HOST:PORT is one")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
