"""YAML text with the line of each key, and a pydantic error told by file, line, field, rule and way out.

The trainer's config and the launcher's run file are read by it, so both speak alike.
"""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from trainer.config_messages import plain
from trainer.config_yaml import Mistake, Path_, read_json, read_yaml, shown
from trainer.errors import ConfigError

STANDARD_INPUT = "-"
"""As the name of a config file."""
_MOST_BYTES = 4 << 20


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


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text. Raises trainer.config_yaml.Mistake."""
    return read_yaml(text)[0]


def read_config_text(file: Path) -> str:
    """The text of a config file, of standard input for `-`. Raises ConfigError; FileNotFoundError is left to the caller."""
    try:
        if str(file) == STANDARD_INPUT:
            data = _standard_input()
        else:
            with file.open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"{file}: is larger than {_MOST_BYTES} bytes, and no config; give a YAML file")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ConfigError(f"{file}: is a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise ConfigError(f"{shown(str(file)) if len(str(file)) > 200 else file}: cannot be read: {_reason(error)}") from None


@cache
def _standard_input() -> bytes:
    """Read once, however often it is asked for."""
    return sys.stdin.buffer.read(_MOST_BYTES + 1)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def parse_text(text: str, origin: str) -> Document:
    """A mapping from YAML, or from JSON where the origin's name ends so. Raises ConfigError naming the line."""
    try:
        # YAML 1.1 takes JSON's 1e-7 for a string
        values, lines = read_json(text) if origin.endswith(".json") else read_yaml(text)
    except Mistake as mistake:
        line = f":{mistake.line}" if mistake.line is not None else ""
        raise ConfigError(f"{origin}{line}: {mistake.words}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else shown(values)
        raise ConfigError(f"{origin}: holds {what}; a config is a mapping of sections, such as `seed: 1`")
    return Document(values, origin, lines)


def explain(error: Any, documents: Sequence[Document], model: type[BaseModel]) -> str:
    """One of a ValidationError's errors as one line."""
    path: Path_ = tuple(error["loc"])
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    where = _location(path, documents)
    if error["type"] == "extra_forbidden":
        message = "unknown key" + _did_you_mean(path, model)
    else:
        message = _with_origin(plain(error), path, documents, model)
    parts = [part for part in (where, dotted if len(dotted) <= 200 else f"{dotted[:200]}…", message) if part]
    return ": ".join(parts)


def _with_origin(message: str, path: Path_, documents: Sequence[Document], model: type[BaseModel]) -> str:
    """Of a rule that begins with a field and its value: whose value that is, where the user has not given it."""
    found = re.match(r"([a-z_]+(?:\.[a-z_]+)*) (-?[0-9][-+.0-9e]*) ", message)
    if found is None:
        return message
    field_path = (*path, *found[1].split("."))
    if not _is_field(field_path, model):
        return message
    holder = next((document for document in documents if field_path in document.lines), None)
    if holder is None:
        origin = "the default"
    elif holder.origin.startswith("preset "):
        origin = f"from {holder.origin}"
    else:
        return message
    return f"{message[: found.end() - 1]} ({origin}){message[found.end() - 1 :]}"


def _is_field(path: Path_, model: Any) -> bool:
    section = model
    for part in path:
        known = _field_names(section).get(str(part))
        if known is None:
            return False
        section = section.model_fields[known].annotation
    return True


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
