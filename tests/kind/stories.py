"""Runs on the local cluster as a person has them: installed, watched, disturbed, read afterwards. Every wait has a deadline."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from k8s.cluster import API_VERSIONS, Cluster
from k8s.control import Runs
from k8s.errors import LauncherError
from k8s.kind.commands import LocalClusterError, run
from k8s.kind.local_cluster import NODE, LocalCluster
from k8s.render import CHART

IMAGE = os.environ.get("KIND_TRAINER_IMAGE", "pretrain-run:0.1.0-cpu")
DATA_CLAIM = "datasets"
POLL_S = 1.0
_COMMAND_S = 180.0

SMALL: dict[str, Any] = {
    "preset": "tiny",
    "stages": ["prepare", "tokenizer", "encode", "pretrain"],
    "tokens": {"row_tokens": 128},
    "precision": "fp32",
    "device": "cpu",
    "deterministic": True,
    "collective_timeout_s": 60,
    "corpus": {"sources": [{"name": "wordnet", "path": "box:wordnet-glosses.jsonl.zst"}]},
    "pretrain": {
        "steps": 300,  # the longest story needs 130 of them here, more where steps take less time and pods as much
        "global_batch": 8,
        "micro_batch": 2,
        "sample_log": True,
        "optimizer": {"kind": "adamw", "lr": 3.0e-4},
        "schedule": {"kind": "constant"},  # so that a shorter run is the beginning of a longer one
    },
    "validation": {"every_steps": 10000},
    "checkpoint": {"every_steps": 20, "every_s": None, "keep": 2},
    "tracking": {"log_every_steps": 1, "measure_peak": False},
}
"""Differences of float order stay below 1e-5 in its losses."""


def values(name: str, **changes: Any) -> dict[str, Any]:
    """A run file for one node of two cores; mappings in `changes` are merged."""
    repository, _, tag = IMAGE.rpartition(":")
    small: dict[str, Any] = {
        "name": name,
        "image": {"repository": repository, "tag": tag},
        "resources": {"requests": {"cpu": "100m", "memory": "700Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "mpi": {"launcherCpu": "100m", "launcherMemory": "512Mi"},
        "rendezvous": {"lastCallSeconds": 3},
        "gracePeriodSeconds": 60,
        "shm": {"size": "256Mi"},
        "storage": {
            "runs": {"accessMode": "ReadWriteOnce", "size": "1Gi"},
            "data": {"kind": "existing", "claimName": DATA_CLAIM},
        },
        "trainer": SMALL,
    }
    return merged(small, changes)


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else of `top` replaces."""
    result = dict(base)
    for key, value in top.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


