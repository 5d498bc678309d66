"""One row per trap of the operators: a render without it, the one change that sets it, and the rule that must find it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from k8s.render import Manifest, run_object
from k8s.rules import ALL_RULES, check
from tests.chart.scenarios import FILES, rendered

Change = Callable[[list[Manifest]], None]


def at(*path: str | int, to: Any) -> Change:
    """Set a value in the run's object; to: REMOVED takes it away."""

    def change(objects: list[Manifest]) -> None:
        value: Any = run_object(objects)
        for key in path[:-1]:
            value = value.setdefault(key, {}) if isinstance(value, dict) else value[key]
        if to is REMOVED:
            del value[path[-1]]
        else:
            value[path[-1]] = copy.deepcopy(to)

    return change


def of(kind: str, *path: str | int, to: Any) -> Change:
    """The same in the object of another kind."""

    def change(objects: list[Manifest]) -> None:
        value: Any = next(item for item in objects if item["kind"] == kind)
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return change


REMOVED = object()
WORKER = ("spec", "pytorchReplicaSpecs", "Worker")
POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)
MPI = ("spec", "mpiReplicaSpecs")
MASTER = {"replicas": 1, "restartPolicy": "OnFailure", "template": {"spec": {"containers": [{"name": "pytorch"}]}}}

