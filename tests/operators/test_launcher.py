"""The launcher and Helm against a real API server and the real operators: every scenario of the chart, from file to pods."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.cluster import API_VERSIONS, Cluster
from k8s.control import Runs
from k8s.errors import ClusterError, DeadlineError, NotThereError, UsageError
from k8s.helm import HelmBinary, HelmPackage
from k8s.kind.toolbox import Toolbox
from k8s.render import CHART, Manifest, dump, render, run_object
from k8s.rules.finding import pod_templates
from k8s.run import load_run
from k8s.volume_logs import reader_pod, volume_logs
from tests.chart.scenarios import FILES
from tests.operators.control_plane import ControlPlane
from tests.operators.observing import environment, names, wait_for_pods
from tests.operators.processes import wait_until

pytestmark = [pytest.mark.operators, pytest.mark.timeout(120)]

NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}
POD_MONITOR = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor", "listKind": "PodMonitorList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""A stand-in for Prometheus Operator's definition, which comes in no package: it takes any fields."""


def launcher(control_plane: ControlPlane, *arguments: str, user: str = "admin") -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own."""
    command = [sys.executable, "-m", "k8s", *arguments, "--kubeconfig", str(control_plane.kubeconfig(user))]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | NO_PROXY, timeout=100, check=False)


@pytest.fixture
def runs(control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The launcher's own view of the namespace."""
    for name, value in NO_PROXY.items():
        monkeypatch.setenv(name, value)
    return Runs(Cluster.connect(namespace, kubeconfig=control_plane.kubeconfig()))


def submitted(runs: Runs, scenario: str, *overrides: str) -> Manifest:
    """A scenario's run on the server."""
    objects = render(load_run(FILES[scenario], overrides), runs.cluster.namespace, HelmPackage())
    list(runs.submit(objects))
    return runs.refreshed(run_object(objects))


def pod_names(run: Manifest, count: int) -> list[str]:
    name = run["metadata"]["name"]
    return [f"{name}-{'' if run['kind'] == 'Job' else 'worker-'}{index}" for index in range(count)]


def wait_for_workers(control_plane: ControlPlane, run: Manifest, count: int) -> list[Manifest]:
    """Until the run has exactly so many pods that train. A Job's pods carry a random ending behind their index."""
    namespace, selector = run["metadata"]["namespace"], f"pretrain-run/run={run['metadata']['name']}"
    if run["kind"] == "MPIJob":  # a resumed one has its launcher at once
        selector += ",training.kubeflow.org/job-role=worker"
    if run["kind"] != "Job":
        return wait_for_pods(control_plane, namespace, pod_names(run, count), selector)

    def seen() -> list[str]:
        found = control_plane.api().list("v1", "Pod", namespace, selector)
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(pod["metadata"]["name"].rpartition("-")[0] for pod in alive)

    wait_until(lambda: seen() == pod_names(run, count), f"{count} pods", 30, lambda: f"there are {seen()}")
    return control_plane.api().list("v1", "Pod", namespace, selector)


@pytest.mark.parametrize("scenario", FILES)
def test_a_scenario_is_taken_by_the_server_and_gets_its_pods(
    control_plane: ControlPlane, namespace: str, scenario: str
) -> None:
    """The server knows every field of every object (strict validation); Pod Security `restricted` admits every pod."""
    if scenario == "everything":
        control_plane.api().apply(POD_MONITOR)
        wait_until(lambda: _serves_monitors(control_plane), "PodMonitor to be served", 30)
    ended = launcher(control_plane, "submit", "-f", str(FILES[scenario]), "-n", namespace, "--detach")
    assert ended.returncode == 0, ended.stderr
    name = ended.stdout.strip()
    run = load_run(FILES[scenario])
    kind = {"job": "Job", "pytorchjob": "PyTorchJob", "mpijob": "MPIJob"}[run.values.backend]
    live = control_plane.api().get(API_VERSIONS[kind], kind, name, namespace)
    if scenario == "pytorchjob-gpu":
        # its priority class is not there: the server refuses the pods, and status says so
        runs = Runs(Cluster.connect(namespace, kubeconfig=control_plane.kubeconfig()))
        wait_until(lambda: "no PriorityClass with name training was found" in str(runs.status(live).reasons), "the reason", 30)
        return
    pods = wait_for_workers(control_plane, live, run.values.nodes)
    for pod in pods:
        variables = environment(pod) if len(pod["spec"]["containers"]) == 1 else {}
        assert variables["PRETRAIN_RUN_BACKEND"] == run.values.backend
        assert variables["PRETRAIN_RUN_NAME"] == name


