"""What a kubelet would write into a pod's status, for tests that have none."""

from datetime import UTC, datetime
from typing import Any

PHASES = ("Pending", "Running", "Succeeded", "Failed")


def pod_status(pod: dict[str, Any], phase: str, exit_code: int | None, restart_count: int, message: str) -> dict[str, Any]:
    """The status of a pod all of whose containers are in the same phase."""
    assert phase in PHASES, f"{phase}: not one of {PHASES}"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = phase == "Running"
    code = exit_code if exit_code is not None else (0 if phase == "Succeeded" else 1)
    ended = {
        "exitCode": code,
        "reason": "Completed" if code == 0 else "Error",
        "message": message,
        "startedAt": now,
        "finishedAt": now,
    }
    state: dict[str, Any] = {
        "Pending": {"waiting": {"reason": "ContainerCreating"}},
        "Running": {"running": {"startedAt": now}},
        "Succeeded": {"terminated": ended},
        "Failed": {"terminated": ended},
    }[phase]
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": ready,
            "restartCount": restart_count,
            "state": state,
            "lastState": {"terminated": ended} if restart_count and phase in ("Pending", "Running") else {},
        }
        for container in pod["spec"]["containers"]
    ]
    return {
        "phase": phase,
        "startTime": now,
        "conditions": [
            {"type": kind, "status": "True" if ready else "False", "lastTransitionTime": now}
            for kind in ("Ready", "ContainersReady")
        ],
        "containerStatuses": containers,
    }
