"""A run's logs from its volume, after its pods are gone: by a pod that reads them and ends."""

import time
from collections.abc import Iterator

from k8s.cluster import Cluster, Manifest
from k8s.errors import ClusterError, DeadlineError
from k8s.logs import wanted
from k8s.rules.finding import at, pod_templates, trainer_container

POLL_S = 1.0
_POD_LIFE_S = 600
_PRINT = 'cd "/runs/$0/logs" && for file in *.log; do if [ -e "$file.1" ]; then cat "$file.1"; fi; cat "$file"; done'
"""A log's older part is beside it (trainer.elastic.output)."""


def reader_pod(run: Manifest) -> Manifest:
    """A pod with the run's image, user and volume, which prints the logs and has no other rights."""
    name = run["metadata"]["name"]
    _, template = next(pod_templates(run))
    container = trainer_container(template)
    mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] == "runs"]
    volumes = [volume for volume in at(template, "spec", "volumes", default=[]) if volume["name"] == "runs"]
    small = {"cpu": "100m", "memory": "64Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-logs", "labels": {"pretrain-run/reader": name, "sidecar.istio.io/inject": "false"}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _POD_LIFE_S,
            "automountServiceAccountToken": False,
            "securityContext": at(template, "spec", "securityContext", default={}),
            "imagePullSecrets": at(template, "spec", "imagePullSecrets", default=[]),
            "containers": [
                {
                    "name": "pytorch",
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy", "IfNotPresent"),
                    "command": ["sh", "-c", _PRINT, name],
                    "resources": {"requests": small, "limits": {"memory": small["memory"]}},
                    "securityContext": container.get("securityContext", {}),
                    "volumeMounts": [{**mount, "readOnly": True} for mount in mounts],
                }
            ],
            "volumes": volumes,
        },
    }


def volume_logs(cluster: Cluster, run: Manifest, timeout_s: float, rank: int | None = None) -> Iterator[str]:
    """Lines of all pods that the run ever had, pod by pod. Raises ClusterError, DeadlineError."""
    pod = reader_pod(run)
    name = pod["metadata"]["name"]
    if not any("persistentVolumeClaim" in volume for volume in pod["spec"]["volumes"]):
        raise ClusterError(
            f"{run['metadata']['name']}: its pods are gone, and without a volume (storage.runs) the logs went with them"
        )
    cluster.apply(pod)
    try:
        deadline = time.monotonic() + min(timeout_s, _POD_LIFE_S)
        while (phase := _phase(cluster, name)) not in ("Succeeded", "Failed"):
            if time.monotonic() > deadline:
                raise DeadlineError(f"Pod/{name}: still {phase}; does the volume hang, or is there no room for a small pod?")
            time.sleep(POLL_S)
        for line in cluster.log_lines(name):
            text = line.partition(" ")[2]
            if wanted(text, rank):
                yield text
        if phase == "Failed":
            raise ClusterError(f"Pod/{name}: could not read the logs; the lines above are what it said")
    finally:
        cluster.delete("Pod", name, "v1")


def _phase(cluster: Cluster, name: str) -> str:
    return str(cluster.get("Pod", name, "v1").get("status", {}).get("phase", "Pending"))