def _serves_monitors(control_plane: ControlPlane) -> bool:
    return Cluster.connect("default", kubeconfig=control_plane.kubeconfig()).serves("PodMonitor", "monitoring.coreos.com/v1")


def test_the_operator_injects_what_the_entrypoint_expects(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "pytorchjob-elastic")
    name = run["metadata"]["name"]
    for pod in wait_for_workers(control_plane, run, 2):
        injected = {
            key: value for key, value in environment(pod).items() if key.startswith(("PET_", "MASTER", "RANK", "WORLD"))
        }
        assert injected == {
            "PET_NPROC_PER_NODE": "1",
            "PET_RDZV_ENDPOINT": f"{name}-worker-0:29400",
            "PET_RDZV_BACKEND": "c10d",
            "PET_NNODES": "1:3",
            "PET_MAX_RESTARTS": "10",
            "PET_RDZV_ID": name,
            "PET_RDZV_CONF": "join_timeout=1800,last_call_timeout=5",
        }
        assert "initContainers" not in pod["spec"]

    def services() -> list[str]:
        return names(control_plane.api().list("v1", "Service", runs.cluster.namespace))

    wait_until(lambda: services() == [f"{name}-worker-0", f"{name}-worker-1"], "a service for each pod", 30)


def test_job_controller_gives_indexes_and_names(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "job-elastic")
    pods = wait_for_workers(control_plane, run, 2)
    for index, pod in enumerate(pods):
        assert pod["spec"]["hostname"] == f"{run['metadata']['name']}-{index}"
        assert pod["spec"]["subdomain"] == run["metadata"]["name"]
        variables = {each["name"]: each for each in pod["spec"]["containers"][0]["env"]}
        assert "JOB_COMPLETION_INDEX" in variables


def test_mpi_operator_makes_hostfile_keys_and_workers(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "mpijob")
    name, namespace = run["metadata"]["name"], runs.cluster.namespace
    pods = wait_for_workers(control_plane, run, 2)
    assert f"{name}-ssh" in names(control_plane.api().list("v1", "Secret", namespace))
    hosts = control_plane.api().get("v1", "ConfigMap", f"{name}-config", namespace)["data"]["hostfile"]
    assert [line.split(".")[0] for line in hosts.splitlines()] == [f"{name}-worker-0", f"{name}-worker-1"]
    assert pods[0]["spec"]["containers"][0]["command"][0] == "/usr/sbin/sshd"
    for pod in pods:
        control_plane.set_pod_phase(namespace, pod["metadata"]["name"], "Running")

    def launcher_pods() -> list[Manifest]:
        found = control_plane.api().list("v1", "Pod", namespace, f"pretrain-run/run={name}")
        return [pod for pod in found if "-launcher-" in pod["metadata"]["name"]]

    wait_until(lambda: len(launcher_pods()) == 1, "the launcher, once the workers are ready", 30)
    variables = environment(launcher_pods()[0])
    assert variables["K_MPI_JOB_ROLE"] == "launcher"
    assert variables["OMPI_MCA_orte_default_hostfile"] == "/etc/mpi/hostfile"


