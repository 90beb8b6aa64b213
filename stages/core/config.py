"""Strict, typed, frozen configuration: unknown keys and wrong types are errors that say what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Field

from stages.core.errors import StageError


class Section(BaseModel):
    """A section of the configuration: frozen, no unknown key, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def validate(section: type[S], values: dict[str, Any], where: str) -> S:
    """Build SECTION from plain values. Raises StageError that names the first bad key and the nearest valid one."""
    try:
        return section.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys = [str(part) for part in first["loc"]]
        full = ".".join([where, *keys])
        if first["type"] == "extra_forbidden":
            raise unknown_key(full, keys[-1], list(_owner(section, keys).model_fields)) from None
        got = f", got {first['input']!r}" if keys else ""
        raise StageError(f"Bad value for {full}", first["msg"] + got, _describe(section, keys)) from None


def _owner(section: type[Section], keys: list[str]) -> type[Section]:
    """The section that the last of KEYS belongs to: SECTION itself, or one nested in it."""
    for key in keys[:-1]:
        kinds = get_args(section.model_fields[key].annotation) or (section.model_fields[key].annotation,)
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), section)
    return section


def _describe(section: type[Section], keys: list[str]) -> str:
    field = section.model_fields.get(keys[0]) if keys else None
    return f"It is: {field.description}" if field is not None and field.description else "Correct the value"


def unknown_key(full: str, key: str, valid: list[str]) -> StageError:
    """The error for a misspelt key, with the nearest valid one."""
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    return StageError(f"Unknown setting '{full}'", "no such key", f"Did you mean '{near[0] if near else '?'}'?")


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`section.key=value` → (["section", "key"], value); the value is read as YAML. Raises StageError."""
    path, separator, value = text.partition("=")
    keys = path.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise StageError(
            f"Cannot read --set {text}", "not of the form section.key=value", "Write for example --set seed_train.epochs=5"
        )
    try:
        return keys, read_yaml(value)
    except ValueError as error:
        raise StageError(f"Cannot read --set {text}", f"the value is not YAML ({error})", "Quote the value") from None


def read_yaml(text: str) -> Any:
    """The plain value in TEXT. Raises ValueError, with the reason in one line."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        """The safe loader (in C where it is built), to which 1e-4 is a number: YAML 1.1 takes it for a string."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from error


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """BASE with the values of UPDATE, section by section; neither is changed."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
