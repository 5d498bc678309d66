"""How many CPU cores this process may use: not the machine's, which is what most libraries count."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores(cgroup: Path = _CGROUP) -> int:
    """Cores by affinity and by the limit of the control group, version 2 or 1; at least 1. macOS has neither: all there are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(allowed, int(quota) if quota is not None else allowed))


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time that the control group grants; None: no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return float(limit) / float(period) if limit.lstrip("-").isdecimal() and int(limit) > 0 else None
