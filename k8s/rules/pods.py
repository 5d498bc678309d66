"""Rules of the pods of a run: security, memory, network, secrets."""

import re
from collections.abc import Callable, Iterator, Sequence

from k8s.rules.finding import Manifest, Rule, at, most_nodes, pod_templates, size_bytes, trainer_container
from k8s.value_parts import SECRET_NAME

_RUNS = ("Job", "PyTorchJob", "MPIJob")
_ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_MIN_GRACE_S = 30

Look = Callable[[Manifest], Iterator[str]]


def _each(look: Look) -> Callable[[Manifest, Sequence[Manifest]], Iterator[str]]:
    """A rule over pod templates as a rule over run objects."""

    def find(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
        for role, template in pod_templates(item):
            for message in look(template):
                yield f"{role}: {message}"

    return find


def _containers(template: Manifest) -> list[Manifest]:
    spec = template.get("spec", {})
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def _unrestricted_pod(template: Manifest) -> Iterator[str]:
    spec = template.get("spec", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is on"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if kinds - _ALLOWED_VOLUMES:
            yield f"volume {volume.get('name')} is a {', '.join(sorted(kinds))}"
    for container in _containers(template):
        yield from _unrestricted_container(container, spec.get("securityContext", {}))


def _unrestricted_container(container: Manifest, of_pod: Manifest) -> Iterator[str]:
    own, name = container.get("securityContext", {}), container.get("name")
    if own.get("privileged"):
        yield f"container {name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"container {name} may escalate privileges"
    if "ALL" not in at(own, "capabilities", "drop", default=[]):
        yield f"container {name} keeps capabilities"
    if at(own, "capabilities", "add", default=[]):
        yield f"container {name} adds capabilities"
    if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
        yield f"container {name} may run as root"
    if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
        yield f"container {name} runs as root"
    if at(own, "seccompProfile", "type", default=at(of_pod, "seccompProfile", "type")) not in ("RuntimeDefault", "Localhost"):
        yield f"container {name} has no seccomp profile"


def _writable_root(template: Manifest) -> Iterator[str]:
    for container in _containers(template):
        if not at(container, "securityContext", "readOnlyRootFilesystem"):
            yield f"container {container.get('name')} can write to its image"


def _literal_secret(template: Manifest) -> Iterator[str]:
    for container in _containers(template):
        for variable in container.get("env", []):
            if "value" in variable and re.search(SECRET_NAME, variable["name"]):
                yield f"variable {variable['name']} of container {container.get('name')} has a literal value"


def _doubled_variable(template: Manifest) -> Iterator[str]:
    for container in _containers(template):
        names = [variable["name"] for variable in container.get("env", [])]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"variable {name} of container {container.get('name')} is set twice"


def _moving_image(template: Manifest) -> Iterator[str]:
    for container in _containers(template):
        image = container.get("image", "")
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"image {image or '(none)'} has no fixed version"


def _shm_of(template: Manifest) -> Manifest | None:
    mounts = {mount["mountPath"]: mount["name"] for mount in trainer_container(template).get("volumeMounts", [])}
    for volume in at(template, "spec", "volumes", default=[]):
        if volume["name"] == mounts.get("/dev/shm") and at(volume, "emptyDir", "medium") == "Memory":
            return dict(volume)
    return None


def _no_shm(template: Manifest) -> Iterator[str]:
    if _shm_of(template) is None:
        yield "/dev/shm is the container's own 64 MB"


def _memory(template: Manifest) -> Iterator[str]:
    limit = at(trainer_container(template), "resources", "limits", "memory")
    shm = at(_shm_of(template) or {}, "emptyDir", "sizeLimit")
    if limit is not None and shm is not None and size_bytes(shm) >= size_bytes(limit):
        yield f"/dev/shm of {shm} counts against the memory limit of {limit} and leaves nothing"


def _above_limit(template: Manifest) -> Iterator[str]:
    for container in _containers(template):
        resources = container.get("resources", {})
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in sorted(limits.keys() & requests.keys()):
            if size_bytes(requests[name]) > size_bytes(limits[name]):
                yield f"container {container.get('name')} asks for {requests[name]} {name} and may have {limits[name]}"


def _no_limit(template: Manifest) -> Iterator[str]:
    if at(trainer_container(template), "resources", "limits", "memory") is None:
        yield "there is no memory limit"


def _token(template: Manifest) -> Iterator[str]:
    if at(template, "spec", "automountServiceAccountToken") is not False:
        yield "a service account's token is mounted"


def _sidecar(template: Manifest) -> Iterator[str]:
    metadata = template.get("metadata", {})
    if at(metadata, "labels", "sidecar.istio.io/inject") != "false":
        yield "Istio may put a proxy between the processes"


def _short_grace(template: Manifest) -> Iterator[str]:
    grace_s = at(template, "spec", "terminationGracePeriodSeconds", default=30)
    if grace_s < _MIN_GRACE_S:
        yield f"terminationGracePeriodSeconds {grace_s} may not be enough to save"


def _gpus(template: Manifest) -> Iterator[str]:
    container = trainer_container(template)
    limits = at(container, "resources", "limits", default={})
    gpus = sum(int(count) for name, count in limits.items() if name.endswith("/gpu"))
    processes = next((v.get("value") for v in container.get("env", []) if v["name"] == "PRETRAIN_RUN_PROCESSES"), None)
    if gpus and processes is not None and int(processes) != gpus:
        yield f"{processes} processes on {gpus} GPUs"


def _probe(template: Manifest) -> Iterator[str]:
    container = trainer_container(template)
    probes = [key for key in ("readinessProbe", "livenessProbe", "startupProbe") if key in container]
    if probes and "trainer.elastic" in container.get("command", []):
        yield f"{', '.join(probes)} on the trainer: its name resolves only when it is ready, and others wait for the name"


def _files_apart(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    most = most_nodes(item)
    for role, template in pod_templates(item):
        runs = [volume for volume in at(template, "spec", "volumes", default=[]) if volume["name"] == "runs"]
        if most > 1 and any("emptyDir" in volume for volume in runs):
            yield f"{role}: {most} pods keep their run folder to themselves: none finds another's checkpoint"


def _one_node_only(item: Manifest, objects: Sequence[Manifest]) -> Iterator[str]:
    modes = at(item, "spec", "accessModes", default=[])
    for run in objects:
        most = most_nodes(run)
        if run["kind"] in _RUNS and most > 1 and "ReadWriteMany" not in modes and "ReadOnlyMany" not in modes:
            yield f"{', '.join(modes)} can be mounted on one node only, and the run has up to {most} pods"


POD_RULES = (
    Rule("P001", "error", _RUNS, _each(_unrestricted_pod), "keep the chart's security settings; see docs/security.md",
         "Namespaces that enforce Pod Security's level `restricted` refuse the pod, and the operator retries without a word."),
    Rule("P002", "risk", _RUNS, _each(_writable_root), "set readOnlyRootFilesystem and mount what must be written",
         "What is written there is lost, and an intruder could change the program."),
    Rule("P003", "error", _RUNS, _each(_literal_secret), "put it into a Secret and use valueFrom.secretKeyRef",
         "Git, Helm's release and the API server would all keep it."),
    Rule("P004", "error", _RUNS, _each(_doubled_variable), "remove one of them",
         "The API server takes both and the last one wins, silently."),
    Rule("P005", "error", _RUNS, _each(_moving_image), "set image.digest, or image.tag other than latest",
         "A pod that starts later would train with other code than the rest of its run."),
    Rule("P006", "error", _RUNS, _each(_no_shm), "mount an emptyDir of medium Memory at /dev/shm",
         "Data loaders and NCCL end with a bus error (pytorch#16979)."),
    Rule("P007", "error", _RUNS, _each(_memory), "raise resources.limits.memory or lower shm.size",
         "Files in memory count against the pod's limit."),
    Rule("P016", "error", _RUNS, _each(_above_limit), "set both: Helm merges what is left out from the chart's defaults",
         "The API server refuses such pods; of an operator's job they simply never appear."),
    Rule("P008", "risk", _RUNS, _each(_no_limit), "set resources.limits.memory",
         "One pod could take the node's memory and with it every other pod of the run."),
    Rule("P009", "risk", _RUNS, _each(_token), "set automountServiceAccountToken: false",
         "Training needs no rights at the API server."),
    Rule("P010", "risk", _RUNS, _each(_sidecar), "label pods sidecar.istio.io/inject: \"false\"",
         "A proxy breaks rendezvous and NCCL, and keeps the pod from ending (pytorch-operator#258)."),
    Rule("P011", "risk", _RUNS, _each(_short_grace), f"set gracePeriodSeconds to {_MIN_GRACE_S} or more",
         "What is not saved when SIGKILL comes is trained again."),
    Rule("P012", "risk", _RUNS, _each(_gpus), "make processesPerNode equal to gpusPerNode",
         "Two processes would share a GPU, or a GPU would idle."),
    Rule("P013", "error", _RUNS, _each(_probe), "remove the probe; the entrypoint has a watchdog",
         "The operators' services publish ready pods only, so agents never find each other."),
    Rule("P014", "error", ("Job", "PyTorchJob"), _files_apart, "use storage.runs.kind claim or existing",
         "After a restart another pod may lead the run, and must find the checkpoint."),
    Rule("P015", "risk", ("PersistentVolumeClaim",), _one_node_only, "use ReadWriteMany, or keep all pods on one node",
         "Pods on other nodes stay in ContainerCreating for ever."),
)  # fmt: skip