@pytest.mark.parametrize("scenario", ["job-elastic", "pytorchjob-elastic", "mpijob", "gitops", "laptop"])
def test_helm_install_makes_what_the_launcher_makes(control_plane: ControlPlane, runs: Runs, scenario: str) -> None:
    """By Helm's binary into a namespace of its own; the objects differ in nothing that a person wrote."""
    namespace = runs.cluster.namespace
    objects = render(load_run(FILES[scenario]), namespace, HelmPackage())
    helm = str(Toolbox().path("helm"))
    environment_ = os.environ | NO_PROXY | {"KUBECONFIG": str(control_plane.kubeconfig())}
    command = [helm, "install", "pretrain-run", str(CHART), "-n", namespace, "-f", str(FILES[scenario])]
    installed = subprocess.run(command, capture_output=True, text=True, env=environment_, timeout=100, check=False)
    assert installed.returncode == 0, installed.stderr
    for item in objects:
        live = control_plane.api().get(item["apiVersion"], item["kind"], item["metadata"]["name"], namespace)
        assert missing(item, live) == []
    diff = [line for line in runs.diff(objects).splitlines() if line.startswith(("+ ", "- "))]
    assert [line for line in diff if "managed-by" not in line and "meta.helm.sh" not in line] == []
    name = run_object(objects)["metadata"]["name"]
    assert f"pretrain-run/run={name}" in installed.stdout
    command = [helm, "uninstall", "pretrain-run", "-n", namespace]
    removed = subprocess.run(command, capture_output=True, text=True, env=environment_, timeout=100, check=False)
    assert removed.returncode == 0, removed.stderr
    left = {item["kind"] for item in objects} if scenario == "gitops" else {"PersistentVolumeClaim"}
    for item in objects:
        found = names(control_plane.api().list(item["apiVersion"], item["kind"], namespace))
        if item["kind"] in left:
            assert item["metadata"]["name"] in found
        elif item["kind"] != run_object(objects)["kind"]:  # it goes when its pods are gone
            assert item["metadata"]["name"] not in found