@dataclass
class Stories:
    """What a test does with the cluster, in a namespace."""

    cluster: LocalCluster
    namespace: str
    folder: Path
    runs: list["Run"] = field(default_factory=list)

    @cached_property
    def live(self) -> Runs:
        """What the launcher's own commands look at, without a process of Python for each look."""
        return Runs(Cluster.connect(self.namespace, kubeconfig=self.cluster.kubeconfig))

    def run_file(self, name: str, **changes: Any) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values(name, **changes)))
        return path

    def submit(self, name: str, **changes: Any) -> "Run":
        """By `launcher submit --detach`."""
        said = self.launcher("submit", "-f", str(self.run_file(name, **changes)), "--detach")
        return self._known(said.stdout.strip().splitlines()[-1])

    def helm_install(self, name: str, file: Path, *overrides: str) -> "Run":
        """By Helm alone."""
        settings = [word for override in overrides for word in ("--set", override)]
        self.helm("install", name, str(CHART), "--values", str(file), *settings)
        kinds = [kind for kind in API_VERSIONS if kind.lower() in self.helm("get", "manifest", name).lower()]
        objects = yaml.safe_load_all(self.helm("get", "manifest", name))
        (run_name,) = {item["metadata"]["name"] for item in objects if item and item["kind"] in kinds}
        return self._known(run_name)

    def helm(self, *words: str) -> str:
        command = [self.cluster.toolbox.path("helm"), "--kubeconfig", self.cluster.kubeconfig, "--namespace", self.namespace]
        return run([*command, *words], _COMMAND_S)

    def launcher(self, *words: str, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
        """The launcher in a process of its own; `code` None takes any."""
        command = [sys.executable, "-m", "k8s", *words, "--namespace", self.namespace]
        command += ["--kubeconfig", str(self.cluster.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
        assert code is None or done.returncode == code, f"launcher {' '.join(words)}: {done.returncode}: {done.stderr[-2000:]}"
        return done

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *words, deadline_s=_COMMAND_S)

    def make_data_claim(self) -> None:
        """Corpus, tokenizer and shards that all runs share; the first one makes them."""
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": DATA_CLAIM, "namespace": self.namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.cluster.apply([claim])

    def remove_runs(self) -> None:
        """Every run of the namespace, with its pods and claims."""
        for release in json.loads(self.helm("list", "--all", "--output", "json")):
            self.helm("uninstall", release["name"], "--wait", "--timeout", "120s")
        kinds = "pytorchjobs,mpijobs,jobs.batch,services,networkpolicies,poddisruptionbudgets,configmaps,serviceaccounts"
        self.kubectl("delete", kinds, "--selector", "pretrain-run/run", "--ignore-not-found", "--timeout=120s")
        self.kubectl(
            "delete", "pods", "--selector", "pretrain-run/run", "--grace-period=1", "--ignore-not-found", "--timeout=120s"
        )
        self.kubectl("delete", "pods", "--selector", "pretrain-run/reader", "--grace-period=1", "--ignore-not-found")
        self.kubectl("delete", "pvc", "--selector", "pretrain-run/run", "--ignore-not-found", "--timeout=120s")

    def wait_until(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        """Until a condition holds; the cluster's own refusals are looked past. Fails with what every run said last.

        Tells how long it took: pytest shows that of a test that fails, and of all with -rP.
        """
        started = time.monotonic()
        deadline = started + deadline_s
        trouble = ""
        while True:
            try:
                if condition():
                    print(f"{time.strftime('%H:%M:%S')} after {time.monotonic() - started:5.1f} s: {what}")
                    return
            except (LocalClusterError, LauncherError, AssertionError, ValueError) as error:
                trouble = str(error)
            if time.monotonic() > deadline:
                words = "\n".join(each.last_words() for each in self.runs)
                raise AssertionError(f"{what}: not within {deadline_s:.0f} s; {trouble}\n{words}")
            time.sleep(POLL_S)

    def _known(self, name: str) -> "Run":
        known = Run(self, name)
        self.runs.append(known)
        return known


@dataclass
class Run:
    """One run on the cluster."""

    stories: Stories
    name: str
    _path: str = ""

    def status(self) -> dict[str, Any]:
        """What `launcher status --json` says."""
        live = self.stories.live
        answer: dict[str, Any] = json.loads(json.dumps(live.status(live.find(self.name)).to_json()))
        return answer

    def wait_for_phase(self, *phases: str, deadline_s: float) -> dict[str, Any]:
        """Until it is in one of these phases; fails at once when it ends in another one."""
        seen: list[dict[str, Any]] = []

        def reached() -> bool:
            seen.append(self.status())
            return seen[-1]["phase"] in {*phases, "Succeeded", "Failed"}

        self.stories.wait_until(reached, f"{self.name} is {' or '.join(phases)}", deadline_s)
        assert seen[-1]["phase"] in phases, f"{seen[-1]}\n{self.last_words()}"
        return seen[-1]

    def pods(self) -> list[dict[str, Any]]:
        """Its pods by name, without those on their way out."""
        listed = self.stories.kubectl("get", "pods", "--selector", f"pretrain-run/run={self.name}", "--output", "json")
        pods = [pod for pod in json.loads(listed)["items"] if "deletionTimestamp" not in pod["metadata"]]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, index: int) -> str:
        """The name of a worker: of a Job's pod by its index."""
        for pod in self.pods():
            labels = pod["metadata"]["labels"]
            if str(index) in (
                labels.get("training.kubeflow.org/replica-index"),
                labels.get("batch.kubernetes.io/job-completion-index"),
            ):
                return str(pod["metadata"]["name"])
        raise LocalClusterError(f"{self.name}: has no pod of index {index} now")

    # --- its folder on the volume

    def path(self) -> str:
        """Its run folder, as the node knows it."""
        if not self._path:
            claim = json.loads(self.stories.kubectl("get", "pvc", f"{self.name}-runs", "--output", "json"))
            volume = json.loads(self.stories.kubectl("get", "pv", claim["spec"]["volumeName"], "--output", "json"))
            place = volume["spec"].get("hostPath") or volume["spec"]["local"]
            self._path = f"{place['path']}/{self.name}"
        return self._path

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of a name so far, in order; none before the run has written any."""
        try:
            text = self.stories.cluster.node("sh", "-c", f"cat {self.path()}/events.jsonl")
        except (LocalClusterError, KeyError):
            return []
        records = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [record for record in records if record["event"] == name]

    def copy(self) -> Path:
        """A copy of its folder on this machine."""
        folder = self.stories.folder / f"{self.name}-{time.monotonic_ns()}"
        self.stories.cluster.docker("cp", f"{NODE}:{self.path()}", folder, deadline_s=_COMMAND_S)
        return folder

    def last_step(self) -> int:
        return max((event["step"] for event in self.events("steps_done")), default=0)

    def worlds(self) -> list[int]:
        """World sizes of all rounds so far."""
        return [event["world_size"] for event in self.events("training_started")]

    def wait_for_steps(self, count: int, deadline_s: float = 300) -> None:
        """Until so many more steps are done."""
        target = self.last_step() + count
        self._wait_while_it_goes_on(lambda: self.last_step() >= target, f"{self.name} has done step {target}", deadline_s)
        self._leave_cores_to_others()

    def wait_for_more_steps_unseen(self, count: int, deadline_s: float = 60) -> None:
        """The same without asking the API server, which may be away."""
        target = self.last_step() + count
        self.stories.wait_until(lambda: self.last_step() >= target, f"{self.name} has done step {target}", deadline_s)

    def wait_for_world(self, rounds: int, world: int, deadline_s: float = 300) -> None:
        """Until a round of this world size has begun after the first `rounds`."""
        what = f"{self.name} trains by {world} after {rounds} rounds"
        self._wait_while_it_goes_on(lambda: world in self.worlds()[rounds:], what, deadline_s)
        self._leave_cores_to_others()

    def _wait_while_it_goes_on(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        """Until the condition holds; fails at once when the run ends before."""
        over: list[str] = []

        def reached() -> bool:
            if condition():
                return True
            over.extend({self.status()["phase"]} & {"Succeeded", "Failed"})
            return bool(over)

        self.stories.wait_until(reached, what, deadline_s)
        assert not over or condition(), f"{what}: it is {over[-1]}\n{self.last_words()}"

    # --- what befalls it

    def scale(self, nodes: int) -> None:
        self.stories.launcher("scale", self.name, str(nodes))

    def kill_trainer(self, pod: str) -> None:
        """SIGKILL to a training process, as the kernel does it when memory is out."""
        script = (
            "import os,pathlib,signal\n"
            "for each in pathlib.Path('/proc').glob('[0-9]*'):\n"
            "    words = (each / 'cmdline').read_bytes().split(b'\\0')\n"
            "    if words[1:4] == [b'-u', b'-m', b'trainer'] or words[1:3] == [b'-m', b'trainer']:\n"
            "        os.kill(int(each.name), signal.SIGKILL)\n"
            "        print('killed', each.name)\n"
        )
        assert "killed" in self.stories.kubectl("exec", pod, "--container=pytorch", "--", "python", "-c", script)

    @contextmanager
    def drained(self) -> Iterator[str]:
        """Its pods asked to leave the node, which takes no new ones while the block runs: what held that up, if anything.

        Pods that may leave are asked at once; the time is for one that may not.
        """
        leave = ["drain", NODE, f"--pod-selector=pretrain-run/run={self.name}", "--delete-emptydir-data", "--timeout=15s"]
        refusal = ""
        try:
            try:
                self.stories.kubectl(*leave)
            except LocalClusterError as error:
                refusal = str(error)
            yield refusal
        finally:
            self.stories.cluster.kubectl("uncordon", NODE)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its training processes stopped, while the block runs. Shorter than the collectives' deadline."""
        self._signal("STOP")
        try:
            yield
        finally:
            self._signal("CONT")

    def _signal(self, name: str) -> None:
        """To its training processes, and not to their agents."""
        assert self._for_each_process(f"kill -{name} $process"), f"no process of {self.name} trains"

    def _leave_cores_to_others(self) -> None:
        """A fifth of the usual share of CPU for pods that train: nobody waits for their steps, but for pods that start."""
        version_1 = r"s|^[0-9]+:(cpu[a-z,]*):(/.*)/[^/]*$|/sys/fs/cgroup/cpu\2/cpu.shares 20|p"
        version_2 = r"s|^0::(/.*)/[^/]*$|/sys/fs/cgroup\1/cpu.weight 1|p"
        self._for_each_process(
            f"sed -nE '{version_1}; {version_2}' /proc/$process/cgroup | "
            'while read -r file value; do if [ -w "$file" ]; then echo "$value" > "$file"; fi; done'
        )

    def _for_each_process(self, command: str) -> str:
        """Done on the node for each of its training processes, without the API server, which may be away; returns their ids."""
        return self.stories.cluster.node(
            "sh",
            "-c",
            "for process in $(pgrep -f -- '-u -m trainer( |$)'); do "
            f"if grep -qzE '^HOSTNAME={self.name}-' /proc/$process/environ; then {command}; echo $process; fi; done",
        )

    def last_words(self) -> str:
        """The end of its pods' logs and its object's state, for a failed test."""
        try:
            pods = [f"{pod['metadata']['name']}: {pod['status'].get('phase')}" for pod in self.pods()]
            logs = self.stories.launcher("logs", self.name, code=None).stdout.splitlines()[-40:]
            return "\n".join([f"--- {self.name}: {', '.join(pods)}", *logs])
        except (LocalClusterError, AssertionError, subprocess.TimeoutExpired) as error:
            return f"--- {self.name}: {error}"
