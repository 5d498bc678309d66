"""The base of every config section: frozen, closed, and with an identity.

The identity of a section is what of it determines a run's result, as plain values. A field that does not (where a run works,
how it is watched) is made with `unidentified`, or carries NOT_IDENTITY, and stays out of it. A field that a release adds is
made with `added_later`: at its default it stays out, so a run file from before keeps its hash.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

NOT_IDENTITY = {"identity": False}
ADDED_LATER = {"identity": "unless default"}

_LARGEST = (1 << 63) - 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
"""Of runs, sources and tasks: it becomes part of file names."""


def unidentified(default: Any) -> Any:
    """A field with a default that is not part of the run's identity."""
    return Field(default=default, json_schema_extra=dict(NOT_IDENTITY))


def added_later(default: Any) -> Any:
    """A field that came with a later release: part of the run's identity where it is not at its default."""
    return Field(default=default, json_schema_extra=dict(ADDED_LATER))


class Section(BaseModel):
    """A frozen part of the config. Unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    def identity(self) -> dict[str, Any]:
        """The fields that determine the run's result, as plain values."""
        return dict(_identity_items(self))

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take `steps: yes` for 1
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(
                f"is the truth value {str(value).lower()} (YAML reads yes, no, on and off so, too); for the word use quotes"
            )
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"is beyond {_LARGEST}, the largest number that is read here")
        return value


def canonical_json(value: Any) -> bytes:
    """The one spelling of a plain value that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _identity_items(section: Section) -> Iterator[tuple[str, Any]]:
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            continue
        value = getattr(section, name)
        if isinstance(extra, dict) and extra.get("identity") == ADDED_LATER["identity"] and value == field.default:
            continue
        if isinstance(value, Section):
            yield name, dict(_identity_items(value))
        elif isinstance(value, tuple):
            yield name, [dict(_identity_items(item)) if isinstance(item, Section) else item for item in value]
        else:
            yield name, value


def nearest_divisors(whole: int, wanted: int) -> str:
    """The divisors of `whole` just below and just above `wanted`, for the way out in an error."""
    below = islice((d for d in range(min(wanted, whole + 1) - 1, 0, -1) if whole % d == 0), 1)
    above = islice((d for d in range(wanted + 1, min(whole, 1000 * wanted) + 1) if whole % d == 0), 1)
    return ", ".join(str(d) for d in (*below, *above))
