"""What the launcher does to runs on a cluster: submit, look, scale, stop, resume, compare."""

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from k8s.cluster import API_VERSIONS, Cluster, Manifest
from k8s.errors import ClusterError, DeadlineError, NotThereError, UsageError
from k8s.render import dump, run_object
from k8s.status import FINAL, RunStatus, is_finished, is_suspended, nodes_of, range_of, status_of

POLL_S = 2.0
KUEUE_VERSIONS = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
_LAST_LINES = 40


@dataclass(frozen=True)
class Runs:
    """The runs of a namespace."""

    cluster: Cluster

    def submit(self, objects: Sequence[Manifest]) -> Iterator[str]:
        """Ask the server what it thinks of all objects, then make them; yields what was done. Raises ClusterError."""
        run = run_object(objects)
        live = self._find(run["kind"], run["metadata"]["name"])
        if live is not None:
            yield f"{run['kind']}/{run['metadata']['name']} is there already: the same inputs are the same run; nothing to do"
            return
        kept = self.ask(objects)
        for item in objects:
            if item in kept:
                yield f"{item['kind']}/{item['metadata']['name']} is there already, with what the run has saved"
                continue
            self.cluster.apply(item)
            yield f"{item['kind']}/{item['metadata']['name']} applied"

    def ask(self, objects: Sequence[Manifest], *, but_the_run: bool = False) -> list[Manifest]:
        """What the server thinks of all objects (dry run); returns claims that are there and stay. Raises ClusterError."""
        kept = []
        for item in objects:
            if item["kind"] == "PersistentVolumeClaim" and self._find_any(item) is not None:
                kept.append(item)  # most of a claim cannot be changed
            elif not (but_the_run and item is run_object(objects)):
                self.cluster.apply(item, dry_run=True)
        return kept

    def all(self) -> list[Manifest]:
        """The runs' objects of every kind that the cluster serves."""
        found = []
        for kind, version in API_VERSIONS.items():
            if self.cluster.serves(kind, version):
                found += self.cluster.list(kind, version, "pretrain-run/run")
        return sorted(found, key=lambda item: item["metadata"].get("creationTimestamp", ""))

    def find(self, name: str) -> Manifest:
        """A run by its name or its hash, or by the only one of that base name. Raises NotThereError, UsageError."""
        runs = self.all()
        exact = [run for run in runs if run["metadata"]["name"] == name]
        labels = [
            run for run in runs if name in (run["metadata"]["labels"].get(f"pretrain-run/{key}") for key in ("name", "hash"))
        ]
        found = exact or labels
        if not found:
            known = ", ".join(run["metadata"]["name"] for run in runs) or "none"
            raise NotThereError(f"no run {name!r} in namespace {self.cluster.namespace}; there: {known}")
        if len(found) > 1:
            raise UsageError(
                f"{name!r} names {len(found)} runs: {', '.join(run['metadata']['name'] for run in found)}; give one"
            )
        return found[0]

    def pods(self, run: Manifest) -> list[Manifest]:
        """Its pods, in the order of their names."""
        pods = self.cluster.list("Pod", "v1", f"pretrain-run/run={run['metadata']['name']}")
        return sorted(pods, key=lambda pod: _natural(pod["metadata"]["name"]))

    def status(self, run: Manifest) -> RunStatus:
        """What it is doing."""
        pods = self.pods(run)
        return status_of(run, pods, self._events(run), self._last_lines(pods))

    def refreshed(self, run: Manifest) -> Manifest:
        """The object as it is now."""
        return self.cluster.get(run["kind"], run["metadata"]["name"], API_VERSIONS[run["kind"]])

    def wait(
        self, run: Manifest, done: Callable[[RunStatus], bool], timeout_s: float, show: Callable[[RunStatus], None]
    ) -> RunStatus:
        """Until `done`; each look is shown. Raises DeadlineError with what it last saw."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status(self.refreshed(run))
            show(status)
            if done(status):
                return status
            if time.monotonic() > deadline:
                reasons = "; ".join(status.reasons)
                raise DeadlineError(
                    f"{status.name}: still {status.phase} after {timeout_s:.0f} s" + (f" ({reasons})" if reasons else "")
                )
            time.sleep(POLL_S)

    def scale(self, run: Manifest, nodes: int) -> str:
        """Change the number of nodes within the run's range. Raises UsageError."""
        name, kind = run["metadata"]["name"], run["kind"]
        least, _, most = range_of(run).partition(":")
        if kind == "MPIJob":
            raise UsageError(
                f"{name}: backend mpijob cannot be scaled: MPI's world cannot change; use backend job or pytorchjob"
            )
        if least == most or not most:
            raise UsageError(f"{name}: rendered for {least} nodes; render it with elastic.enabled to scale it")
        if not int(least) <= nodes <= int(most):
            raise UsageError(f"{name}: {nodes} nodes are outside of elastic.min {least} to max {most}")
        if is_finished(run):
            raise UsageError(f"{name}: it has ended; there is nothing to scale")
        before = nodes_of(run)
        if kind == "Job":
            change: dict[str, Any] = {"spec": {"completions": nodes, "parallelism": nodes}}
            self.cluster.patch(kind, name, API_VERSIONS[kind], change)
        else:
            self.cluster.patch(kind, name, API_VERSIONS[kind], {"spec": {"replicas": nodes}}, "scale")
        return f"{name}: {before} -> {nodes} nodes"

    def stop(self, run: Manifest) -> str:
        """Take its pods away, each with its grace period to save. It stays and can be resumed. Raises UsageError."""
        if is_finished(run):
            raise UsageError(f"{run['metadata']['name']}: it has ended already, so there is nothing to stop")
        self._suspend(run, suspended=True)
        return f"{run['metadata']['name']}: stopping; it saves and keeps its place, `launcher resume` goes on"

    def resume(self, run: Manifest) -> str:
        """Let a stopped run go on. Raises UsageError for one that has ended."""
        name = run["metadata"]["name"]
        if is_finished(run):
            raise UsageError(
                f"{name}: it has ended, and an ended object cannot start again; `launcher resume -f FILE` makes it anew"
            )
        if not is_suspended(run) and status_of(run, (), ()).phase != "Queued":
            return f"{name}: it is not stopped; nothing to do"
        self._suspend(run, suspended=False)
        return f"{name}: goes on from its last checkpoint"

    def remove(self, run: Manifest, timeout_s: float) -> None:
        """Delete a run's object and wait until it is gone; volumes stay. Raises DeadlineError."""
        name, kind = run["metadata"]["name"], run["kind"]
        self.cluster.delete(kind, name, API_VERSIONS[kind])
        deadline = time.monotonic() + timeout_s
        while self._find(kind, name) is not None:
            if time.monotonic() > deadline:
                raise DeadlineError(f"{kind}/{name}: deleted, but still there after {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def diff(self, objects: Sequence[Manifest]) -> str:
        """What applying would change, as a unified diff; empty: nothing."""
        lines: list[str] = []
        for item in objects:
            live = self._find_any(item)
            label = f"{item['kind']}/{item['metadata']['name']}"
            planned = self.cluster.apply(item, dry_run=True, force=True) if live is not None else item
            before = dump([_without_noise(live)]).splitlines() if live is not None else []
            after = dump([_without_noise(planned)]).splitlines()
            lines += difflib.unified_diff(before, after, f"{label} (live)", f"{label} (here)", lineterm="")
        return "\n".join(lines)

    def _suspend(self, run: Manifest, *, suspended: bool) -> None:
        kind = run["kind"]
        if "kueue.x-k8s.io/queue-name" in run["metadata"].get("labels", {}):
            self._deactivate(run, active=not suspended)
            return
        spec = {"suspend": suspended} if kind == "Job" else {"runPolicy": {"suspend": suspended}}
        self.cluster.patch(kind, run["metadata"]["name"], API_VERSIONS[kind], {"spec": spec})

    def _deactivate(self, run: Manifest, *, active: bool) -> None:
        """Kueue starts what is suspended again: it must be told itself. Raises UsageError if it knows nothing of the run."""
        name, uid = run["metadata"]["name"], run["metadata"]["uid"]
        versions = [version for version in KUEUE_VERSIONS if self.cluster.serves("Workload", version)]
        found = self.cluster.list("Workload", versions[0], f"kueue.x-k8s.io/job-uid={uid}") if versions else []
        if not found:
            raise UsageError(
                f"{name}: it carries a Kueue queue, but Kueue has no workload of it; look with kubectl get workloads"
            )
        for workload in found:
            self.cluster.patch("Workload", workload["metadata"]["name"], versions[0], {"spec": {"active": active}})

    def _find(self, kind: str, name: str) -> Manifest | None:
        return self._find_any({"kind": kind, "apiVersion": API_VERSIONS[kind], "metadata": {"name": name}})

    def _find_any(self, item: Manifest) -> Manifest | None:
        self.cluster.resource(item["kind"], item["apiVersion"])  # a kind that is not served is another error
        try:
            return self.cluster.get(item["kind"], item["metadata"]["name"], item["apiVersion"])
        except NotThereError:
            return None

    def _events(self, run: Manifest) -> list[Manifest]:
        """About the run's object, the newest last."""
        events = self.cluster.list("Event", "v1")
        own = [event for event in events if event.get("involvedObject", {}).get("uid") == run["metadata"].get("uid")]
        return sorted(own, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def _last_lines(self, pods: Sequence[Manifest]) -> list[list[str]]:
        """Of each pod."""
        logs: list[list[str]] = []
        for pod in pods:
            if pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed"):
                try:
                    logs.append(list(self.cluster.log_lines(pod["metadata"]["name"], last_lines=_LAST_LINES)))
                except ClusterError:
                    continue  # the pod or its node went away just now: the status is told without its lines
        return logs


def is_over(status: RunStatus) -> bool:
    """Whether a run has come to its end."""
    return status.phase in FINAL


def without_progress(status: RunStatus) -> RunStatus:
    """Only what changes rarely: for lines that are printed at a change."""
    return replace(status, progress=type(status.progress)())


def _natural(name: str) -> tuple[str, int]:
    """worker-10 behind worker-9."""
    head, _, number = name.rpartition("-")
    return (head, int(number)) if number.isdecimal() else (name, 0)


def _without_noise(item: Manifest) -> Manifest:
    """What people write, without what servers add."""
    metadata = {key: item["metadata"][key] for key in ("name", "namespace", "labels", "annotations") if key in item["metadata"]}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata} | {
        key: value for key, value in item.items() if key not in ("apiVersion", "kind", "metadata", "status")
    }
