"""Small jobs of each kind, as plain as they can be and still be admitted under Pod Security `restricted`."""

from typing import Any

from tests.operators.api import Object


def pod_template(container: str = "pytorch", **changes: Any) -> Object:
    """A pod template that `restricted` lets through; `changes` replace parts of its container."""
    return {
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": container,
                    "image": "example.test/image:1",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
                | changes
            ],
        }
    }


def pod(name: str, **changes: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} | pod_template(**changes)


def elastic_pytorchjob(name: str, replicas: int = 2, low: int = 1, high: int = 3, container: str = "pytorch") -> Object:
    """Workers only, with a c10d rendezvous."""
    worker = {"replicas": replicas, "restartPolicy": "OnFailure", "template": pod_template(container)}
    elastic = {
        "minReplicas": low,
        "maxReplicas": high,
        "rdzvBackend": "c10d",
        "rdzvId": name,
        "maxRestarts": 7,
        "rdzvConf": [{"key": "last_call_timeout", "value": "3"}, {"key": "join_timeout", "value": "900"}],
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {
            "nprocPerNode": "2",
            "elasticPolicy": elastic,
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def indexed_job(name: str, completions: int = 2) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": completions,
            "parallelism": completions,
            "template": pod_template(),
        },
    }


def mpijob(name: str, workers: int = 2) -> Object:
    return {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": {"name": name},
        "spec": {
            "slotsPerWorker": 2,
            "sshAuthMountPath": "/home/mpi/.ssh",
            "runPolicy": {"cleanPodPolicy": "Running"},
            "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "template": pod_template(command=["mpirun", "true"])},
                "Worker": {"replicas": workers, "template": pod_template()},
            },
        },
    }
