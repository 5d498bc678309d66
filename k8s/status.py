"""What a run is doing, from its objects and the last lines of its log. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from trainer.config import TRAINING_STAGES

Manifest = dict[str, Any]
Phase = Literal["Queued", "Pending", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]

FINAL: tuple[Phase, ...] = ("Succeeded", "Failed")

_STEP = re.compile(r"step (\d+)  loss (\S+) .*?([\d.,]+)(?:\s([kMGT]))? tok/s")
"""A line of the trainer's terminal (trainer.tracking.terminal); a stage's own figures stand between loss and speed."""
_PREFIXES = {None: 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_FAILURES = ("Failed", "FailureTarget")
_BEGINS = re.compile(rf"\b({'|'.join(TRAINING_STAGES)}): step \d+ of (\d+)")
_STUCK = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
    "RunContainerError",
}


@dataclass(frozen=True)
class Progress:
    """The newest step of the last stage that logs tell of."""

    stage: str | None = None
    """pretrain, sft and so on; unknown where the stage began before the lines."""
    step: int | None = None
    num_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """One run, as a person wants to know it."""

    name: str
    backend: str
    phase: Phase
    nodes: int
    ready: int
    node_range: str
    restarts: int
    reasons: tuple[str, ...]
    """Why it waits or failed."""
    progress: Progress = Progress()

    def to_json(self) -> dict[str, Any]:
        """Plain values, the progress among them."""
        values = asdict(self)
        return {**{key: value for key, value in values.items() if key != "progress"}, **values["progress"]}


def status_of(
    run: Manifest, pods: Sequence[Manifest], events: Sequence[Manifest], logs: Iterable[Iterable[str]] = ()
) -> RunStatus:
    """From a run's object, its pods, the events about it, and the last lines of each pod."""
    phase = phase_of(run, pods)
    trainers = [pod for pod in pods if _role(pod) != "launcher"]
    return RunStatus(
        name=run["metadata"]["name"],
        backend=run["kind"].lower(),
        phase=phase,
        nodes=nodes_of(run),
        ready=sum(_is_ready(pod) for pod in trainers),
        node_range=range_of(run),
        restarts=sum(status.get("restartCount", 0) for pod in pods for status in _container_statuses(pod)),
        reasons=tuple(dict.fromkeys(_reasons(run, phase, pods, events))),
        progress=progress_of(logs),
    )


def phase_of(run: Manifest, pods: Sequence[Manifest]) -> Phase:
    """From the conditions of the run's object, which each kind spells in its own way."""
    conditions = {each["type"] for each in _conditions(run) if each.get("status") == "True"}
    if conditions & {"Succeeded", "Complete", "SuccessCriteriaMet"}:
        return "Succeeded"
    if conditions.intersection(_FAILURES):
        return "Failed"
    if is_suspended(run):
        return "Queued" if _queue(run) else "Suspended"
    if any(_is_ready(pod) for pod in pods):
        return "Running"
    return "Restarting" if "Restarting" in conditions or any(_restarts(pod) for pod in pods) else "Pending"


def is_suspended(run: Manifest) -> bool:
    """Whether its pods are held back."""
    spec = run["spec"]
    return bool(spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"))


def is_finished(run: Manifest) -> bool:
    """Whether it has come to its end, good or bad."""
    return phase_of(run, ()) in FINAL


def nodes_of(run: Manifest) -> int:
    """Pods that train, as asked for now."""
    if run["kind"] == "Job":
        return int(run["spec"].get("parallelism", 1))
    specs = run["spec"].get("pytorchReplicaSpecs") or run["spec"].get("mpiReplicaSpecs") or {}
    return int(specs.get("Worker", {}).get("replicas", 1))


def range_of(run: Manifest) -> str:
    """MIN:MAX nodes, as the run was rendered."""
    template = run["spec"].get("template")
    if template is None:
        specs = run["spec"].get("pytorchReplicaSpecs") or run["spec"].get("mpiReplicaSpecs") or {}
        template = specs.get("Worker", {}).get("template", {})
    for container in template.get("spec", {}).get("containers", []):
        for variable in container.get("env", []):
            if variable["name"] == "PRETRAIN_RUN_NODES":
                return str(variable.get("value", ""))
    return str(nodes_of(run))


def progress_of(logs: Iterable[Iterable[str]]) -> Progress:
    """The newest step of the last stage in the pods' lines. The process that tells steps moves between pods.

    Where a pod's lines do not tell of a stage's beginning it has trained for long: that is taken for the last stage.
    """
    return max(map(_progress_in, logs), key=_newness, default=Progress())


def _newness(progress: Progress) -> tuple[bool, int, int]:
    stage = len(TRAINING_STAGES) if progress.stage is None else TRAINING_STAGES.index(progress.stage)
    return progress.step is not None or progress.stage is not None, stage, progress.step or 0


def _progress_in(lines: Iterable[str]) -> Progress:
    """The newest step of the last stage in one pod's lines, which are in order."""
    found = Progress()
    for line in lines:
        if begins := _BEGINS.search(line):
            same = begins[1] == found.stage
            found = replace(found, num_steps=int(begins[2])) if same else Progress(begins[1], None, int(begins[2]))
        match = _STEP.search(line)
        if match and (found.step is None or int(match[1]) >= found.step):
            speed = float(match[3].replace(",", "")) * _PREFIXES[match[4]]
            found = Progress(found.stage, int(match[1]), found.num_steps, float(match[2]), speed)
    return found


def _reasons(run: Manifest, phase: Phase, pods: Sequence[Manifest], events: Sequence[Manifest]) -> Iterable[str]:
    if phase == "Failed":
        yield from (
            f"{each.get('reason', 'Failed')}: {each.get('message', '')}"
            for each in _conditions(run)
            if each["type"] in _FAILURES
        )
    if phase == "Succeeded":
        return
    if phase == "Queued":
        yield f"waits in queue {_queue(run)}"
    for pod in pods:
        name = pod["metadata"]["name"]
        for condition in pod.get("status", {}).get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield f"{name} has no node: {condition.get('message', condition.get('reason', ''))}"
        for status in _container_statuses(pod):
            waiting = status.get("state", {}).get("waiting", {})
            if waiting.get("reason") in _STUCK:
                yield f"{name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
            ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
            if ended.get("exitCode"):
                words = (ended.get("message") or ended.get("reason") or "").strip().splitlines()
                yield f"{name} ended with code {ended['exitCode']}" + (f": {words[-1]}" if words else "")
    if len(pods) < nodes_of(run) and phase in ("Pending", "Running", "Restarting"):
        yield from (f"{each.get('reason')}: {each.get('message', '')}" for each in events if each.get("type") == "Warning")


def _conditions(run: Manifest) -> list[Manifest]:
    conditions: list[Manifest] = run.get("status", {}).get("conditions") or []
    return conditions


def _queue(run: Manifest) -> str | None:
    queue: str | None = run["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
    return queue


def _role(pod: Manifest) -> str:
    labels = pod["metadata"].get("labels", {})
    return str(labels.get("training.kubeflow.org/job-role") or labels.get("training.kubeflow.org/replica-type") or "worker")


def _container_statuses(pod: Manifest) -> list[Manifest]:
    statuses: list[Manifest] = pod.get("status", {}).get("containerStatuses") or []
    return statuses


def _restarts(pod: Manifest) -> int:
    return sum(status.get("restartCount", 0) for status in _container_statuses(pod))


def _is_ready(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
