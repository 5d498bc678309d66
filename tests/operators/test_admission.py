"""The guard of running runs (k8s/gitops/admission) on a real API server: what the launcher renders, deleted and edited."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client import ApiException

from k8s.cluster import Cluster
from k8s.control import Runs
from k8s.errors import ClusterError
from k8s.helm import find_helm
from k8s.render import render, run_object
from k8s.run import load_run
from tests.operators import jobs
from tests.operators.api import Object
from tests.operators.control_plane import ControlPlane
from tests.operators.observing import DEADLINE_S, pods, wait_for_condition
from tests.operators.processes import wait_until

pytestmark = pytest.mark.operators

GUARD = Path(__file__).parents[2] / "k8s" / "gitops" / "admission" / "guard.yaml"
POLICY = "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "pretrain-run-guard"
BACKENDS = ("job", "pytorchjob", "mpijob")
DELETING = "is a run that has not ended"
PLACEMENT: Object = {"nodeSelector": {"pool": "a"}, "tolerations": [{"key": "a", "operator": "Exists"}]}
CONFIRM: Object = {"metadata": {"annotations": {"pretrain-run/confirm-delete": "true"}}}


@pytest.fixture(scope="module")
def guard(control_plane: ControlPlane) -> Iterator[None]:
    """The kit's policy and binding, in force; gone afterwards, as other tests delete runs."""
    api = control_plane.api()
    manifests = list(yaml.safe_load_all(GUARD.read_text()))
    for manifest in manifests:
        api.apply(manifest)
    control_plane.make_namespace("guard-probe")

    def in_force() -> bool:
        probe = jobs.indexed_job("probe") | {"metadata": {"name": "probe", "labels": {"pretrain-run/run": "probe"}}}
        if not api.list("batch/v1", "Job", "guard-probe"):
            api.create(probe, "guard-probe")
        return DELETING in refusal(lambda: api.delete("batch/v1", "Job", "probe", "guard-probe"))

    wait_until(in_force, "the guard is in force", DEADLINE_S)
    yield
    for manifest in reversed(manifests):
        api.delete(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
    wait_until(lambda: not in_force(), "the guard is gone", DEADLINE_S)
    api.delete("v1", "Namespace", "guard-probe")


class Live:
    """A run of the launcher's own rendering, in a namespace of its own."""

    def __init__(self, control_plane: ControlPlane, namespace: str, backend: str, folder: Path) -> None:
        elastic = "" if backend == "mpijob" else ", elastic: {enabled: true, min: 1, max: 3}"
        # a namespace that ends waits for half of its pods' grace period before it looks again
        text = f"{{backend: {backend}, nodes: 2, gracePeriodSeconds: 10{elastic}, trainer: {{preset: tiny}}}}"
        (folder / "run.yaml").write_text(text)
        self.control_plane, self.namespace = control_plane, namespace
        self.runs = Runs(Cluster.connect(namespace, kubeconfig=control_plane.kubeconfig()))
        objects = render(load_run(folder / "run.yaml"), namespace, find_helm())
        list(self.runs.submit(objects))
        self.manifest = run_object(objects)
        self.name: str = self.manifest["metadata"]["name"]
        selector = f"pretrain-run/run={self.name}"
        wait_until(lambda: len(pods(control_plane, namespace, selector)) >= 2, "two pods", DEADLINE_S)
        for pod in pods(control_plane, namespace, selector):
            control_plane.set_pod_phase(namespace, pod["metadata"]["name"], "Running")

    @property
    def _identity(self) -> tuple[str, str, str, str]:
        return self.manifest["apiVersion"], self.manifest["kind"], self.name, self.namespace

    def get(self) -> Object:
        return self.control_plane.api().get(*self._identity)

    def patch(self, change: Object) -> Object:
        return self.control_plane.api().patch(*self._identity, named(change, self.name))

    def delete(self) -> None:
        self.control_plane.api().delete(*self._identity)

    def gone(self) -> bool:
        try:
            self.get()
        except ApiException as error:
            return error.status == 404
        return False

    def end(self, condition: str) -> None:
        """Say in its status that it has ended, as its operator would."""
        api, name = client.CustomObjectsApi(self.control_plane.api().client), self.name
        now = "2026-01-01T00:00:00Z"
        status = {"conditions": [{"type": condition, "status": "True", "reason": "Test", "message": "the end"}]}
        if self.manifest["kind"] == "Job":
            for pod in pods(self.control_plane, self.namespace, f"pretrain-run/run={name}"):
                code = 0 if condition == "Complete" else 65
                phase = "Succeeded" if condition == "Complete" else "Failed"
                self.control_plane.set_pod_phase(self.namespace, pod["metadata"]["name"], phase, exit_code=code)
            wait_for_condition(self.control_plane, self.manifest, self.namespace, condition)
            return
        status["conditions"][0] |= {"lastTransitionTime": now, "lastUpdateTime": now}
        group, version = self.manifest["apiVersion"].split("/")
        plural = self.manifest["kind"].lower() + "s"
        api.patch_namespaced_custom_object_status(group, version, self.namespace, plural, name, {"status": status})

    def template_change(self, change: Object) -> Object:
        """A merge patch of the (workers') pod template's spec."""
        spec: Object = {"template": {"spec": change}}
        if self.manifest["kind"] != "Job":
            role = "pytorchReplicaSpecs" if self.manifest["kind"] == "PyTorchJob" else "mpiReplicaSpecs"
            spec = {role: {"Worker": spec}}
        return {"spec": spec}

    def containers(self) -> list[Any]:
        spec = self.get()["spec"]
        replicas = spec.get("pytorchReplicaSpecs") or spec.get("mpiReplicaSpecs") or {"Worker": spec}
        return replicas["Worker"]["template"]["spec"]["containers"]


def named(change: Object, name: str) -> Object:
    """The change with the name that the API server wants in it."""
    return change | {"metadata": {"name": name} | change.get("metadata", {})}


def refusal(action: Any) -> str:
    """The server's words, or nothing if it did as it was told."""
    try:
        action()
    except ApiException as error:
        return str(error.body)
    return ""


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest, guard: None, control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Live:
    return Live(control_plane, namespace, request.param, tmp_path)


@pytest.fixture
def job(guard: None, control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Live:
    return Live(control_plane, namespace, "job", tmp_path)


def test_deleting_a_running_run_is_refused_with_the_way_out(run: Live) -> None:
    words = refusal(run.delete)
    assert DELETING in words
    assert f"launcher stop {run.name} -n {run.namespace}" in words
    plural = run.manifest["kind"].lower() + "s"
    group = run.manifest["apiVersion"].partition("/")[0]
    assert f"kubectl annotate {plural}.{group} {run.name} -n {run.namespace} pretrain-run/confirm-delete=true" in words
    assert not run.gone()


def test_confirmed_deletion_is_allowed(run: Live) -> None:
    run.patch({"metadata": {"annotations": {"pretrain-run/confirm-delete": "yes"}}})
    assert DELETING in refusal(run.delete)
    run.patch(CONFIRM)
    run.delete()
    wait_until(run.gone, "the run is gone", DEADLINE_S)


def test_stopped_run_may_be_deleted(run: Live) -> None:
    run.runs.stop(run.get())
    run.delete()
    wait_until(run.gone, "the run is gone", DEADLINE_S)


@pytest.mark.parametrize("end", ["well", "badly"])
def test_ended_run_may_be_deleted(run: Live, end: str) -> None:
    well = "Complete" if run.manifest["kind"] == "Job" else "Succeeded"
    run.end(well if end == "well" else "Failed")
    run.delete()
    wait_until(run.gone, "the run is gone", DEADLINE_S)


def test_resumed_run_is_guarded_again(job: Live) -> None:
    job.runs.stop(job.get())
    job.runs.resume(job.get())
    assert DELETING in refusal(job.delete)


def test_launcher_tells_the_guards_words(job: Live) -> None:
    with pytest.raises(ClusterError, match=DELETING):
        job.runs.remove(job.get(), 5)


def test_deleting_all_of_a_kind_leaves_the_running_run(job: Live) -> None:
    api = client.BatchV1Api(job.control_plane.api().client)
    assert DELETING in refusal(lambda: api.delete_collection_namespaced_job(job.namespace))
    assert not job.gone()


@pytest.mark.parametrize("field", ["image", "args", "env"])
def test_editing_the_pod_template_is_refused(run: Live, field: str) -> None:
    containers = run.containers()
    containers[0] |= {
        "image": {"image": "example.test/other:1"},
        "args": {"args": ["run", "--set", "seed=2"]},
        "env": {"env": [*containers[0]["env"], {"name": "MORE", "value": "1"}]},
    }[field]
    words = refusal(lambda: run.patch(run.template_change({"containers": containers})))
    # a Job's own rules come first
    assert ("field is immutable" if run.manifest["kind"] == "Job" else "the pod template of run") in words
    assert run.containers() != containers


def test_another_field_of_the_pod_template_is_refused_even_where_there_was_none(run: Live) -> None:
    words = refusal(lambda: run.patch(run.template_change({"hostname": "other"})))
    assert ("field is immutable" if run.manifest["kind"] == "Job" else "the pod template of run") in words


@pytest.mark.parametrize("backend", ["pytorchjob", "mpijob"])
def test_another_role_is_refused(
    guard: None, control_plane: ControlPlane, namespace: str, tmp_path: Path, backend: str
) -> None:
    run = Live(control_plane, namespace, backend, tmp_path)
    roles = "pytorchReplicaSpecs" if backend == "pytorchjob" else "mpiReplicaSpecs"
    more = {"Master": {"replicas": 1, "template": jobs.pod_template()}} if backend == "pytorchjob" else {"Launcher": None}
    assert "the pod template of run" in refusal(lambda: run.patch({"spec": {roles: more}}))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"pretrain-run/run": None}},
        {"labels": {"pretrain-run/run": "other"}},
        {"labels": {"pretrain-run/hash": "0123456789"}},
        {"annotations": {"pretrain-run/hash": "0" * 64}},
        {"annotations": {"pretrain-run/identity": "{}"}},
        {"annotations": {"pretrain-run/config": None}},
    ],
    ids=["no run label", "run label", "hash label", "hash", "identity", "config"],
)
def test_what_says_what_a_run_trains_cannot_change(job: Live, change: Object) -> None:
    words = refusal(lambda: job.patch({"metadata": change}))
    assert "the labels and annotations pretrain-run/... of run" in words


