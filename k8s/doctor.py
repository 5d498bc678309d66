"""What in a cluster would keep a run from starting or going well: each finding has a code, why it matters, and the way out.

Looks only; changes nothing. What the user may not look at becomes a finding of its own, never silence.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from k8s.cluster import API_VERSIONS, INSTALLED_BY, Cluster, Manifest
from k8s.errors import ClusterError, NotThereError
from k8s.render import run_object
from k8s.rules.finding import Finding, Level, at, pod_templates, replica_specs, size_bytes, trainer_container

MIN_MINOR = 31
"""Kubernetes 1.31: the first with what the chart relies on."""

_OPERATORS = {"PyTorchJob": ("training-operator", (1, 9, 4)), "MPIJob": ("mpi-operator", (0, 8, 0))}
_NODE_BOUND = (
    "rancher.io/local-path",
    "kubernetes.io/no-provisioner",
    "ebs.csi.aws.com",
    "pd.csi.storage.gke.io",
    "disk.csi.azure.com",
)
"""Provisioners whose volumes one node can mount."""

_VERBS = (
    ("create", "Job"), ("patch", "Job"), ("delete", "Job"), ("list", "Pod"), ("list", "Event"), ("patch", "ConfigMap"),
    ("patch", "Service"),
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """A look at a cluster, with the run in mind if there is one."""

    cluster: Cluster
    objects: Sequence[Manifest] = ()

    @property
    def run(self) -> Manifest | None:
        """The run's object."""
        return run_object(self.objects) if self.objects else None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the runs that are meant: the run's own, or all."""
        return (self.run["kind"],) if self.run is not None else tuple(API_VERSIONS)


Check = Callable[[Visit], Iterator[Finding]]


def examine(cluster: Cluster, objects: Sequence[Manifest] = ()) -> list[Finding]:
    """All findings, errors first. Raises ClusterError if the cluster cannot be reached at all."""
    visit = Visit(cluster, objects)
    findings = list(_version(visit))
    for check in _CHECKS:
        try:
            findings += check(visit)
        except ClusterError as error:
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(_found("D000", "risk", name, str(error), "ask for the right to look, or ask who has it"))
    return sorted(findings, key=lambda finding: (finding.level != "error", finding.code))


def _found(code: str, level: Level, where: str, message: str, fix: str) -> Finding:
    return Finding(code, level, where, message, fix)


def _version(visit: Visit) -> Iterator[Finding]:
    version = visit.cluster.request("GET", "/version", "version", has=("major", "minor", "gitVersion"))
    major, minor = (int(re.sub(r"\D.*", "", str(version[key])) or 0) for key in ("major", "minor"))
    if (major, minor) < (1, MIN_MINOR):
        yield _found(
            "D010", "error", "cluster", f"Kubernetes {version['gitVersion']} is older than 1.{MIN_MINOR}", "upgrade it"
        )


def _served_kinds(visit: Visit) -> Iterator[Finding]:
    for kind in visit.kinds:
        if not visit.cluster.serves(kind, API_VERSIONS[kind]):
            level: Level = "error" if visit.objects else "risk"
            message = f"the cluster serves no {API_VERSIONS[kind]}"
            if kind == "MPIJob" and visit.cluster.serves(kind, "kubeflow.org/v1"):
                message += " but v1, which is training-operator's: both define mpijobs.kubeflow.org"
                fix = "remove that CRD and start training-operator with --enable-scheme=pytorchjob"
            else:
                fix = f"install {INSTALLED_BY[API_VERSIONS[kind]]}"
            yield _found("D011", level, kind, message, fix)


