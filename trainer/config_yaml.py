"""YAML and JSON as plain values: what every reader of YAML reads alike, and one line for what they do not.

PyYAML follows YAML 1.1, where `0100` is 64 and `1:30` is 90; YAML 1.2 and most other tools read 100 and a text. Such values are
refused, and so are tags, which configs need not. A text cannot make this reader work long or fill the memory: aliases are
counted by what they expand to.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import yaml
from yaml.reader import ReaderError

Path_ = tuple[str | int, ...]

MOST_DEPTH = 32
"""Far beyond any config; an alias within its own anchor has no end."""
MOST_VALUES = 100_000
"""Far beyond any config; a few aliases of aliases can stand for billions of values."""
_MOST_DIGITS = 40
_SHOWN_CHARS = 60

_TAG = "tag:yaml.org,2002:"
_TIME, _VALUE, _MERGE = f"{_TAG}timestamp", f"{_TAG}value", f"{_TAG}merge"
_TRUE, _FALSE = ("yes", "true", "on"), ("no", "false", "off")
_DECIMAL = re.compile(r"[-+]?[0-9][0-9_]*")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]*[0-9][0-9_]*")
_POWER_OF_TWO = re.compile(r"([-+]?)0(x|b)([0-9a-fA-F_]+)")


class Mistake(Exception):
    """What is wrong with a text, and in which of its lines."""

    def __init__(self, words: str, line: int | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.line = line


class _Loader(yaml.SafeLoader):
    """Takes `1e-3` for the number, and dates for the texts, that they are in YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_TIME, _VALUE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Mistake(f"nested more than {MOST_DEPTH} deep", self.peek_event().start_mark.line + 1)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def read_yaml(text: str) -> tuple[Any, dict[Path_, int]]:
    """The plain values of a YAML text, and the line of each key. Raises Mistake."""
    node = _compose(text)
    if node is None:
        return None, {}
    lines: dict[Path_, int] = {}
    for count, (path, line) in enumerate(_places(node, ()), start=1):
        if count > MOST_VALUES:
            raise Mistake(f"holds more than {MOST_VALUES} values, those of its aliases counted", line)
        if path in lines:
            raise Mistake(f"key {path[-1]!r} stands here a second time", line)
        lines[path] = line
    return _value(node), lines


def read_json(text: str) -> tuple[Any, dict[Path_, int]]:
    """The plain values of a JSON text, and, where YAML can read it too, the line of each key. Raises Mistake."""
    try:
        value = json.loads(text, object_pairs_hook=_without_twins, parse_int=_whole_number, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Mistake(f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise Mistake(f"nested more than {MOST_DEPTH} deep") from None
    lines: dict[Path_, int] = {}
    with suppress(Mistake):
        lines = read_yaml(text)[1]
    _check(value)
    return value, lines


def shown(value: Any, most_chars: int = _SHOWN_CHARS) -> str:
    """A value as an error line shows it: never longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= most_chars else f"{text[: most_chars - 1]}…"


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise Mistake(f"not YAML: holds the character U+{code:04X}, which YAML does not allow", line) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        if "'\\t'" in problem:
            problem += "; indent with blanks, not with tabs"
        if problem == "but found another document":
            problem = "a second document begins here (---); a config is one document"
        raise Mistake(f"not YAML: {problem}", mark.line + 1 if mark is not None else None) from None
    return node


def _places(node: yaml.Node, path: Path_) -> Iterator[tuple[Path_, int]]:
    """Path and line of every key and item, aliases expanded."""
    if len(path) > MOST_DEPTH:
        raise Mistake(f"nested more than {MOST_DEPTH} deep, or within itself", _line(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Mistake("a key must be a plain word", _line(key))
            yield (*path, key.value), _line(key)
            yield from _places(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), _line(value)
            yield from _places(value, (*path, index))


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        if node.tag != f"{_TAG}map":
            raise _unknown_tag(node)
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode):
        if node.tag != f"{_TAG}seq":
            raise _unknown_tag(node)
        return [_value(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    """Keys are texts, as in JSON; what `<<` brings in stands below the mapping's own keys."""
    own: dict[str, Any] = {}
    brought: dict[str, Any] = {}
    for key, value in node.value:
        if key.tag != _MERGE:
            own[_text(key)] = _value(value)
            continue
        bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for base in reversed(bases):  # of several the first one counts
            if not isinstance(base, yaml.MappingNode):
                raise Mistake("<< needs a mapping, or a list of mappings", _line(base))
            brought |= _mapping(base)
    return brought | own


_KINDS = {"bool": "truth value", "int": "whole number", "float": "number"}


def _scalar(node: yaml.ScalarNode) -> Any:
    kind, text = node.tag.removeprefix(_TAG), node.value
    try:
        match kind:
            case "str":
                return _text(node)
            case "null":
                return None
            case "bool" if text.lower() in (*_TRUE, *_FALSE):
                return text.lower() in _TRUE
            case "int":
                return _whole_number(text)
            case "float":
                return _number(text)
    except Mistake as mistake:
        raise Mistake(mistake.words, _line(node)) from None
    except ValueError:
        pass
    if kind not in _KINDS:
        raise _unknown_tag(node)
    raise Mistake(f"{shown(text)} is no {_KINDS[kind]} (!!{kind}); a text stands in quotes and has no tag", _line(node))


def _text(node: yaml.ScalarNode) -> str:
    _check(node.value, _line(node))
    return str(node.value)


def _whole_number(text: str) -> int:
    """Raises Mistake for what YAML 1.1 and 1.2 read differently, ValueError for what neither does."""
    if len(text) > _MOST_DIGITS:
        raise Mistake(f"{shown(text)} is a number of {len(text)} digits; {_MOST_DIGITS} are the most")
    digits = text.replace("_", "")
    if _LEADING_ZERO.fullmatch(text):
        plain = int(digits)
        raise Mistake(f"{text} is read differently by YAML 1.1 and 1.2; write {plain}, or {text!r} in quotes for a text")
    if ":" in text:
        raise Mistake(f"{text} counts by sixties in YAML 1.1 and is a text in 1.2; write a plain number, or quotes for a text")
    if _DECIMAL.fullmatch(text):
        return int(digits)
    if found := _POWER_OF_TWO.fullmatch(text):
        return int(found[1] + found[3].replace("_", ""), 16 if found[2] == "x" else 2)
    raise ValueError


def _number(text: str) -> float:
    if ":" in text:
        raise Mistake(f"{text} counts by sixties in YAML 1.1 and is a text in 1.2; write a plain number, or quotes for a text")
    plain = text.replace("_", "").lower()
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))


def _check(value: Any, line: int | None = None, depth: int = 0) -> None:
    """Raises Mistake for a text that no file or path can hold."""
    if depth > MOST_DEPTH:
        raise Mistake(f"nested more than {MOST_DEPTH} deep", line)
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, line, depth + 1)
            _check(item, line, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, line, depth + 1)
    elif isinstance(value, str):
        odd = next((character for character in value if character == "\0" or "\ud800" <= character <= "\udfff"), None)
        if odd is not None:
            what = "the character NUL" if odd == "\0" else "half of a character (a lone surrogate), or bytes that are not UTF-8"
            raise Mistake(f"{shown(value)} holds {what}", line)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise Mistake(f"key {key!r} stands there a second time")
        values[key] = value
    return values


def _no_constant(name: str) -> float:
    raise Mistake(f"{name} is no number that a config can hold")


def _unknown_tag(node: yaml.Node) -> Mistake:
    tag = node.tag.replace(_TAG, "!!")
    return Mistake(f"the tag {shown(tag)} is not read here; leave it out", _line(node))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
