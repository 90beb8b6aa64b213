"""Strict, typed, frozen configuration: unknown keys and wrong types are errors that say what to write instead."""

from __future__ import annotations

import difflib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Field

from stages.core.errors import StageError


class Section(BaseModel):
    """A section of the configuration: frozen, no unknown key, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


S = TypeVar("S", bound=Section)


def validate(section: type[S], values: dict[str, Any], where: str) -> S:
    """Build SECTION from plain values. Raises StageError that names the first bad key and the nearest valid one."""
    try:
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_key(f"{where}.{path}", path.split(".")[-1], list(section.model_fields)) from None
        raise StageError(
            f"Bad value for {where}.{path}", f"{first['msg']}, got {first['input']!r}", _describe(section, path)
        ) from None


def _describe(section: type[Section], path: str) -> str:
    field = section.model_fields.get(path.split(".")[0])
    return f"It is: {field.description}" if field is not None and field.description else "Correct the value"


def unknown_key(full: str, key: str, valid: list[str]) -> StageError:
    """The error for a misspelt key, with the nearest valid one."""
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    return StageError(f"Unknown setting '{full}'", "no such key", f"Did you mean '{near[0] if near else '?'}'?")


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`section.key=value` → (["section", "key"], value); the value is read as YAML. Raises StageError."""
    import yaml

    path, separator, value = text.partition("=")
    keys = path.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise StageError(
            f"Cannot read --set {text}", "not of the form section.key=value", "Write for example --set seed_train.epochs=5"
        )
    try:
        return keys, _number(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise StageError(
            f"Cannot read --set {text}", f"the value is not YAML ({error})".replace("\n", " "), "Quote the value"
        ) from None


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value) if any(ch.isdigit() for ch in value) else value
        except ValueError:
            return value
    return value


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """BASE with the values of UPDATE, section by section; neither is changed."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