def test_the_pod_of_helm_test_is_admitted(control_plane: ControlPlane, namespace: str) -> None:
    documents = yaml.safe_load_all(HelmPackage().render(CHART, load_run(FILES["laptop"]).given, namespace))
    (pod,) = [item for item in documents if item and item["kind"] == "Pod"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    live = control_plane.api().create(pod, namespace, dry_run=True)
    assert missing(pod, live) == []
    command = live["spec"]["containers"][0]["command"]
    assert command[command.index("-m", 3) + 1] == "trainer.training.allreduce"


def missing(wanted: Any, live: Any, path: str = "") -> list[str]:
    """What stands in a manifest and not in the live object."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return [line for key in wanted for line in missing(wanted[key], live.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        return [
            line
            for index, (one, other) in enumerate(zip(wanted, live, strict=True))
            for line in missing(one, other, f"{path}[{index}]")
        ]
    return [] if wanted == live else [f"{path}: {wanted!r} became {live!r}"]


@pytest.mark.parametrize("scenario", FILES)
def test_the_binary_and_the_package_render_the_same_bytes(scenario: str) -> None:
    run = load_run(FILES[scenario])
    binary = HelmBinary(Toolbox().path("helm"))
    assert dump(render(run, "training", binary)) == dump(render(run, "training", HelmPackage()))


def test_helm_binary_refuses_in_the_same_words(tmp_path: Path) -> None:
    values = {"name": "demo", "nodes": 9, "elastic": {"enabled": True, "max": 4}}
    told = []
    for helm in (HelmBinary(Toolbox().path("helm")), HelmPackage()):
        with pytest.raises(Exception, match=r"nodes 9 is outside of elastic\.min 1 to max 4") as refused:
            helm.render(CHART, values, "training")
        told.append(str(refused.value))
    assert told[0] == told[1]


@pytest.mark.parametrize("scenario", ["job-elastic", "pytorchjob-elastic"])
def test_scale_changes_the_pods_and_keeps_to_the_range(control_plane: ControlPlane, runs: Runs, scenario: str) -> None:
    run = submitted(runs, scenario)
    wait_for_workers(control_plane, run, 2)
    assert runs.scale(run, 3).endswith("2 -> 3 nodes")
    wait_for_workers(control_plane, run, 3)
    assert runs.scale(runs.refreshed(run), 1).endswith("3 -> 1 nodes")
    wait_for_workers(control_plane, run, 1)
    with pytest.raises(UsageError, match=r"9 nodes are outside of elastic\.min 1"):
        runs.scale(run, 9)


def test_what_cannot_be_scaled_says_why(control_plane: ControlPlane, runs: Runs) -> None:
    with pytest.raises(UsageError, match="mpijob cannot be scaled"):
        runs.scale(submitted(runs, "mpijob"), 3)
    with pytest.raises(UsageError, match=r"rendered for 1 nodes; render it with elastic\.enabled"):
        runs.scale(submitted(runs, "laptop"), 2)


@pytest.mark.parametrize("scenario", ["job-elastic", "pytorchjob-elastic", "mpijob"])
def test_stop_takes_the_pods_away_and_resume_brings_them_back(control_plane: ControlPlane, runs: Runs, scenario: str) -> None:
    run = submitted(runs, scenario)
    wait_for_workers(control_plane, run, 2)
    runs.stop(run)
    wait_for_workers(control_plane, run, 0)
    wait_until(lambda: runs.status(runs.refreshed(run)).phase == "Suspended", "phase Suspended", 20)
    assert runs.resume(runs.refreshed(run)).endswith("goes on from its last checkpoint")
    wait_for_workers(control_plane, run, 2)


WORKLOAD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workloads.kueue.x-k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "Workload", "plural": "workloads", "singular": "workload", "listKind": "WorkloadList"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""A stand-in for Kueue's definition, which takes any fields."""


def test_a_run_in_a_queue_is_stopped_through_its_workload(control_plane: ControlPlane, runs: Runs) -> None:
    """Kueue would start again what is only suspended."""
    run = submitted(runs, "job-kueue")
    with pytest.raises(UsageError, match="Kueue has no workload of it"):
        runs.stop(run)
    control_plane.api().apply(WORKLOAD)
    try:
        fresh = lambda: Runs(Cluster.connect(runs.cluster.namespace, kubeconfig=control_plane.kubeconfig()))  # noqa: E731
        wait_until(lambda: fresh().cluster.serves("Workload", "kueue.x-k8s.io/v1beta1"), "Workload to be served", 30)
        labels = {"kueue.x-k8s.io/job-uid": run["metadata"]["uid"]}
        workload = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload", "metadata": {"name": "w", "labels": labels}}
        fresh().cluster.apply(workload | {"spec": {"active": True}})
        fresh().stop(run)
        assert fresh().cluster.get("Workload", "w", "kueue.x-k8s.io/v1beta1")["spec"]["active"] is False
        runs.cluster.patch("Job", run["metadata"]["name"], "batch/v1", {"spec": {"suspend": True}})  # as Kueue does then
        fresh().resume(runs.refreshed(run))
        assert fresh().cluster.get("Workload", "w", "kueue.x-k8s.io/v1beta1")["spec"]["active"] is True
    finally:
        control_plane.api().delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "workloads.kueue.x-k8s.io")


def test_submitting_the_same_inputs_again_starts_nothing(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "job-elastic")
    objects = render(load_run(FILES["job-elastic"], ["nodes=3"]), runs.cluster.namespace, HelmPackage())
    assert list(runs.submit(objects)) == [
        f"Job/{run['metadata']['name']} is there already: the same inputs are the same run; nothing to do"
    ]
    assert runs.refreshed(run)["spec"]["parallelism"] == 2


def test_diff_shows_what_submit_would_change(control_plane: ControlPlane, runs: Runs) -> None:
    objects = render(load_run(FILES["pytorchjob-elastic"]), runs.cluster.namespace, HelmPackage())
    assert "+kind: PyTorchJob" in runs.diff(objects)
    list(runs.submit(objects))
    assert runs.diff(objects) == ""
    changed = render(load_run(FILES["pytorchjob-elastic"], ["nodes=3"]), runs.cluster.namespace, HelmPackage())
    lines = runs.diff(changed).splitlines()
    assert [line.replace(" ", "") for line in lines if line.startswith(("+ ", "- "))] == ["-replicas:2", "+replicas:3"]


