"""The cluster around runs: what reaches them, what the launcher finds, what the operator's guard refuses."""

import json
from pathlib import Path

import pytest
import yaml

from k8s.kind.commands import LocalClusterError, run
from tests.kind.stories import IMAGE, Stories

pytestmark = [pytest.mark.kind, pytest.mark.timeout(600)]

STRANGER = "stranger"
PROBE = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close(); print('connected')"
GUARD = Path("k8s/gitops/admission/guard.yaml")


def reaches(stories: Stories, pod: str, address: str, port: int) -> bool:
    """Whether a pod can connect to an address."""
    try:
        said = stories.kubectl("exec", pod, "--container=pytorch", "--", "python", "-c", PROBE, address, str(port))
    except LocalClusterError:
        return False
    return "connected" in said


def start_stranger(stories: Stories) -> None:
    """A pod in the same namespace that belongs to no run, and that may call whom it likes."""
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "pytorch",
        "image": IMAGE,
        "command": ["sleep", "600"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    labels = {"pretrain-run/reader": STRANGER}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": STRANGER, "namespace": stories.namespace, "labels": labels},
        "spec": {"securityContext": security, "containers": [container], "automountServiceAccountToken": False},
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": STRANGER, "namespace": stories.namespace},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Egress"], "egress": [{}]},
    }
    stories.cluster.apply([policy, pod])
    stories.kubectl("wait", f"pod/{STRANGER}", "--for=condition=Ready", "--timeout=60s")


def test_strangers_do_not_reach_the_rendezvous(stories: Stories) -> None:
    started = stories.submit("closed", backend="job", nodes=2)
    started.wait_for_world(0, 2, deadline_s=300)
    start_stranger(stories)
    pods = started.pods()
    address = pods[0]["status"]["podIP"]
    assert reaches(stories, pods[1]["metadata"]["name"], address, 29400), "pods of the run reach each other"
    assert not reaches(stories, STRANGER, address, 29400)


def test_strangers_do_not_reach_sshd(operators: None, stories: Stories) -> None:
    started = stories.submit("closed-mpi", backend="mpijob", nodes=2)
    started.wait_for_world(0, 2, deadline_s=400)
    start_stranger(stories)
    workers = [pod for pod in started.pods() if pod["metadata"]["labels"].get("training.kubeflow.org/job-role") == "worker"]
    assert reaches(stories, workers[1]["metadata"]["name"], workers[0]["status"]["podIP"], 2222)
    assert not reaches(stories, STRANGER, workers[0]["status"]["podIP"], 2222)


def test_doctor_finds_nothing_wrong_with_a_run_that_fits(operators: None, stories: Stories) -> None:
    done = stories.launcher("doctor", "-f", str(stories.run_file("fits", backend="pytorchjob", nodes=1)), "--json")
    assert [finding for finding in json.loads(done.stdout) if finding["level"] == "error"] == []


def test_applying_the_runs_folder_twice_starts_nothing_twice(stories: Stories) -> None:
    folder = stories.folder / "runs"
    digest = "sha256:" + "0" * 64
    changes = {"gitops": True, "image": {"digest": digest}, "trainer": {"seed": 1}}
    file = stories.run_file("by-git", backend="job", nodes=1, **changes)

    def rendered_and_applied(*overrides: str) -> list[str]:
        settings = [word for override in overrides for word in ("--set", override)]
        stories.launcher("render", "-f", str(file), "--out", str(folder), *settings)
        stories.kubectl("apply", "--server-side", "--filename", str(folder))
        return sorted(stories.kubectl("get", "jobs", "--output", "jsonpath={.items[*].metadata.uid}").split())

    first = rendered_and_applied()
    assert len(first) == 1
    assert rendered_and_applied() == first
    both = rendered_and_applied("trainer.pretrain.optimizer.lr=0.002")
    assert len(both) == 2
    assert set(first) < set(both)


def test_guard_refuses_to_delete_a_running_run(stories: Stories) -> None:
    guard = list(yaml.safe_load_all(GUARD.read_text()))
    # for the other stories' sake, whose runs are deleted as they go on
    (binding,) = [each for each in guard if each["kind"] == "ValidatingAdmissionPolicyBinding"]
    here = {"matchLabels": {"kubernetes.io/metadata.name": stories.namespace}}
    binding["spec"]["matchResources"] = {"namespaceSelector": here}
    stories.cluster.apply(guard)
    try:
        started = stories.submit("guarded", backend="job", nodes=1)
        started.wait_for_phase("Running", deadline_s=180)
        stories.wait_until(lambda: "launcher stop" in refusal(stories, started.name), "the guard refuses", 60)
        stories.launcher("stop", started.name)
        stories.kubectl("delete", "job", started.name, "--timeout=60s")
    finally:
        stories.cluster.kubectl("delete", "--filename", str(GUARD), "--ignore-not-found")


def refusal(stories: Stories, name: str) -> str:
    """What the API server answers when a Job's deletion is tried without doing it."""
    command = [
        stories.cluster.toolbox.path("kubectl"),
        "--kubeconfig",
        stories.cluster.kubeconfig,
        "--namespace",
        stories.namespace,
    ]
    try:
        return run([*command, "delete", "job", name, "--dry-run=server"], 60.0)
    except LocalClusterError as error:
        return str(error)
