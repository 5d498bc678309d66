"""The trainer's images, built from docker/Dockerfile of this checkout; what the network allows is found out, not asked for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from k8s.kind.commands import LocalClusterError, run, step, succeeds
from k8s.kind.debian import debian_image, pulls
from k8s.kind.docker import Docker
from trainer import __version__

Variant = Literal["cuda", "cpu"]

ROOT = Path(__file__).parents[2]
PULLED = "python:3.12-slim-bookworm"
"""The Dockerfile's default base."""
_PULL_S = 60.0
_BUILD_S = 3600.0
_ARGUMENTS = ("PYPI_INDEX", "TORCH_INDEX")


def image_name(variant: Variant) -> str:
    """The chart's default name and tag; the CPU image's tag says what it is."""
    return f"pretrain-run:{__version__}" + ("-cpu" if variant == "cpu" else "")


def build_image(docker: Docker, variant: Variant, environment: Mapping[str, str] = os.environ) -> str:
    """Build one image and return its name. BASE_IMAGE, PYPI_INDEX and TORCH_INDEX of the environment become build arguments,
    SSL_CERT_FILE a secret. Raises LocalClusterError."""
    dockerfile = ROOT / "docker" / "Dockerfile"
    if not dockerfile.exists():
        raise LocalClusterError(f"{dockerfile}: images are built from a checkout; clone the repository")
    arguments = {name: environment[name] for name in _ARGUMENTS if environment.get(name)}
    arguments |= {"VARIANT": variant, "VERSION": __version__, "REVISION": _revision(), "BASE_IMAGE": _base(docker, environment)}
    options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    certificates = environment.get("SSL_CERT_FILE")
    if certificates and Path(certificates).is_file():
        options += ["--secret", f"id=ca,src={certificates}"]
    name = image_name(variant)
    command = [docker.command, "build", "--file", str(dockerfile), "--tag", name, *options, str(ROOT)]
    with step(f"building {name} on {arguments['BASE_IMAGE']}"):
        run(command, _BUILD_S, environment={"DOCKER_BUILDKIT": "1"})
    return name


def _base(docker: Docker, environment: Mapping[str, str]) -> str:
    named = environment.get("BASE_IMAGE")
    if named:
        return named
    debian = debian_image(docker)
    if debian.startswith("local/"):  # no registry answers
        return debian
    return PULLED if docker.has(PULLED) or pulls(docker, PULLED, _PULL_S) else debian


def _revision() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return run(git, 10.0).strip() if succeeds(git, 10.0) else "unknown"