def test_status_follows_a_run_to_its_end(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "job-elastic")
    pods = wait_for_workers(control_plane, run, 2)
    assert runs.status(runs.refreshed(run)).phase == "Pending"
    for pod in pods:
        control_plane.set_pod_phase(runs.cluster.namespace, pod["metadata"]["name"], "Running")
    status = runs.status(runs.refreshed(run))
    assert (status.phase, status.ready, status.nodes, status.node_range) == ("Running", 2, 2, "1:4")
    control_plane.set_pod_phase(runs.cluster.namespace, pods[0]["metadata"]["name"], "Succeeded", exit_code=0)
    wait_until(lambda: runs.status(runs.refreshed(run)).phase == "Succeeded", "phase Succeeded", 30)
    with pytest.raises(UsageError, match="it has ended"):
        runs.stop(runs.refreshed(run))


def test_a_permanent_failure_ends_a_job_and_resume_makes_a_new_attempt(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "job-elastic")
    namespace, name = runs.cluster.namespace, run["metadata"]["name"]
    pods = wait_for_workers(control_plane, run, 2)
    control_plane.set_pod_phase(namespace, pods[1]["metadata"]["name"], "Failed", exit_code=65, message="model.num_heads: no")
    wait_until(lambda: runs.status(runs.refreshed(run)).phase == "Failed", "phase Failed", 30)
    reasons = " ".join(runs.status(runs.refreshed(run)).reasons)
    assert "PodFailurePolicy" in reasons
    assert "exit code 65" in reasons
    ended = launcher(control_plane, "resume", name, "-n", namespace)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "`launcher resume -f FILE` makes it anew" in ended.stderr
    ended = launcher(control_plane, "resume", "-f", str(FILES["job-elastic"]), "-n", namespace, "--detach")
    assert ended.returncode == 0, ended.stderr
    again = runs.find(name)
    assert again["metadata"]["uid"] != run["metadata"]["uid"]
    (_, template), *_ = pod_templates(again)
    variables = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
    assert variables["PRETRAIN_RUN_ATTEMPT"] == "1"


@pytest.mark.parametrize(("exit_code", "ends"), [(65, True), (75, True), (143, False), (134, False), (137, False)])
def test_a_pytorchjobs_end_follows_the_entrypoints_code(
    control_plane: ControlPlane, runs: Runs, exit_code: int, ends: bool
) -> None:
    run = submitted(runs, "pytorchjob-elastic")
    namespace = runs.cluster.namespace
    first, second = wait_for_workers(control_plane, run, 2)
    for pod in (first, second):
        control_plane.set_pod_phase(namespace, pod["metadata"]["name"], "Running")
    wait_until(lambda: runs.status(runs.refreshed(run)).phase == "Running", "phase Running", 30)
    control_plane.set_pod_phase(namespace, second["metadata"]["name"], "Failed", exit_code=exit_code, message="its reason")
    if ends:
        wait_until(lambda: runs.status(runs.refreshed(run)).phase == "Failed", "phase Failed", 30)
        assert "its reason" in str(runs.status(runs.refreshed(run)).reasons)  # the pod stays, with its last words
        wait_for_pods(control_plane, namespace, [second["metadata"]["name"]])
        return

    def made_anew() -> bool:
        pods = {pod["metadata"]["name"]: pod for pod in wait_for_any(control_plane, run)}
        again = pods.get(second["metadata"]["name"])
        return again is not None and again["metadata"]["uid"] != second["metadata"]["uid"]

    wait_until(made_anew, "a new pod of that name", 30)
    assert runs.status(runs.refreshed(run)).phase == "Running"


def test_a_preempted_pod_is_made_again_and_does_not_count(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "job-elastic")
    pods = wait_for_workers(control_plane, run, 2)
    control_plane.set_pod_phase(runs.cluster.namespace, pods[1]["metadata"]["name"], "Failed", exit_code=143)

    def fresh() -> bool:
        alive = [pod["metadata"]["name"] for pod in wait_for_any(control_plane, run) if pod["status"].get("phase") != "Failed"]
        return len(alive) == 2 and pods[1]["metadata"]["name"] not in alive

    wait_until(fresh, "a new pod of index 1", 40)
    assert not runs.refreshed(run)["status"].get("failed")