def _operators(visit: Visit) -> Iterator[Finding]:
    wanted = {
        kind: _OPERATORS[kind] for kind in visit.kinds if kind in _OPERATORS and visit.cluster.serves(kind, API_VERSIONS[kind])
    }
    if not wanted:
        return
    path = visit.cluster.resource("Deployment", "apps/v1").path("")
    deployments = visit.cluster.request("GET", path, "deployments", has=("items",))["items"]
    for kind, (operator, least) in wanted.items():
        found = [each for each in deployments if operator in _image_of(each) or operator in each["metadata"]["name"]]
        if not found:
            yield _found(
                "D012",
                "risk",
                kind,
                f"no Deployment of {operator}: nobody may act on a {kind}",
                "install it, or look where it runs",
            )
        for each in found:
            yield from _operator_findings(each, operator, least, visit)


def _mpi_rights(visit: Visit) -> Iterator[Finding]:
    """mpi-operator 0.8 resumes a suspended launcher by a change of its Job's status, which its own manifests do not grant."""
    if "MPIJob" not in visit.kinds or not visit.cluster.serves("MPIJob", API_VERSIONS["MPIJob"]):
        return
    try:
        role = visit.cluster.get("ClusterRole", "mpi-operator", "rbac.authorization.k8s.io/v1")
    except NotThereError:
        return  # it runs under another role, which nobody can guess
    for rule in role.get("rules") or []:
        resources = rule.get("resources", [])
        if {"jobs/status", "*"} & set(resources) and {"update", "*"} & set(rule.get("verbs", [])):
            return
    yield _found(
        "D016", "risk", "ClusterRole/mpi-operator", "it may not update jobs/status: a stopped MPIJob cannot be resumed",
        "add the verb update on batch jobs/status to the role",
    )  # fmt: skip


def _operator_findings(deployment: Manifest, operator: str, least: tuple[int, ...], visit: Visit) -> Iterator[Finding]:
    where = f"Deployment/{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
    if not at(deployment, "status", "readyReplicas"):
        yield _found(
            "D013",
            "error",
            where,
            f"{operator} is not ready: runs are accepted and nothing happens",
            f"kubectl -n {deployment['metadata']['namespace']} describe deployment {deployment['metadata']['name']}",
        )
    version = re.search(r":v?(\d+)\.(\d+)\.(\d+)$", _image_of(deployment))
    if version and tuple(map(int, version.groups())) < least:
        wanted = ".".join(map(str, least))
        yield _found(
            "D014",
            "risk",
            where,
            f"{operator} {'.'.join(version.groups())} is older than {wanted}",
            "upgrade it: known faults are mended there",
        )
    container = at(deployment, "spec", "template", "spec", "containers", default=[{}])[0]
    flags = [*container.get("command", []), *container.get("args", [])]
    if operator == "training-operator" and visit.cluster.serves("MPIJob", API_VERSIONS["MPIJob"]):
        schemes = [flag for flag in flags if "enable-scheme" in flag]
        if not schemes or any("mpijob" in flag.lower() for flag in schemes):
            yield _found(
                "D015", "risk", where, "it also looks after MPIJobs, whose v1 is not served here",
                "start it with --enable-scheme=pytorchjob",
            )  # fmt: skip


def _image_of(deployment: Manifest) -> str:
    containers = at(deployment, "spec", "template", "spec", "containers", default=[{}])
    return str(containers[0].get("image", ""))


def _rights(visit: Visit) -> Iterator[Finding]:
    kinds = {kind for kind in visit.kinds if visit.cluster.serves(kind, API_VERSIONS[kind])}
    for verb, generic in _VERBS:
        for kind in sorted(kinds) if generic == "Job" else [generic]:
            version = API_VERSIONS.get(kind, "v1")
            if not visit.cluster.allowed(verb, kind, version):
                yield _found("D020", "error", kind, f"you may not {verb} it in namespace {visit.cluster.namespace}",
                             "ask for the Role in docs/security.md")  # fmt: skip
    for kind, version in sorted({(item["kind"], item["apiVersion"]) for item in visit.objects}):
        if visit.cluster.serves(kind, version) and not visit.cluster.allowed("create", kind, version):
            yield _found("D020", "error", kind, f"you may not create it in namespace {visit.cluster.namespace}",
                         "ask for the Role in docs/security.md")  # fmt: skip
    if not visit.cluster.allowed("get", "Pod", "v1", "log"):
        yield _found("D021", "risk", "Pod", "you may not read logs: status knows no step and `launcher logs` nothing",
                     "ask for get on pods/log")  # fmt: skip


