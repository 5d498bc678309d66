"""YAML text with the line of each key, and a pydantic error told by file, line, field, rule and way out.

The trainer's config and the launcher's run file are read by it, so both speak alike.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from trainer.errors import ConfigError

Path_ = tuple[str | int, ...]

_MAX_DEPTH = 32
"""Far beyond any config; an alias within its own anchor has no end."""


@dataclass(frozen=True)
class Document:
    """Plain values of one YAML text, and the line of each key."""

    values: dict[str, Any]
    origin: str
    lines: dict[Path_, int] = field(default_factory=dict)

    def where(self, path: Path_) -> str | None:
        """`file:line` of the innermost key on the way to `path`, if this text holds that key."""
        if path not in self.lines:
            return None
        return f"{self.origin}:{self.lines[path]}"


class _Loader(yaml.SafeLoader):
    """Also takes `1e-3` for the number that it is in YAML 1.2 and in every other tool; YAML 1.1 wants a dot and a sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def parse_text(text: str, origin: str) -> Document:
    """A mapping from YAML, or from JSON where the origin's name ends so. Raises ConfigError naming the line."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Path_, int] = {}
        if node is not None:
            _note_lines(node, (), lines, origin)
        # YAML 1.1 takes JSON's 1e-7 for a string
        values = json.loads(text) if origin.endswith(".json") else load_yaml(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{origin}:{error.lineno}: not JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{origin}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: holds a {type(values).__name__}; a config is a mapping of sections")
    return Document(values, origin, lines)


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


def explain(error: Any, documents: Sequence[Document], model: type[BaseModel]) -> str:
    """One of a ValidationError's errors as one line."""
    path: Path_ = tuple(error["loc"])
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    where = _location(path, documents)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "unknown key" + _did_you_mean(path, model)
    elif error["type"] != "value_error" and not isinstance(error["input"], dict | list):
        message = f"{message}, not {error['input']!r}"
    parts = [part for part in (where, dotted, message) if part]
    return ": ".join(parts)


def _location(path: Path_, documents: Sequence[Document]) -> str | None:
    for depth in range(len(path), 0, -1):
        for document in documents:
            if depth == len(path) and document.origin == "--set" and any(key[:depth] == path for key in document.lines):
                return "--set"  # a combination of values, one of which was set
            where = document.where(path[:depth])
            if where is not None:
                return "--set" if document.origin == "--set" else where
    return None


def _did_you_mean(path: Path_, model: type[BaseModel]) -> str:
    section: Any = model
    for part in path[:-1]:
        if isinstance(part, int):  # an item of tuple[Section, ...]
            section = (get_args(section) or (None,))[0]
            continue
        known = _field_names(section).get(str(part))
        if known is None:
            return ""
        section = section.model_fields[known].annotation
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return ""
    names = list(_field_names(section))
    close = difflib.get_close_matches(str(path[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}"


def _field_names(section: Any) -> dict[str, str]:
    """Fields of a model by the names under which files know them."""
    fields = getattr(section, "model_fields", {})
    return {field.alias or name: name for name, field in fields.items()}