def wait_for_any(control_plane: ControlPlane, run: Manifest) -> list[Manifest]:
    return control_plane.api().list("v1", "Pod", run["metadata"]["namespace"], f"pretrain-run/run={run['metadata']['name']}")


def test_status_says_why_a_run_waits(control_plane: ControlPlane, runs: Runs) -> None:
    namespace = runs.cluster.namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "1"}}}
    control_plane.api().create(quota, namespace)
    wait_until(
        lambda: "hard" in control_plane.api().get("v1", "ResourceQuota", "none", namespace).get("status", {}), "the quota", 30
    )
    run = submitted(runs, "job-elastic")
    wait_until(lambda: "exceeded quota: none" in str(runs.status(runs.refreshed(run)).reasons), "the quota's words", 30)
    (pod,) = wait_for_any(control_plane, run)
    core_status = {
        "status": {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no memory"}
            ],
            "containerStatuses": [
                {
                    "name": "pytorch", "image": "x", "imageID": "", "ready": False, "restartCount": 2,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}},
                }
            ],
        }
    }  # fmt: skip
    runs.cluster.patch("Pod", pod["metadata"]["name"], "v1", core_status, "status")
    reasons = "\n".join(runs.status(runs.refreshed(run)).reasons)
    assert "has no node: 0/3 nodes: no memory" in reasons
    assert "ImagePullBackOff: no such tag" in reasons
    listed = launcher(control_plane, "list", "-n", namespace, "--json")
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["phase"], row["restarts"]) == (run["metadata"]["name"], "Restarting", 2)
    with pytest.raises(DeadlineError, match=r"still Restarting after 0 s .*no memory"):
        runs.wait(run, lambda _: False, 0.0, lambda _: None)


def test_verify_reads_the_live_run(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "pytorchjob-elastic")
    name, namespace = run["metadata"]["name"], runs.cluster.namespace
    ended = launcher(control_plane, "verify", name, "-n", namespace)
    assert (ended.returncode, ended.stdout) == (0, f"{name}: is what its name says\n")
    worker = run["spec"]["pytorchReplicaSpecs"]["Worker"]
    worker["template"]["spec"]["containers"][0]["image"] = "pretrain-run:9"
    change = {"spec": {"pytorchReplicaSpecs": {"Worker": worker}}}
    control_plane.api().patch("kubeflow.org/v1", "PyTorchJob", name, namespace, change)
    ended = launcher(control_plane, "verify", name, "-n", namespace)
    assert ended.returncode == 65
    assert "runs image pretrain-run:9, and the identity says pretrain-run:0.1.0" in ended.stdout


def test_runs_are_found_by_name_hash_and_base_name(control_plane: ControlPlane, runs: Runs) -> None:
    first = submitted(runs, "laptop")
    name = first["metadata"]["name"]
    assert [runs.find(key)["metadata"]["name"] for key in (name, name.rpartition("-")[2], "demo")] == [name] * 3
    submitted(runs, "job-elastic")
    with pytest.raises(UsageError, match="names 2 runs"):
        runs.find("demo")
    with pytest.raises(NotThereError, match=f"no run 'nothing' in namespace .*{name}"):
        runs.find("nothing")


