"""Logs of all ranks as one stream: from live pods, and from the volume when they are gone."""

import heapq
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence

from k8s.cluster import Cluster, Manifest
from k8s.errors import ClusterError

_TAG = re.compile(r"^\[(?P<pod>[^\]\s]+)(?: rank (?P<rank>\d+))?\] ")
"""How the entrypoint marks lines (trainer.elastic.output); lines of before it starts, and of sshd, have no mark."""


def read_logs(cluster: Cluster, pods: Sequence[Manifest], since_s: int | None = None, rank: int | None = None) -> Iterator[str]:
    """Lines of all pods in the order of their times, each with its pod's short name in front."""
    streams = [_stamped(cluster, pod["metadata"]["name"], since_s) for pod in pods]
    for _, pod, line in heapq.merge(*streams):
        if wanted(line, rank):
            yield shown(line, pod)


def follow_logs(
    cluster: Cluster, pods: Sequence[Manifest], timeout_s: float, since_s: int | None = None, rank: int | None = None
) -> Iterator[str]:
    """Lines as they come, until all pods have ended or the time is over."""
    lines: queue.Queue[tuple[str, str] | None] = queue.Queue()
    for pod in pods:
        name = pod["metadata"]["name"]
        threading.Thread(target=_pump, args=(cluster, name, since_s, lines), daemon=True).start()
    left, deadline = len(pods), time.monotonic() + timeout_s
    while left and time.monotonic() < deadline:
        try:
            item = lines.get(timeout=min(1.0, timeout_s))
        except queue.Empty:
            continue
        if item is None:
            left -= 1
        elif wanted(item[1], rank):
            yield shown(item[1], item[0])


def wanted(line: str, rank: int | None) -> bool:
    """Whether a line is of that rank; the agents' own lines are of none."""
    match = _TAG.match(line)
    return rank is None or (match is not None and match["rank"] is not None and int(match["rank"]) == rank)


def shown(line: str, pod: str) -> str:
    """A line with its pod in front, once."""
    match = _TAG.match(line)
    return line if match is not None and match["pod"] == pod else f"[{pod}] {line}"


def _stamped(cluster: Cluster, pod: str, since_s: int | None) -> Iterator[tuple[str, str, str]]:
    try:
        for line in cluster.log_lines(pod, since_s=since_s):
            stamp, _, text = line.partition(" ")
            yield stamp, pod, text
    except ClusterError as error:
        yield "9", pod, f"(no log: {error})"


def _pump(cluster: Cluster, pod: str, since_s: int | None, lines: "queue.Queue[tuple[str, str] | None]") -> None:
    try:
        for line in cluster.log_lines(pod, follow=True, since_s=since_s):
            lines.put((pod, line.partition(" ")[2]))
    except ClusterError as error:
        lines.put((pod, f"(log ended: {error})"))
    lines.put(None)
