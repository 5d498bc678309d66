"""A config to start from, and help for one key: both from the fields' own docstrings, so neither can grow stale."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from trainer.config import Config
from trainer.config_loading import load_config
from trainer.config_section import Section
from trainer.errors import UsageError

_HEAD = """\
## A run of pretrain-run. Lines behind one # are keys at their defaults: remove the # to change one,
## and the # before the name of its section.
##   trainer validate -c THIS_FILE    looks whether all that the run needs is there
##   trainer run -c THIS_FILE         does the stages in turn
##   trainer config --explain KEY     tells more of one key
"""
_CHOSEN: Mapping[str, Any] = {
    "name": "my-run",
    "stages": ["prepare", "tokenizer", "encode", "pretrain", "evaluate", "generate", "report"],
    "corpus.sources": [{"name": "poems", "path": "box:chinese-poetry.jsonl.zst"}],
    "pretrain.epochs": 1,
    "generate.prompts": ["春"],
}
"""What a starter sets: enough to run."""
_TOO_FINE = ("corpus.steps.quality", "engine.deepspeed")
"""Sections of which the starter names only the place where they are told."""


def starter(preset: str) -> str:
    """A commented config that builds on a preset, as YAML. Raises ConfigError for a preset that is not there."""
    config = load_config(None, [], preset)
    return "\n".join([_HEAD, f"preset: {preset}", *_lines(config, "")]) + "\n"


def explain_key(config: Config, key: str) -> Iterator[str]:
    """Lines on one key: its value, what it is, what it may be; of a section, its keys. Raises UsageError."""
    section: Any = config
    names = key.split(".")
    for depth, name in enumerate(names[:-1]):
        section = getattr(section, _known(section, name, ".".join(names[:depth])))
        if not isinstance(section, Section):
            raise UsageError(f"--explain {key}: {'.'.join(names[: depth + 1])} is a value and has no keys")
    name = _known(section, names[-1], ".".join(names[:-1]))
    field, value = type(section).model_fields[name], getattr(section, name)
    if isinstance(value, Section):
        yield f"{key}: {_one_line(type(value).__doc__ or '')}"
        for each, inner in type(value).model_fields.items():
            yield f"  {each}: {_first_sentence(inner.description or _doc_of_section(inner))}"
        return
    yield f"{key}: {_shown(value)}"
    yield f"  {_one_line(field.description or '')}"
    yield f"  {_kind(field)}"


def _known(section: Section, name: str, where: str) -> str:
    fields = type(section).model_fields
    if name in fields:
        return name
    close = difflib.get_close_matches(name, fields, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(fields)}"
    raise UsageError(f"--explain: there is no key {name} in {where or 'a config'}; {hint}")


def _lines(section: Section, path: str) -> Iterator[str]:
    depth = path.count(".") + bool(path)
    margin = "  " * depth
    for name, field in type(section).model_fields.items():
        dotted = f"{path}.{name}".lstrip(".")
        value = getattr(section, name)
        chosen = any(key == dotted or key.startswith(f"{dotted}.") for key in _CHOSEN)
        mark = "" if chosen else "# "
        if isinstance(value, Section):
            yield "" if depth == 0 else f"{margin}##"
            yield f"{margin}## {_first_sentence(_doc_of_section(field))}"
            if dotted in _TOO_FINE:
                yield f"{margin}## {dotted} has many keys: trainer config --explain {dotted}"
                continue
            yield f"{margin}{mark}{name}:"
            yield from _lines(value, dotted)
            continue
        yield f"{margin}## {_first_sentence(field.description or '')}"
        yield f"{margin}{mark}{name}: {_shown(_CHOSEN.get(dotted, value))}"


def _shown(value: Any) -> str:
    """A value as one line of YAML."""
    if isinstance(value, Section):
        value = value.model_dump(mode="json")
    elif isinstance(value, tuple):
        value = [item.model_dump(mode="json") if isinstance(item, Section) else item for item in value]
    return json.dumps(value, ensure_ascii=False, default=str)


def _kind(field: FieldInfo) -> str:
    """What a field may be, from its schema."""
    from pydantic import TypeAdapter

    annotated: Any = field.annotation
    for constraint in field.metadata:
        annotated = _annotated(annotated, constraint)
    schema = TypeAdapter(annotated).json_schema()
    return f"{'; or '.join(_of_schema(part) for part in schema.get('anyOf', [schema]))}; default: {_shown(field.default)}"


def _annotated(kind: Any, constraint: Any) -> Any:
    from typing import Annotated

    return Annotated[kind, constraint]


_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text", "null": "null"}
_LIMITS = {
    "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below",
    "minItems": "of at least", "pattern": "like",
}  # fmt: skip


def _of_schema(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return f"{schema['const']}"
    words = _WORDS.get(schema.get("type", ""), "a list" if schema.get("type") == "array" else "a section of keys")
    limits = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if key in schema]
    return " ".join([words, ", ".join(limits)]).strip()


def _doc_of_section(field: FieldInfo) -> str:
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    own = next((kind.__doc__ for kind in kinds if issubclass(kind, Section)), None)
    return field.description or own or ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:;]) (?=[A-Z(`])", _one_line(text), maxsplit=1)[0].rstrip(":;")