def test_other_labels_and_annotations_may_change(run: Live) -> None:
    run.patch({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}})
    assert run.get()["metadata"]["labels"]["team"] == "a"


def test_stopping_and_resuming_are_allowed(run: Live) -> None:
    run.runs.stop(run.get())
    assert "goes on" in run.runs.resume(run.get())


@pytest.mark.parametrize("backend", ["job", "pytorchjob"])
def test_scaling_is_allowed(guard: None, control_plane: ControlPlane, namespace: str, tmp_path: Path, backend: str) -> None:
    run = Live(control_plane, namespace, backend, tmp_path)
    assert run.runs.scale(run.get(), 3) == f"{run.name}: 2 -> 3 nodes"
    assert len(run.containers()) == 1
    change: Object = (
        {"completions": 1, "parallelism": 1} if backend == "job" else {"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}}
    )
    run.patch({"spec": change})  # the same without the scale subresource
    wait_until(lambda: len(pods(control_plane, namespace, f"pretrain-run/run={run.name}")) == 1, "one pod", DEADLINE_S)


@pytest.mark.parametrize("backend", ["pytorchjob", "mpijob"])
def test_a_queue_may_place_pods_at_the_start_as_kueue_does(
    guard: None, control_plane: ControlPlane, namespace: str, tmp_path: Path, backend: str
) -> None:
    run = Live(control_plane, namespace, backend, tmp_path)
    run.patch(run.template_change(PLACEMENT))


def test_a_queue_may_place_a_jobs_pods_before_it_starts(job: Live) -> None:
    waiting = job.manifest | {
        "metadata": {key: job.manifest["metadata"][key] for key in ("labels", "annotations")} | {"name": "waiting"},
        "spec": job.manifest["spec"] | {"suspend": True},
    }
    api = job.control_plane.api()
    api.create(waiting, job.namespace)
    api.patch("batch/v1", "Job", "waiting", job.namespace, job.template_change(PLACEMENT) | {"metadata": {"name": "waiting"}})
    api.patch("batch/v1", "Job", "waiting", job.namespace, {"spec": {"suspend": False}})
    assert DELETING in refusal(lambda: api.delete("batch/v1", "Job", "waiting", job.namespace))


def test_namespace_with_a_running_run_can_be_deleted(run: Live) -> None:
    api = run.control_plane.api()
    run.control_plane.stop("mpi-operator")  # which would make the launcher's Job anew while its namespace ends
    api.delete("v1", "Namespace", run.namespace)

    def conditions() -> str:
        return str(api.get("v1", "Namespace", run.namespace)["status"])

    wait_until(run.gone, "the run ended with its namespace", DEADLINE_S, conditions)


def test_job_that_is_no_run_is_not_touched(guard: None, control_plane: ControlPlane, namespace: str) -> None:
    api, job = control_plane.api(), jobs.elastic_pytorchjob("plain")
    api.create(job, namespace)
    identity = job["apiVersion"], job["kind"], "plain", namespace
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    template = {"template": {"spec": {"containers": [container | {"image": "example.test/other:1"}]}}}
    api.patch(*identity, {"spec": {"pytorchReplicaSpecs": {"Worker": template}}})
    api.patch(*identity, named({"metadata": {"labels": {"pretrain-run/run": "plain"}}}, "plain"))  # it becomes one
    assert DELETING in refusal(lambda: api.delete(*identity))
    api.patch(*identity, named(CONFIRM, "plain"))
    api.delete(*identity)
    api.create(jobs.indexed_job("other"), namespace)
    api.delete("batch/v1", "Job", "other", namespace)


def test_mpi_operator_may_remove_what_belongs_to_a_run(
    guard: None, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    run = Live(control_plane, namespace, "mpijob", tmp_path)
    run.patch(CONFIRM)
    run.delete()
    wait_until(lambda: control_plane.api().list("batch/v1", "Job", namespace) == [], "no launcher's Job", DEADLINE_S)
    wait_until(lambda: pods(control_plane, namespace) == [], "no pods", DEADLINE_S)


def test_server_has_no_complaint_about_the_policys_expressions(guard: None, control_plane: ControlPlane) -> None:
    def checked() -> Object:
        found: Object = control_plane.api().get(*POLICY)
        return found.get("status", {})

    wait_until(lambda: "observedGeneration" in checked(), "the policy is type-checked", DEADLINE_S)
    assert checked().get("typeChecking", {}) == {}
