"""Kubernetes' own schemas, and those of the operators' definitions, of the kinds that the chart makes.

They come from a real API server with the real definitions (`make schemas`), without descriptions, closed: a field that the
server does not know is an error, as it is under strict validation.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

FILE = Path(__file__).parent / "schemas.json.zst"

GROUPS = (
    "api/v1",
    "apis/batch/v1",
    "apis/policy/v1",
    "apis/networking.k8s.io/v1",
    "apis/kubeflow.org/v1",
    "apis/kubeflow.org/v2beta1",
)
KINDS = (
    "ConfigMap", "Job", "MPIJob", "NetworkPolicy", "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "PyTorchJob",
    "Service", "ServiceAccount",
)  # fmt: skip

_PREFIX = "#/components/schemas/"
_KEPT = {
    "type",
    "properties",
    "items",
    "additionalProperties",
    "required",
    "oneOf",
    "allOf",
    "anyOf",
    "enum",
    "$ref",
    "pattern",
    "nullable",
}


def collect(fetch: Callable[[str], Any]) -> str:
    """From an API server: `fetch` takes a path. The schemas of all kinds as text, keys sorted."""
    components: dict[str, Any] = {}
    roots: dict[str, str] = {}
    for group in GROUPS:
        for name, schema in fetch(f"/openapi/v3/{group}")["components"]["schemas"].items():
            components[name] = schema
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                version = "/".join(part for part in (kind["group"], kind["version"]) if part)
                if kind["kind"] in KINDS and group.endswith(version):
                    roots[f"{version}/{kind['kind']}"] = name
    used: dict[str, Any] = {}
    left = list(roots.values())
    while left:
        name = left.pop()
        if name not in used:
            used[name] = _closed(components[name])
            left += [text.removeprefix(_PREFIX) for text in _references(used[name])]
    return json.dumps({"roots": roots, "components": {"schemas": used}}, sort_keys=True, separators=(",", ":"))


def write(text: str) -> None:
    """Keep the schemas."""
    FILE.write_bytes(zstandard.ZstdCompressor(level=19).compress(text.encode()))


def read() -> str:
    """The schemas that are kept."""
    return zstandard.ZstdDecompressor().decompress(FILE.read_bytes()).decode()


def _closed(schema: Any) -> Any:
    """Without words and defaults; objects with named fields have no others; whole-or-text fields as JSON schema says it."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    if "properties" in kept:
        kept["properties"] = {name: _closed(each) for name, each in kept["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "oneOf", "allOf", "anyOf"):
        if key in kept:
            kept[key] = _closed(kept[key])
    return kept


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        found = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return found + [text for value in schema.values() for text in _references(value)]
    return [text for value in schema for text in _references(value)] if isinstance(schema, list) else []