def _namespace(visit: Visit) -> Iterator[Finding]:
    name = visit.cluster.namespace
    try:
        namespace = visit.cluster.get("Namespace", name, "v1")
    except NotThereError:
        yield _found("D030", "error", f"Namespace/{name}", "there is no such namespace", f"kubectl create namespace {name}")
        return
    level = namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
    if level != "restricted":
        yield _found(
            "D031", "risk", f"Namespace/{name}", f"Pod Security enforces {level or 'nothing'}: others may run as root",
            f"kubectl label namespace {name} pod-security.kubernetes.io/enforce=restricted; runs of this chart fit it",
        )  # fmt: skip


def _quota(visit: Visit) -> Iterator[Finding]:
    needed = _requests(visit)
    for quota in visit.cluster.list("ResourceQuota", "v1"):
        where = f"ResourceQuota/{quota['metadata']['name']}"
        hard, used = at(quota, "status", "hard", default={}), at(quota, "status", "used", default={})
        for resource, amount in needed.items():
            for key in (f"requests.{resource}", resource):
                left = size_bytes(hard[key]) - size_bytes(used.get(key, "0")) if key in hard else None
                if left is not None and left < amount:
                    yield _found("D032", "error", where, f"{key}: {used.get(key, 0)} of {hard[key]} in use, {amount:g} needed",
                                 "free some, ask for more, or lower nodes or resources")  # fmt: skip


def _requests(visit: Visit) -> dict[str, float]:
    """What all pods of the run ask for together."""
    total: dict[str, float] = {}
    if visit.run is None:
        return total
    for role, template in pod_templates(visit.run):
        specs = {name.lower(): spec for name, spec in replica_specs(visit.run).items()}
        count = specs[role].get("replicas", 1) if role in specs else at(visit.run, "spec", "parallelism", default=1)
        for resource, amount in _requests_of(template).items():
            total[resource] = total.get(resource, 0) + count * amount
        total["pods"] = total.get("pods", 0) + count
    return total


def _requests_of(template: Manifest) -> dict[str, float]:
    resources = trainer_container(template).get("resources", {})
    asked = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: size_bytes(amount) for name, amount in asked.items()}


def _nodes(visit: Visit) -> Iterator[Finding]:
    if visit.run is None:
        return
    nodes = [node for node in visit.cluster.list("Node", "v1") if not at(node, "spec", "unschedulable")]
    for role, template in pod_templates(visit.run):
        asked = _requests_of(template)
        fitting = [node for node in nodes if _fits(asked, at(node, "status", "allocatable", default={}))]
        if not fitting:
            lacking = [
                name
                for name in sorted(asked)
                if not any(_fits({name: asked[name]}, at(n, "status", "allocatable", default={})) for n in nodes)
            ]
            what = f"no node has so much {', '.join(lacking)}" if lacking else "no node has all of what a pod asks for"
            yield _found("D050", "error", role, f"{what}; {len(nodes)} nodes looked at",
                         "lower resources or gpusPerNode, or add nodes; for GPUs: is the device plugin there?")  # fmt: skip


def _fits(asked: dict[str, float], allocatable: dict[str, Any]) -> bool:
    return all(size_bytes(allocatable.get(name, "0")) >= amount for name, amount in asked.items())


