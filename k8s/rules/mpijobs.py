"""Rules of backend mpijob: mpi-operator has no admission webhook, so a wrong MPIJob just sits there."""

from collections.abc import Iterator, Sequence

from k8s.rules.finding import Manifest, Rule, at, replica_specs

_KIND = ("MPIJob",)


def _workers(item: Manifest) -> Manifest:
    return replica_specs(item).get("Worker", {})


def _worker_container(item: Manifest) -> Manifest:
    containers: list[Manifest] = at(_workers(item), "template", "spec", "containers", default=[])
    return (containers or [{}])[0]


def _clean_pods(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    policy = at(item, "spec", "runPolicy", "cleanPodPolicy", default="None")
    if policy != "Running":
        yield f"cleanPodPolicy {policy}: " + (
            "logs of finished pods are removed" if policy == "All" else "sshd never ends, and workers keep their GPUs"
        )


def _restart_policy(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    for role, spec in replica_specs(item).items():
        policy = spec.get("restartPolicy", "Never")
        if policy not in ("Never", "OnFailure"):
            yield f"{role}: restartPolicy {policy} is not allowed, and only an event says so"
    if _workers(item).get("restartPolicy", "Never") == "Never":
        yield "Worker: restartPolicy Never: an evicted worker is not made again"


def _launcher(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    launcher = replica_specs(item).get("Launcher")
    if launcher is None or launcher.get("replicas", 1) != 1:
        yield "there must be exactly one Launcher"


def _racing(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if at(item, "spec", "launcherCreationPolicy", default="AtStartup") != "WaitForWorkersReady":
        yield "the launcher starts while workers still pull their image"
    elif at(_worker_container(item), "readinessProbe", "tcpSocket") is None:
        yield "WaitForWorkersReady without a readiness probe on sshd's port: ready means started, not reachable"


def _gang(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    gang = at(item, "spec", "runPolicy", "schedulingPolicy")
    workers = _workers(item).get("replicas", 1)
    waits = at(item, "spec", "launcherCreationPolicy") == "WaitForWorkersReady"
    if gang is not None and waits and gang.get("minAvailable") != workers:
        least = gang.get("minAvailable")
        yield f"schedulingPolicy.minAvailable {least} with {workers} workers: they and the launcher wait for each other"


def _low_port(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    for port in _worker_container(item).get("ports", []):
        if port.get("containerPort", 0) < 1024:
            yield f"sshd on port {port['containerPort']}, which only root may open"


def _root_keys(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    path = at(item, "spec", "sshAuthMountPath", default="/root/.ssh")
    if path.startswith("/root"):
        yield f"sshAuthMountPath {path} is out of reach of a user that is not root"


def _slots(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    slots = at(item, "spec", "slotsPerWorker", default=1)
    env = _worker_container(item).get("env", [])
    processes = next((variable.get("value") for variable in env if variable["name"] == "PRETRAIN_RUN_PROCESSES"), None)
    if processes is not None and int(processes) != slots:
        yield f"slotsPerWorker {slots} and PRETRAIN_RUN_PROCESSES {processes} differ"


MPIJOB_RULES = (
    Rule("M001", "error", _KIND, _clean_pods, "set cleanPodPolicy: Running",
         "The operator's default is None, although its description says Running."),
    Rule("M002", "error", _KIND, _restart_policy, "set OnFailure for workers and Never for the launcher",
         "A failed worker under Never stays failed, and the launcher retries in vain."),
    Rule("M003", "error", _KIND, _launcher, "have one Launcher with replicas 1",
         "The operator only emits an event `ValidationError`."),
    Rule("M004", "error", _KIND, _racing, "wait for workers, with a readiness probe on sshd's port",
         "mpi-operator#386, #481: the launcher gives up before a slow image is there."),
    Rule("M005", "error", _KIND, _gang, "set minAvailable to the number of workers",
         "The default is workers + 1, and the launcher is made when the workers run (mpi-operator#608)."),
    Rule("M006", "error", _KIND, _low_port, "use a port above 1023",
         "Nothing runs as root, and no capability is left to open it."),
    Rule("M007", "error", _KIND, _root_keys, "set sshAuthMountPath to the user's own folder",
         "Keys for root are mode 0600 and unreadable for uid 1000 (mpi-operator#429)."),
    Rule("M008", "error", _KIND, _slots, "make both processesPerNode",
         "mpirun starts as many processes as there are slots."),
)  # fmt: skip
