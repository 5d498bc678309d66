"""The chart's generated files: values.yaml, values.schema.json, the README's table, and what templates know of the trainer.

`python -m k8s.chart_files` writes them, `--check` fails where one is stale. One source, k8s.values and trainer.config, so that
Helm, the launcher and the trainer refuse the same mistakes.
"""

import json
import re
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from k8s.rules import ALL_RULES
from k8s.value_parts import LARGEST_EXACT, SECRET_NAME, Part
from k8s.values import RunFile
from trainer.config import Config
from trainer.config_loading import preset_names
from trainer.config_section import ADDED_LATER, NOT_IDENTITY, Section

CHART = Path("helm/pretrain-run")
RULES_PAGE = Path("docs/rules.md")
_TABLE_MARKS = ("<!-- values: begin -->", "<!-- values: end -->")


def generated_files(chart: Path = CHART) -> dict[Path, str]:
    """Each generated file's path and its text."""
    readme = chart / "README.md"
    return {
        chart / "values.yaml": values_yaml(),
        chart / "values.schema.json": json.dumps(values_schema(), indent=1, ensure_ascii=False) + "\n",
        chart / "files" / "trainer.json": json.dumps(trainer_facts(), indent=1, ensure_ascii=False) + "\n",
        RULES_PAGE: rules_page(),
        readme: _with_table(readme.read_text(encoding="utf-8"), values_table()),
    }


def values_yaml() -> str:
    """The chart's defaults, each with its docstring above it."""
    head = "# The values of a run. Generated from k8s/values.py; `make chart` renews it.\n"
    return head + "\n".join(_yaml_lines(RunFile(), 0)) + "\n"


def _yaml_lines(part: Part, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field, value in _fields(part):
        yield ""
        yield f"{indent}# {field.description}"
        if isinstance(value, Part):
            yield f"{indent}{name}:"
            yield from (line for line in _yaml_lines(value, depth + 1) if line)
        else:
            yield f"{indent}{name}: {_inline(value)}"


def _fields(part: Part) -> Iterator[tuple[str, FieldInfo, Any]]:
    for name, field in type(part).model_fields.items():
        yield field.alias or name, field, getattr(part, name)


def _inline(value: Any) -> str:
    """A value on one line of YAML that is also JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def values_table() -> str:
    """Markdown: every value, its default and its meaning."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{path}` | `{default}` | {text} |" for path, default, text in _rows(RunFile(), "")]
    return "\n".join(lines)


def _rows(part: Part, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field, value in _fields(part):
        text = (field.description or "").replace("|", "\\|")
        if isinstance(value, Part):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _inline(value), text


def _with_table(text: str, table: str) -> str:
    begin, end = _TABLE_MARKS
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def rules_page() -> str:
    """Markdown: every rule over manifests."""
    head = (
        "# Rules over manifests\n\n`launcher render` and `submit` refuse manifests that break a rule, and tell risks. "
        "Generated from k8s/rules by `make chart`.\n"
    )
    parts = [
        f"## {rule.code}\n\n{rule.level.capitalize()}, {', '.join(rule.kinds) or 'any kind'}. {rule.why}"
        f" **Way out:** {rule.fix}.\n"
        for rule in ALL_RULES
    ]
    return "\n".join([head, *parts])


def values_schema() -> dict[str, Any]:
    """JSON schema of the run file, the trainer's part from the trainer's own models."""
    schema = RunFile.model_json_schema(by_alias=True)
    trainer = Config.model_json_schema()
    definitions = {**schema.pop("$defs"), **trainer.pop("$defs")}
    trainer["properties"]["preset"] = {"enum": preset_names(), "description": "A named config that this one builds on."}
    trainer["properties"]["seed"]["maximum"] = LARGEST_EXACT
    trainer["properties"]["seed"].pop("exclusiveMaximum", None)
    for key in ("run_dir", "data_dir"):  # the chart decides where volumes are
        del trainer["properties"][key]
    schema["properties"]["trainer"] = trainer | {"default": {}}
    schema["properties"]["global"] = {"type": "object", "description": "Set by Helm for subcharts; not used."}
    schema["properties"]["extra"] = {"$ref": "#/$defs/ExtraPart"}
    definitions["ExtraPart"]["properties"]["env"]["items"] = {
        **definitions["Named"],
        "if": {"properties": {"name": {"pattern": _any_case(SECRET_NAME)}}},
        "then": {"not": {"required": ["value"]}},
    }
    schema["allOf"] = _conditions()
    # values.yaml fills in what is left out; a null would take it away again
    for part in (schema, *(definition for name, definition in definitions.items() if name.endswith("Part"))):
        part["required"] = [name for name, field in part["properties"].items() if name != "global" and not _may_be_null(field)]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_plain(schema), "$defs": _plain(definitions)}


