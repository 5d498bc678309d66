"""From a YAML file, a preset and `--set` options to one `Config`, or to one error line that names file, line, field and rule.

A file holds the trainer's config itself, or a whole run file, whose `trainer:` part is then meant. `preset: NAME` in it names
a file of trainer/presets that it builds on; mappings merge key by key, anything else replaces.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trainer.config import Config
from trainer.config_text import STANDARD_INPUT, Document, explain, load_yaml, parse_text, read_config_text
from trainer.config_yaml import Mistake, Path_, shown
from trainer.errors import ConfigError


def load_config(file: Path | None, overrides: Sequence[str] = (), preset: str | None = None) -> Config:
    """Read, merge and validate. `overrides` are `section.key=value` with YAML values; raises ConfigError."""
    documents = []
    if file is not None:
        documents.append(_trainer_part(_read_file(file)))
    values = dict(documents[0].values) if documents else {}
    preset_name = preset or values.pop("preset", None)
    values.pop("preset", None)
    if preset_name is not None:
        where = documents[0].where(("preset",)) if documents and preset is None else "--preset"
        base = _read_preset(preset_name, where)
        documents.append(base)
        values = merged(base.values, values)
    documents.insert(0, override_document(overrides))
    for text in overrides:
        path, value = parse_override(text)
        set_value(values, path, value, text)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(item, documents, Config) for item in error.errors()[:5])) from None


def config_of(values: Mapping[str, Any], origin: str) -> Config:
    """From plain values, with their preset; `origin` is named in errors. Raises ConfigError."""
    document = Document(dict(values), origin)
    own = {key: value for key, value in values.items() if key != "preset"}
    base = _read_preset(values["preset"], origin).values if values.get("preset") is not None else {}
    try:
        return Config.model_validate(merged(base, own))
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(explain(item, [document], Config) for item in error.errors()[:5])) from None


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


def _read_file(file: Path) -> Document:
    try:
        text = read_config_text(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file") from None
    return parse_text(text, "standard input" if str(file) == STANDARD_INPUT else str(file))


def _read_preset(name: str, where: str | None) -> Document:
    names = preset_names()
    if name not in names:
        raise ConfigError((f"{where}: " if where else "") + f"preset {shown(name)} is not one of {', '.join(names)}")
    text = (resources.files("trainer") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_text(text, f"preset {name}")


def _trainer_part(document: Document) -> Document:
    """Of a run file, its `trainer:` part; the launcher validates the rest."""
    if "trainer" not in document.values:
        return document
    part = document.values["trainer"] or {}
    if not isinstance(part, dict):
        raise ConfigError(f"{document.where(('trainer',))}: trainer must be a section of keys: the trainer's config")
    lines = {path[1:]: line for path, line in document.lines.items() if path[0] == "trainer"}
    return Document(part, document.origin, lines)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Path and value of `section.key=value`. Raises ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {_cut(text)}: expected section.key=value, for example pretrain.epochs=2")
    try:
        return name.split("."), load_yaml(value)
    except Mistake as mistake:
        words = f"the value is {mistake.words}" if mistake.words.startswith("not YAML") else mistake.words
        raise ConfigError(f"--set {_cut(text)}: {words}") from None


def override_document(overrides: Iterable[str]) -> Document:
    """What tells that a value came from --set."""
    document = Document({}, "--set")
    for text in overrides:
        path, value = parse_override(text)
        _note_keys(tuple(path), value, document.lines)
    return document


def _note_keys(path: Path_, value: Any, lines: dict[Path_, int]) -> None:
    lines[path] = 0
    if isinstance(value, dict):
        for key, inner in value.items():
            _note_keys((*path, key), inner, lines)


def set_value(values: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    """Put an override's value in its place; sections on the way are copied. Raises ConfigError."""
    for depth, key in enumerate(path[:-1]):
        inner = values.get(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {_cut(text)}: {'.'.join(path[: depth + 1])} is not a section")
        values[key] = dict(inner)
        values = values[key]
    values[path[-1]] = value


def _cut(text: str) -> str:
    """An option as an error line shows it."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= 80 else f"{text[:79]}…"


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else of `top` replaces."""
    result = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