TRAPS: list[tuple[str, str, Change]] = [
    ("R001", "job-elastic", at("metadata", "name", to="n" * 41)),
    ("R002", "job-elastic", at("metadata", "name", to="1-demo")),
    ("R003", "job-elastic", at("metadata", "generateName", to="demo-")),
    ("R004", "job-elastic", at("metadata", "annotations", "pretrain-run/identity", to="{}")),
    ("R004", "pytorchjob-elastic", at("metadata", "annotations", "pretrain-run/hash", to=REMOVED)),
    ("R005", "job-elastic", at("spec", "suspend", to=False)),
    ("R005", "pytorchjob-elastic", at("spec", "runPolicy", "suspend", to=True)),
    ("R006", "job-elastic", at("spec", "ttlSecondsAfterFinished", to=60)),
    ("R006", "mpijob", at("spec", "runPolicy", "ttlSecondsAfterFinished", to=60)),
    ("R007", "gitops", at(*WORKER, "template", "spec", "containers", 0, "image", to="registry.example.org/pretrain-run:1")),
    ("R008", "pytorchjob-elastic", at("metadata", "labels", "kueue.x-k8s.io/queue-name", to="research")),
    ("R009", "job-elastic", of("PodDisruptionBudget", "spec", "minAvailable", to="50%")),
    ("R009", "job-elastic", of("PodDisruptionBudget", "spec", "maxUnavailable", to=1)),
    ("R010", "job-elastic", of("PodDisruptionBudget", "spec", "minAvailable", to=3)),
    ("R011", "everything", of("NetworkPolicy", "spec", "egress", to=[{"ports": [{"port": 53, "protocol": "UDP"}]}])),
    ("P001", "job-elastic", at(*POD, "hostNetwork", to=True)),
    ("P001", "job-elastic", at(*CONTAINER, "securityContext", "privileged", to=True)),
    ("P001", "job-elastic", at(*CONTAINER, "securityContext", "allowPrivilegeEscalation", to=True)),
    ("P001", "job-elastic", at(*CONTAINER, "securityContext", "capabilities", "drop", to=[])),
    ("P001", "job-elastic", at(*CONTAINER, "securityContext", "capabilities", "add", to=["IPC_LOCK"])),
    ("P001", "job-elastic", at(*POD, "securityContext", "runAsNonRoot", to=False)),
    ("P001", "job-elastic", at(*POD, "securityContext", "runAsUser", to=0)),
    ("P001", "job-elastic", at(*POD, "securityContext", "seccompProfile", to=REMOVED)),
    ("P001", "job-elastic", at(*POD, "volumes", 3, to={"name": "scratch", "hostPath": {"path": "/tmp"}})),
    ("P001", "mpijob", at(*MPI, "Worker", "template", "spec", "hostIPC", to=True)),
    ("P002", "job-elastic", at(*CONTAINER, "securityContext", "readOnlyRootFilesystem", to=False)),
    ("P003", "job-elastic", at(*CONTAINER, "env", 0, to={"name": "WANDB_API_KEY", "value": "x"})),
    ("P004", "job-elastic", at(*CONTAINER, "env", 0, to={"name": "POD_IP", "value": "x"})),
    ("P005", "job-elastic", at(*CONTAINER, "image", to="pretrain-run:latest")),
    ("P005", "job-elastic", at(*CONTAINER, "image", to="registry.example.org:5000/pretrain-run")),
    ("P006", "job-elastic", at(*POD, "volumes", 2, "emptyDir", to={})),
    ("P007", "job-elastic", at(*POD, "volumes", 2, "emptyDir", "sizeLimit", to="6Gi")),
    ("P016", "job-elastic", at(*CONTAINER, "resources", "requests", "memory", to="7Gi")),
    ("P008", "job-elastic", at(*CONTAINER, "resources", "limits", to=REMOVED)),
    ("P009", "job-elastic", at(*POD, "automountServiceAccountToken", to=True)),
    ("P010", "job-elastic", at("spec", "template", "metadata", "labels", "sidecar.istio.io/inject", to=REMOVED)),
    ("P011", "job-elastic", at(*POD, "terminationGracePeriodSeconds", to=10)),
    ("P012", "pytorchjob-gpu", at(*WORKER, "template", "spec", "containers", 0, "resources", "limits", "nvidia.com/gpu", to=4)),
    ("P013", "job-elastic", at(*CONTAINER, "readinessProbe", to={"tcpSocket": {"port": 29400}})),
    ("P014", "job-elastic", at(*POD, "volumes", 1, to={"name": "runs", "emptyDir": {}})),
    ("P015", "job-elastic", of("PersistentVolumeClaim", "spec", "accessModes", to=["ReadWriteOnce"])),
    ("J001", "job-elastic", at("spec", "completionMode", to=REMOVED)),
    ("J002", "job-elastic", at("spec", "parallelism", to=3)),
    ("J003", "job-elastic", at(*POD, "subdomain", to="elsewhere")),
    ("J003", "job-elastic", of("Service", "spec", "publishNotReadyAddresses", to=False)),
    ("J003", "job-elastic", of("Service", "spec", "clusterIP", to="")),
    ("J003", "job-elastic", of("Service", "spec", "selector", to={"pretrain-run/run": "other"})),
    ("J004", "job-elastic", at(*POD, "restartPolicy", to="OnFailure")),
    ("J005", "job-elastic", at("spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values", to=[65])),
    ("J006", "job-elastic", at("spec", "podFailurePolicy", "rules", 1, to={"action": "Count", "onPodConditions": []})),
    ("J007", "job-elastic", at("spec", "successPolicy", to=REMOVED)),
    ("J008", "job-elastic", at("spec", "podReplacementPolicy", to=REMOVED)),
    ("T001", "pytorchjob-elastic", at("spec", "pytorchReplicaSpecs", "Master", to=MASTER)),
    ("T002", "pytorchjob-elastic", at("spec", "elasticPolicy", "standalone", to=True)),
    ("T003", "pytorchjob-elastic", at("spec", "nprocPerNode", to="auto")),
    ("T003", "pytorchjob-elastic", at("spec", "nprocPerNode", to=REMOVED)),
    ("T004", "pytorchjob-elastic", at("spec", "elasticPolicy", "nProcPerNode", to=2)),
    ("T005", "pytorchjob-elastic", at("spec", "elasticPolicy", to=REMOVED)),
    ("T006", "pytorchjob-elastic", at("spec", "elasticPolicy", "rdzvId", to=REMOVED)),
    ("T007", "pytorchjob-elastic", at("spec", "elasticPolicy", "rdzvBackend", to="bogus")),
    ("T008", "pytorchjob-elastic", at("spec", "elasticPolicy", "maxRestarts", to=REMOVED)),
    ("T009", "pytorchjob-elastic", at(*WORKER, "replicas", to=9)),
    ("T010", "pytorchjob-elastic", at("spec", "elasticPolicy", "metrics", to=[])),
    ("T011", "pytorchjob-elastic", at("spec", "runPolicy", "cleanPodPolicy", to=REMOVED)),
    ("T011", "pytorchjob-elastic", at("spec", "runPolicy", "cleanPodPolicy", to="All")),
    ("T012", "pytorchjob-elastic", at(*WORKER, "template", "spec", "containers", 0, "command", to=["torchrun"])),
    ("T012", "pytorchjob-elastic", at(*WORKER, "restartPolicy", to="Never")),
    ("T012", "pytorchjob-elastic", at(*WORKER, "restartPolicy", to="Always")),
    ("T013", "pytorchjob-elastic", at(*WORKER, "restartPolicy", to="OnFailure")),
    ("T013", "pytorchjob-elastic", at(*WORKER, "restartPolicy", to=REMOVED)),
    ("T014", "pytorchjob-elastic", at("spec", "runPolicy", "activeDeadlineSeconds", to=60)),
    ("T015", "pytorchjob-elastic", at(*WORKER, "template", "spec", "containers", 0, "name", to="trainer")),
    ("T016", "pytorchjob-elastic", at("spec", "pytorchReplicaSpecs", "Master", to=MASTER | {"replicas": 2})),
    ("T016", "pytorchjob-elastic", at("spec", "pytorchReplicaSpecs", "Master", to=MASTER)),
    ("T017", "pytorchjob-gpu", at("spec", "runPolicy", "schedulingPolicy", "minAvailable", to=REMOVED)),
    ("T018", "pytorchjob-elastic", at("spec", "elasticPolicy", "rdzvPort", to=1234)),
    ("M001", "mpijob", at("spec", "runPolicy", "cleanPodPolicy", to=REMOVED)),
    ("M002", "mpijob", at(*MPI, "Worker", "restartPolicy", to="Never")),
    ("M002", "mpijob", at(*MPI, "Launcher", "restartPolicy", to="ExitCode")),
    ("M003", "mpijob", at(*MPI, "Launcher", "replicas", to=2)),
    ("M003", "mpijob", at(*MPI, "Launcher", to=REMOVED)),
    ("M004", "mpijob", at("spec", "launcherCreationPolicy", to=REMOVED)),
    ("M004", "mpijob", at(*MPI, "Worker", "template", "spec", "containers", 0, "readinessProbe", to=REMOVED)),
    ("M005", "mpijob", at("spec", "runPolicy", "schedulingPolicy", to={})),
    ("M006", "mpijob", at(*MPI, "Worker", "template", "spec", "containers", 0, "ports", 0, "containerPort", to=22)),
    ("M007", "mpijob", at("spec", "sshAuthMountPath", to=REMOVED)),
    ("M008", "mpijob", at("spec", "slotsPerWorker", to=8)),
]


@pytest.mark.parametrize("name", FILES)
def test_a_scenario_breaks_no_rule_and_runs_no_risk_but_those_it_means(name: str) -> None:
    meant = {"laptop": set(), "everything": set()}.get(name, set())
    assert {finding.code for finding in check(rendered(name))} == meant


@pytest.mark.parametrize(("code", "name", "change"), TRAPS, ids=[f"{code}-{index}" for index, (code, _, _) in enumerate(TRAPS)])
def test_a_trap_is_found_with_the_way_out(code: str, name: str, change: Change) -> None:
    objects = rendered(name)
    before = {finding.code for finding in check(objects)}
    change(objects)
    found = [finding for finding in check(objects) if finding.code == code]
    assert code not in before
    assert found, f"{code} not found; found were {[finding.code for finding in check(objects)]}"
    assert found[0].fix
    assert found[0].message
    assert f"docs/rules.md#{code.lower()}" in str(found[0])


def test_every_rule_has_a_trap() -> None:
    assert {rule.code for rule in ALL_RULES} == {code for code, _, _ in TRAPS}


def test_codes_are_unique() -> None:
    codes = [rule.code for rule in ALL_RULES]
    assert len(codes) == len(set(codes))