def _may_be_null(field: dict[str, Any]) -> bool:
    return any(each.get("type") == "null" for each in field.get("anyOf", []))


def _any_case(pattern: str) -> str:
    """A pattern in upper and lower case alike: JSON schema has no flag for it."""
    return re.sub(r"[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", pattern.removeprefix("(?i)"))


def _conditions() -> list[dict[str, Any]]:
    """The rules between values that a schema can say; `_rules.tpl` says those that compare numbers."""
    is_mpi = {"properties": {"backend": {"const": "mpijob"}}, "required": ["backend"]}
    is_gitops = {"properties": {"gitops": {"const": True}}, "required": ["gitops"]}
    return [
        {"if": is_mpi, "then": {"properties": {"elastic": {"properties": {"enabled": {"const": False}}}}}},
        {
            "if": is_gitops,
            "then": {"properties": {"image": {"properties": {"digest": {"type": "string"}}, "required": ["digest"]}}},
        },
        {"properties": {"image": {"properties": {"tag": {"not": {"const": "latest"}}}}}},
        {"properties": {"storage": {"properties": {"runs": {"properties": {"kind": {"not": {"const": "none"}}}}}}}},
    ]


def _plain(value: Any) -> Any:
    """Without pydantic's titles and marks, which say nothing to Helm's users; integers may come as Helm's floats."""
    if isinstance(value, dict):
        named = {"properties", "$defs"}
        drop = {"title", "identity"}
        return {
            k: ({n: _plain(s) for n, s in v.items()} if k in named else _plain(v)) for k, v in value.items() if k not in drop
        }
    return [_plain(item) for item in value] if isinstance(value, list) else value


def trainer_facts() -> dict[str, Any]:
    """What templates need to make a run's hash as Config.identity does: presets, identified fields and their defaults."""
    folder = resources.files("trainer") / "presets"
    presets = {name: yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in preset_names()}
    return {"identity": _identity_of(Config), "presets": presets}


def _identity_of(section: type[Section]) -> dict[str, Any]:
    nodes = {}
    for name, field in section.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is NOT_IDENTITY["identity"]:
            continue
        nodes[name] = _node_of(field)
        if isinstance(extra, dict) and extra.get("identity") == ADDED_LATER["identity"]:
            nodes[name]["addedLater"] = True
    return nodes


def _node_of(field: FieldInfo) -> dict[str, Any]:
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Section):
        return {"fields": _identity_of(kind)}
    for argument in getattr(kind, "__args__", ()):
        if isinstance(argument, type) and issubclass(argument, BaseModel) and issubclass(argument, Section):
            return {"items" if getattr(kind, "__origin__", None) is tuple else "optional": _identity_of(argument)}
    return {"default": json.loads(json.dumps(field.default, default=list))} if not field.is_required() else {"required": True}


def main(arguments: list[str]) -> int:
    """Write the files, or with --check tell which are stale."""
    stale = [path for path, text in generated_files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path}: stale; `make chart` renews it", file=sys.stderr)
        return 1 if stale else 0
    for path, text in generated_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
