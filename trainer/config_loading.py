"""From a YAML file, a preset and `--set` options to one `Config`, or to one error line that names file, line, field and rule.

A file holds the trainer's config itself, or a whole run file, whose `trainer:` part is then meant. `preset: NAME` in it names
a file of trainer/presets that it builds on; mappings merge key by key, anything else replaces.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from trainer.config import Config
from trainer.errors import ConfigError

Path_ = tuple[str | int, ...]

_MAX_DEPTH = 32
"""Far beyond any config; an alias within its own anchor has no end."""


@dataclass(frozen=True)
class _Document:
    """Plain values of one YAML text, and the line of each key."""

    values: dict[str, Any]
    origin: str
    lines: dict[Path_, int] = field(default_factory=dict)

    def where(self, path: Path_) -> str | None:
        """`file:line` of the innermost key on the way to `path`, if this text holds that key."""
        if path not in self.lines:
            return None
        return f"{self.origin}:{self.lines[path]}"


def load_config(file: Path | None, overrides: Sequence[str] = (), preset: str | None = None) -> Config:
    """Read, merge and validate. `overrides` are `section.key=value` with YAML values; raises ConfigError."""
    documents = []
    if file is not None:
        documents.append(_trainer_part(_read_file(file)))
    values = dict(documents[0].values) if documents else {}
    preset_name = preset or values.pop("preset", None)
    values.pop("preset", None)
    if preset_name is not None:
        base = _read_preset(preset_name)
        documents.append(base)
        values = _merged(base.values, values)
    documents.insert(0, _overrides_document(overrides))
    for text in overrides:
        path, value = _parse_override(text)
        _set(values, path, value, text)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, documents) for item in error.errors()[:5])) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML, all fields in their declared order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_schema() -> str:
    """The JSON schema of a trainer config, as text."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False)


def preset_names() -> list[str]:
    """Names of the configs that come with the package."""
    folder = resources.files("trainer") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read_file(file: Path) -> _Document:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    return _parse(text, str(file))


def _read_preset(name: str) -> _Document:
    names = preset_names()
    if name not in names:
        raise ConfigError(f"preset {name!r} is not one of {', '.join(names)}")
    text = (resources.files("trainer") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, f"preset {name}")


def _parse(text: str, origin: str) -> _Document:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Path_, int] = {}
        if node is not None:
            _note_lines(node, (), lines, origin)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{origin}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: holds a {type(values).__name__}; a config is a mapping of sections")
    return _Document(values, origin, lines)


def _note_lines(node: yaml.Node, path: Path_, lines: dict[Path_, int], origin: str) -> None:
    if len(path) > _MAX_DEPTH:
        raise ConfigError(f"{origin}:{node.start_mark.line + 1}: nested more than {_MAX_DEPTH} deep, or within itself")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{origin}:{key.start_mark.line + 1}: a key must be a plain word")
            child = (*path, key.value)
            if child in lines:
                raise ConfigError(f"{origin}:{key.start_mark.line + 1}: key {key.value!r} stands here a second time")
            lines[child] = key.start_mark.line + 1
            _note_lines(value, child, lines, origin)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*path, index] = value.start_mark.line + 1
            _note_lines(value, (*path, index), lines, origin)


def _trainer_part(document: _Document) -> _Document:
    """Of a run file, its `trainer:` part; the launcher validates the rest."""
    if "trainer" not in document.values:
        return document
    part = document.values["trainer"] or {}
    if not isinstance(part, dict):
        raise ConfigError(f"{document.where(('trainer',))}: trainer must be a mapping of sections")
    lines = {path[1:]: line for path, line in document.lines.items() if path[0] == "trainer"}
    return _Document(part, document.origin, lines)


def _parse_override(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {text}: expected section.key=value")
    try:
        return name.split("."), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: the value is not YAML") from None


def _overrides_document(overrides: Iterable[str]) -> _Document:
    document = _Document({}, "--set")
    for text in overrides:
        path, _ = _parse_override(text)
        document.lines[tuple(path)] = 0
    return document


def _set(values: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    for depth, key in enumerate(path[:-1]):
        inner = values.get(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {text}: {'.'.join(path[: depth + 1])} is not a section")
        values[key] = dict(inner)
        values = values[key]
    values[path[-1]] = value


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


def _explain(error: Any, documents: Sequence[_Document]) -> str:
    path: Path_ = tuple(error["loc"])
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    where = _location(path, documents)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "unknown key" + _did_you_mean(path)
    elif error["type"] != "value_error" and not isinstance(error["input"], dict | list):
        message = f"{message}, not {error['input']!r}"
    parts = [part for part in (where, dotted, message) if part]
    return ": ".join(parts)


def _location(path: Path_, documents: Sequence[_Document]) -> str | None:
    for depth in range(len(path), 0, -1):
        for document in documents:
            if depth == len(path) and document.origin == "--set" and any(key[:depth] == path for key in document.lines):
                return "--set"  # a combination of values, one of which was set
            where = document.where(path[:depth])
            if where is not None:
                return "--set" if document.origin == "--set" else where
    return None


def _did_you_mean(path: Path_) -> str:
    section: Any = Config
    for part in path[:-1]:
        if isinstance(part, int):  # an item of tuple[Section, ...]
            section = (get_args(section) or (None,))[0]
            continue
        known = getattr(section, "model_fields", {}).get(part)
        if known is None:
            return ""
        section = known.annotation
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return ""
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(path[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}"
