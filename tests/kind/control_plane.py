"""What runs a cluster, taken away and brought back: operators, API server, controllers. For stories that are alone with it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from k8s.kind import operators
from k8s.kind.commands import wait_until
from k8s.kind.local_cluster import LocalCluster

_ROLLOUT_S = 180.0
_LEADERS = ("kube-controller-manager", "kube-scheduler")


@contextmanager
def without_operators(cluster: LocalCluster) -> Iterator[None]:
    """A cluster in which no operator runs, while the block does."""
    try:
        _scale_operators(cluster, 0)
        yield
    finally:
        _scale_operators(cluster, 1)


def _scale_operators(cluster: LocalCluster, replicas: int) -> None:
    for name, namespace in operators.NAMESPACES.items():
        cluster.kubectl("--namespace", namespace, "scale", f"deployment/{name}", f"--replicas={replicas}")
    _wait_for_operators(cluster)


def start_operators_anew(cluster: LocalCluster) -> None:
    """At once, and not when the kubelet tries again what has failed several times."""
    for namespace in operators.NAMESPACES.values():
        cluster.kubectl("--namespace", namespace, "delete", "pods", "--all", "--grace-period=1", "--wait=false")
    _wait_for_operators(cluster)


def _wait_for_operators(cluster: LocalCluster) -> None:
    """Until both run, or none where none is wanted."""
    for name, namespace in operators.NAMESPACES.items():
        rollout = ["rollout", "status", f"deployment/{name}", "--timeout=120s"]
        cluster.kubectl("--namespace", namespace, *rollout, deadline_s=_ROLLOUT_S)


@contextmanager
def without_api_server(cluster: LocalCluster) -> Iterator[None]:
    """No API server answers while the block runs; when it has ended, one does.

    Scheduler, controllers and kubelet would lie idle for up to a minute afterwards, for pauses between their tries and leases
    of their former selves; they are started anew.
    """
    _move(cluster, "/etc/kubernetes/manifests", "/kind", *_LEADERS, "kube-apiserver")
    try:
        wait_until(lambda: not cluster.is_up(), "the API server is down", 60)
        yield
    finally:
        _move(cluster, "/kind", "/etc/kubernetes/manifests", "kube-apiserver")
        started = time.monotonic()
        wait_until(cluster.is_up, "the API server is back", 180)
        cluster.kubectl("--namespace", "kube-system", "delete", "lease", *_LEADERS, "--ignore-not-found")
        _move(cluster, "/kind", "/etc/kubernetes/manifests", *_LEADERS)
        cluster.node("systemctl", "restart", "kubelet")
        print(f"the API server is back after {time.monotonic() - started:.0f} s")


def _move(cluster: LocalCluster, source: str, target: str, *parts: str) -> None:
    """Parts of the control plane, which the kubelet starts from files, away from it or to it."""
    for part in parts:
        cluster.node("mv", f"{source}/{part}.yaml", f"{target}/{part}.yaml")
