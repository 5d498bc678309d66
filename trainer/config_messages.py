"""Pydantic's errors in plain words: the rule, the value, and where it helps the way out."""

import difflib
from collections.abc import Mapping
from typing import Any

from trainer.config_yaml import shown

_NAME = "lower-case letters, digits and dashes only, for example {example}"
_PATTERNS = {
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": _NAME,
    r"^[a-z]([-a-z0-9]*[a-z0-9])?$": _NAME + ", a letter first",
    r"^[a-z]{2,3}$": "two or three lower-case letters (ISO 639), for example en",
    r"^[A-Z]{2}$": "two capital letters, for example CN",
    r"^[A-Za-z0-9_-]+$": "the name of a character encoding, for example utf-8 or gb18030",
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "module:function, for example rewards:score",
    r"^(sha256:)?[0-9a-f]{64}$": "a SHA-256: 64 hexadecimal digits",
    r"^sha256:[0-9a-f]{64}$": "sha256: and 64 hexadecimal digits, as the registry tells it",
    r"^/.+$": "an absolute path, for example /data",
    r"^[^/].*$": "a relative path, for example runs/mine",
    r"^[0-9]+(s|m)$": "seconds or minutes, for example 30s",
    r"^[a-z0-9][a-z0-9._:/-]*$": "the name of an image without its tag, for example registry.example/team/pretrain-run",
    r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$": "an image's tag, for example v1.2",
}
"""What to write, by the pattern that a field's text must match."""

_COMPARISONS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_WHOLE = ("int_type", "int_parsing", "int_from_float", "int_parsing_size")
_SECTIONS = ("model_type", "model_attributes_type", "dict_type", "dataclass_type", "mapping_type")
_LISTS = ("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type")


def plain(error: Mapping[str, Any]) -> str:
    """The rule that a value breaks, with the value where it is a short one."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "missing":
        return "is missing"
    if kind == "json_invalid":
        return f"is not JSON: {context.get('error', message)}"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in _LISTS:
        key = error["loc"][-1] if error["loc"] else ""
        example = f", for example {key}: [{_example(value)}]" if isinstance(key, str) and not isinstance(value, dict) else ""
        return f"must be a list, not {_told(value)}{example}"
    if kind in _SECTIONS:
        return f"must be a section of keys, not {_told(value)}"
    rule = _rule(kind, context, value) or message
    if isinstance(value, dict | list | tuple):
        return f"{rule}, not {_told(value)}" if rule.startswith("must be") else rule
    return f"{rule}, not {_told(value)}" + _way_out(kind, context, value)


def _rule(kind: str, context: Mapping[str, Any], value: Any) -> str | None:
    if kind in _COMPARISONS:
        limit, words = _COMPARISONS[kind]
        return f"must be {words} {context[limit]}"
    if kind in _WHOLE:
        return "must be a whole number"
    if kind in ("float_type", "float_parsing"):
        return "must be a number"
    if kind in ("bool_type", "bool_parsing"):
        return "must be true or false"
    if kind in ("string_type", "path_type"):
        return "must be a text"
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "string_pattern_mismatch":
        known = _PATTERNS.get(context["pattern"])
        return "must be " + known.format(example=_name_like(value)) if known else f"must match {context['pattern']}"
    if kind in ("string_too_short", "string_too_long"):
        most = kind == "string_too_long"
        return f"must have at {'most' if most else 'least'} {context['max_length' if most else 'min_length']} characters"
    if kind in ("too_short", "too_long"):
        most = kind == "too_long"
        count = context["max_length" if most else "min_length"]
        return f"must have at {'most' if most else 'least'} {count} {'item' if count == 1 else 'items'}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    return None


def _way_out(kind: str, context: Mapping[str, Any], value: Any) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; put it in quotes"
    if kind == "literal_error" and isinstance(value, str):
        known = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(value.lower(), known, n=1)
        return f"; did you mean {close[0]}?" if close else ""
    return ""


def _told(value: Any) -> str:
    """A value in the words of a YAML file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    return shown(value)


def _example(value: Any) -> str:
    return shown(value).strip("'") if isinstance(value, str) and value else "..."


def _name_like(value: Any) -> str:
    """A name close to the one that was refused."""
    words = "".join(character if character.isascii() and character.isalnum() else "-" for character in str(value).lower())
    dashed = "-".join(word for word in words.split("-") if word)[:20].strip("-")
    return dashed if dashed and dashed[0].isalpha() else "my-run"