def _storage(visit: Visit) -> Iterator[Finding]:
    classes = {each["metadata"]["name"]: each for each in visit.cluster.list("StorageClass", "storage.k8s.io/v1")}
    marks = "storageclass.kubernetes.io/is-default-class"
    default = next((name for name, each in classes.items() if at(each, "metadata", "annotations", marks) == "true"), None)
    claims = [item for item in visit.objects if item["kind"] == "PersistentVolumeClaim"]
    for claim in claims:
        where, wanted = f"PersistentVolumeClaim/{claim['metadata']['name']}", at(claim, "spec", "storageClassName") or default
        if wanted is None:
            yield _found(
                "D040",
                "error",
                where,
                "no storage class is named and the cluster has no default",
                "set storage.runs.storageClass",
            )
        elif wanted not in classes:
            known = ", ".join(sorted(classes)) or "none"
            yield _found("D041", "error", where, f"there is no storage class {wanted}; there: {known}", "name one of these")
        elif "ReadWriteMany" in at(claim, "spec", "accessModes", default=[]) and classes[wanted]["provisioner"] in _NODE_BOUND:
            yield _found("D042", "error", where, f"class {wanted} ({classes[wanted]['provisioner']}) has no ReadWriteMany",
                         "name a shared class (NFS, CephFS, EFS), or set ReadWriteOnce for pods on one node")  # fmt: skip
    for run in [visit.run] if visit.run is not None else []:
        own = {claim["metadata"]["name"] for claim in claims}
        for _, template in pod_templates(run):
            for volume in at(template, "spec", "volumes", default=[]):
                name = at(volume, "persistentVolumeClaim", "claimName")
                if name is not None and name not in own:
                    try:
                        visit.cluster.get("PersistentVolumeClaim", name, "v1")
                    except NotThereError:
                        yield _found(
                            "D043",
                            "error",
                            f"PersistentVolumeClaim/{name}",
                            "there is no such claim",
                            "make it, or name another",
                        )


def _queues(visit: Visit) -> Iterator[Finding]:
    if visit.run is None:
        return
    queue = at(visit.run, "metadata", "labels", "kueue.x-k8s.io/queue-name")
    if queue is None:
        return
    versions = [
        version
        for version in ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
        if visit.cluster.serves("LocalQueue", version)
    ]
    if not versions:
        yield _found("D060", "error", f"LocalQueue/{queue}", "Kueue is not installed: nobody would admit the run",
                     "install Kueue or remove scheduling.kueue.queueName")  # fmt: skip
        return
    if queue not in [each["metadata"]["name"] for each in visit.cluster.list("LocalQueue", versions[0])]:
        yield _found(
            "D061",
            "error",
            f"LocalQueue/{queue}",
            f"there is no such queue in namespace {visit.cluster.namespace}",
            "name one that is there",
        )


def _priority(visit: Visit) -> Iterator[Finding]:
    for _, template in pod_templates(visit.run) if visit.run is not None else []:
        name = at(template, "spec", "priorityClassName")
        if name is not None:
            try:
                visit.cluster.get("PriorityClass", name, "scheduling.k8s.io/v1")
            except NotThereError:
                yield _found(
                    "D062",
                    "error",
                    f"PriorityClass/{name}",
                    "there is no such class: pods would be refused",
                    "name one that is there",
                )
            return


def _dns(visit: Visit) -> Iterator[Finding]:
    services = visit.cluster.list("Service", "v1", "k8s-app=kube-dns", namespace="kube-system")
    if not services:
        yield _found("D070", "risk", "kube-system", "no Service labelled k8s-app=kube-dns: agents find each other by DNS",
                     "look whether the cluster's DNS runs under another name")  # fmt: skip


def _cgroups(visit: Visit) -> Iterator[Finding]:
    for node in visit.cluster.list("Node", "v1")[:3]:
        name = node["metadata"]["name"]
        metrics = visit.cluster.text("GET", f"/api/v1/nodes/{name}/proxy/metrics", f"metrics of node {name}")
        version = re.search(r"^kubelet_cgroup_version (\d)", metrics, re.MULTILINE)
        if version and version[1] == "1":
            yield _found("D080", "risk", f"Node/{name}", "cgroup v1: kubelet 1.35 and newer refuse to start on it",
                         "boot with cgroup v2, or stay at 1.34")  # fmt: skip


_CHECKS: tuple[Check, ...] = (
    _served_kinds, _mpi_rights, _operators, _rights, _namespace, _quota, _nodes, _storage, _queues, _priority, _dns, _cgroups,
)  # fmt: skip