def test_retire_removes_files_of_ended_runs_beyond_the_newest(control_plane: ControlPlane, runs: Runs, tmp_path: Path) -> None:
    namespace, folder = runs.cluster.namespace, tmp_path / "runs"
    names_ = []
    for seed in (1, 2, 3):
        arguments = ["-f", str(FILES["laptop"]), "--set", f"trainer.seed={seed}", "-n", namespace]
        assert launcher(control_plane, "render", *arguments, "--out", str(folder)).returncode == 0
        ended = launcher(control_plane, "submit", *arguments, "--detach")
        assert ended.returncode == 0, ended.stderr
        names_.append(ended.stdout.strip())
    (folder / "kustomization.yaml").write_text("resources: []")
    for name in names_[:2]:
        (pod,) = wait_for_workers(control_plane, runs.find(name), 1)
        control_plane.set_pod_phase(namespace, pod["metadata"]["name"], "Succeeded", exit_code=0)
        wait_until(lambda name=name: runs.status(runs.find(name)).phase == "Succeeded", "the end", 30)
    ended = launcher(control_plane, "retire", "--dir", str(folder), "--keep", "1", "-n", namespace)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{folder / names_[0]}.yaml\n"
    assert {path.stem for path in folder.iterdir()} == {*names_[1:], "kustomization"}


def test_a_user_without_rights_gets_one_line(control_plane: ControlPlane, namespace: str) -> None:
    ended = launcher(control_plane, "submit", "-f", str(FILES["laptop"]), "-n", namespace, user="viewer")
    assert ended.returncode == 1
    assert 'User "viewer" cannot get resource "jobs"' in ended.stderr
    assert "ask for a Role with that verb (docs/security.md)" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_wrong_token_and_an_absent_server_get_one_line(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    settings = yaml.safe_load(control_plane.kubeconfig().read_text())
    settings["users"][0]["user"] = {"token": "expired"}
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ClusterError, match="the token has expired or is wrong; log in again"):
        Cluster.connect(namespace, kubeconfig=file).list("Pod", "v1")
    settings["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ClusterError, match="the API server does not answer"):
        Cluster.connect(namespace, kubeconfig=file).list("Pod", "v1")
    with pytest.raises(ClusterError, match="no context 'nowhere' in the kubeconfig"):
        Cluster.connect(namespace, "nowhere", file)


def test_a_kind_that_is_not_served_names_who_brings_it(runs: Runs) -> None:
    with pytest.raises(NotThereError, match=r"serves no Ray of ray\.io/v1; install what brings it"):
        runs.cluster.resource("Ray", "ray.io/v1")


def test_the_pod_that_reads_logs_is_admitted_and_removed(control_plane: ControlPlane, runs: Runs) -> None:
    run = submitted(runs, "laptop")
    assert reader_pod(run)["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "runs", "mountPath": "/runs", "readOnly": True}
    ]
    with pytest.raises(DeadlineError, match="still Pending"):
        list(volume_logs(runs.cluster, run, 0.0))
    left = names(control_plane.api().list("v1", "Pod", runs.cluster.namespace, "pretrain-run/reader"))
    wait_until(
        lambda: not names(control_plane.api().list("v1", "Pod", runs.cluster.namespace, "pretrain-run/reader")), str(left), 30
    )


def test_the_lines_of_the_notes_work(control_plane: ControlPlane, runs: Runs) -> None:
    """What `helm install` prints for scaling, stopping and resuming is run as it stands."""
    namespace, helm, kubectl = runs.cluster.namespace, str(Toolbox().path("helm")), Toolbox().path("kubectl")
    variables = (
        os.environ
        | NO_PROXY
        | {"KUBECONFIG": str(control_plane.kubeconfig()), "PATH": f"{kubectl.parent}:{os.environ['PATH']}"}
    )
    for scenario in ("job-elastic", "pytorchjob-elastic"):
        command = [helm, "install", scenario, str(CHART), "-n", namespace, "-f", str(FILES[scenario])]
        command += ["--set", f"name={scenario}"]  # the same inputs are the same name under any backend
        notes = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=100, check=True).stdout
        lines = dict(line.split(":", 1) for line in notes.splitlines() if line.split(":", 1)[0] in ("scale", "stop", "resume"))
        run = runs.find(scenario)
        most = 4 if scenario == "job-elastic" else 3
        for step, count in (("scale", most), ("stop", 0), ("resume", most)):
            subprocess.run(["bash", "-c", lines[step]], env=variables, timeout=60, check=True, capture_output=True)
            wait_for_workers(control_plane, run, count)
