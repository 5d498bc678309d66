"""A Debian base image: the one that is named, a pulled one, or, where no registry answers, one made by debootstrap."""

import os
import re
import tempfile
from pathlib import Path

from k8s.kind.commands import LocalClusterError, run, step
from k8s.kind.docker import Docker

VARIABLE = "KIND_BASE_IMAGE"
SUITE = "bookworm"
OWN = f"local/debian:{SUITE}"
PULLED = f"debian:{SUITE}-slim"
PULL_S = 20.0
"""Decides whether a registry is in reach; what it pulls is 30 MB."""
_SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")


def debian_image(docker: Docker) -> str:
    """The name of a Debian image that is here. Raises LocalClusterError with the ways out."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    for image in (OWN, PULLED):
        if docker.has(image):
            return image
    if pulls(docker, PULLED, PULL_S):
        return PULLED
    if os.geteuid() != 0:
        raise LocalClusterError(f"{PULLED} cannot be pulled, and only root can make a Debian image; set {VARIABLE}")
    with step(f"no registry answers; making {OWN} by debootstrap"), tempfile.TemporaryDirectory(prefix="debian-") as scratch:
        root = Path(scratch) / "root"
        run(["debootstrap", "--variant=minbase", SUITE, root, mirror(_sources())], 900.0)
        archive = Path(scratch) / "root.tar"
        run(["tar", "--create", "--file", archive, "--directory", root, "."], 120.0)
        docker("import", archive, OWN, deadline_s=120.0)
    return OWN


def pulls(docker: Docker, image: str, deadline_s: float) -> bool:
    """Whether an image can be pulled in this time."""
    try:
        docker("pull", "--quiet", image, deadline_s=deadline_s)
    except LocalClusterError:
        return False
    return True


def mirror(sources: str) -> str:
    """The mirror that a Debian machine's apt uses, from the text of its sources; else Debian's own."""
    found = re.search(r"^URIs: *(\S+)", sources, re.MULTILINE) or re.search(r"^deb +(?:\[.*?\] +)?(\S+)", sources, re.MULTILINE)
    return found[1] if found else "http://deb.debian.org/debian"


def _sources() -> str:
    return "\n".join(Path(file).read_text() for file in _SOURCES if Path(file).exists())
