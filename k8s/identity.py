"""Runs as files in Git: one per identity, written once, checked against what it says, removed when it has ended."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from k8s.errors import RenderError, RunFileError
from k8s.render import Manifest, dump, run_object
from k8s.rules.finding import pod_templates, trainer_container
from trainer.config_loading import config_of
from trainer.config_section import canonical_json
from trainer.errors import ConfigError, StorageError
from trainer.files import write_file

_CHART_SETS = ("name", "run_dir", "data_dir", "tracking.prometheus_port")
"""What the chart itself sets on the trainer's command line: where, never what."""


def write_run(objects: Sequence[Manifest], folder: Path) -> tuple[Path, bool]:
    """Write FOLDER/NAME-HASH.yaml unless it is there; returns its path and whether it is new.

    What does not change the run's hash (nodes, queue, resources) does not touch a file that is there: a running run stays as it
    was started. Raises RunFileError.
    """
    path = folder / f"{run_object(objects)['metadata']['name']}.yaml"
    if path.exists():
        if path not in run_files(folder):
            raise RunFileError(f"{path}: is there, but holds another run than its name says; restore it from Git, or remove it")
        return path, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, dump(objects).encode())
    except (OSError, StorageError) as error:
        raise RunFileError(f"{path}: cannot be written: {error}") from None
    return path, True


def run_files(folder: Path) -> list[Path]:
    """Files of a folder that hold the run of their name; others are passed over."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            if run_object(read_run(path))["metadata"]["name"] == path.stem:
                found.append(path)
        except (RunFileError, RenderError):
            continue  # a kustomization.yaml, say
    return found


def read_run(path: Path) -> list[Manifest]:
    """The objects of a file. Raises RunFileError."""
    try:
        documents = [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunFileError(f"{path}: cannot be read as manifests: {error}") from None
    if not all(_is_object(each) for each in documents):
        raise RunFileError(
            f"{path}: holds something else than Kubernetes objects; give a file that `launcher render --out` wrote"
        )
    return documents


def _is_object(document: Any) -> bool:
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        return False
    maps = [document["metadata"].get(key, {}) for key in ("labels", "annotations")]
    return (
        all(isinstance(each, dict) for each in maps)
        and isinstance(document.get("kind"), str)
        and "name" in document["metadata"]
    )


def verify(run: Manifest, config_map: Manifest) -> list[str]:
    """What contradicts the run's name, a line each, recomputed from what its pods really get."""
    annotations, name = run["metadata"].get("annotations", {}), run["metadata"]["name"]
    told = annotations.get("pretrain-run/identity")
    if told is None:
        return [f"{name}: no annotation pretrain-run/identity; it was not rendered by this chart"]
    troubles = []
    digest = hashlib.sha256(told.encode()).hexdigest()
    if digest != annotations.get("pretrain-run/hash") or not name.endswith(f"-{digest[:10]}"):
        troubles.append(f"{name}: its identity hashes to {digest[:10]}")
    try:
        identity = json.loads(told)
        identity["image"], identity["stage"], identity["trainer"]
    except (ValueError, KeyError, TypeError):
        return [*troubles, f"{name}: its identity is not one that this chart writes"]
    for role, template in pod_templates(run):
        container = trainer_container(template)
        troubles += [f"{name}: {role} {line}" for line in _beside_identity(template, container, config_map["metadata"]["name"])]
        if container.get("image") != identity["image"]:
            troubles.append(f"{name}: {role} runs image {container.get('image')}, and the identity says {identity['image']}")
        arguments = container.get("args") or ([identity["stage"]] if "args" not in container else [""])
        if arguments[0] != identity["stage"]:
            troubles.append(f"{name}: {role} runs stage {arguments[0]}, and the identity says {identity['stage']}")
    try:
        config = config_of(json.loads(config_map["data"]["run.json"])["trainer"], config_map["metadata"]["name"])
    except (ConfigError, KeyError, ValueError, TypeError, AttributeError) as error:
        return [*troubles, f"{config_map['metadata']['name']}: {error}"]
    actual = json.loads(canonical_json(config.identity()))
    troubles += [f"{name}: {line}" for line in _differences(identity["trainer"], actual)]
    return troubles


def retirable(files: Sequence[Path], finished: Mapping[str, bool], keep: int) -> list[Path]:
    """Of files, oldest first, those of runs that have ended, but for the newest `keep`; what is not there has not ended."""
    ended = [file for file in files if finished.get(file.stem, False)]
    return ended[: max(0, len(ended) - keep)]


def _beside_identity(template: Manifest, container: Manifest, config_map: str) -> list[str]:
    """What would make a pod train something else than its config map says."""
    mounted = [each["configMap"]["name"] for each in template["spec"].get("volumes", []) if each["name"] == "config"]
    troubles = [] if mounted == [config_map] else [f"reads config map {', '.join(mounted)}, and the run names {config_map}"]
    if (container.get("command") or [])[:3] not in (["python", "-m", "trainer.elastic"], ["/usr/sbin/sshd", "-De", "-f"]):
        troubles.append(f"starts {' '.join(container.get('command', []))}")
    arguments = container.get("args") or []
    overrides = [after for before, after in pairwise(arguments) if before == "--set"]
    return troubles + [f"overrides {each}" for each in overrides if each.partition("=")[0] not in _CHART_SETS]


def _differences(told: Any, actual: Any, path: str = "trainer") -> list[str]:
    if isinstance(told, dict) and isinstance(actual, dict):
        keys = sorted(told.keys() | actual.keys())
        return [line for key in keys for line in _differences(told.get(key), actual.get(key), f"{path}.{key}")]
    return [] if told == actual else [f"{path} is {actual!r} in its config map and {told!r} in its identity"]
