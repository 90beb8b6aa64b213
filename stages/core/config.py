"""Strict, typed, frozen configuration: unknown keys and wrong types are errors that say what to write instead.

These few lines stand in for a validation library: importing one alone takes half of what `bas status` may take.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from stages.core.documents import read_yaml
from stages.core.errors import StageError
from stages.core.published import TRUNKS

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        """A word to type checkers."""
        return lambda kind: kind


TIMM = "timm:"  # before the name of a model of timm's
Trunk = NewType("Trunk", str)  # the name of a trunk; whether timm knows its own is asked where timm is used


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a value must hold to: bounds of a number or of each in a list, length of a sequence."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None

    def check(self, value: Any) -> None:
        """Raise ValueError, in words, when VALUE breaks a bound."""
        if self.min_length is not None and len(value) < self.min_length:
            raise ValueError(f"needs at least {self.min_length} entries")
        for number in value if isinstance(value, tuple) else [value]:  # of a list, every entry holds to the bounds
            if isinstance(number, (int, float)):
                self._check_number(number)

    def _check_number(self, value: float) -> None:
        bounds = (
            (self.ge, "at least", lambda bound: value >= bound),
            (self.gt, "greater than", lambda bound: value > bound),
            (self.le, "at most", lambda bound: value <= bound),
            (self.lt, "less than", lambda bound: value < bound),
        )
        broken = [f"{words} {bound:g}" for bound, words, holds in bounds if bound is not None and not holds(bound)]
        if broken:
            raise ValueError(f"must be {broken[0]}")


def Field(
    default: Any,
    *,
    description: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    later: bool = False,
) -> Any:
    """A setting of a Section: its default, the sentence that says what it is, and its limits.

    LATER: it came when there were runs without it, whose results are those of the default.
    """
    metadata = {"description": description, "limits": Limits(ge, gt, le, lt, min_length), "later": later}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class Section:
    """A section of the configuration: subclasses are frozen dataclasses whose fields are all made by `Field`.

    The methods are written here once: those that dataclasses make for each class cost a tenth of `bas status`.
    """

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)

    def __init__(self, **values: Any) -> None:
        known = _settings(type(self))
        if values.keys() - known.keys():
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(sorted(values.keys() - known.keys()))}")
        vars(self).update({name: values.get(name, setting.default) for name, setting in known.items()})

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot set {name}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def plain(self, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The settings as JSON values, without those named in EXCLUDE."""
        return {key: _plain(value) for key, value in vars(self).items() if key not in exclude}

    def deciding(self, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The settings that fingerprints hold: without EXCLUDE, and without what came later and is at its default.

        So a setting that is added makes no finished run stale.
        """
        idle = {key for key, item in _settings(type(self)).items() if item.metadata["later"] and vars(self)[key] == item.default}
        return self.plain(exclude | idle)


S = TypeVar("S", bound=Section)


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _settings(section: type[Section]) -> dict[str, dataclasses.Field[Any]]:
    """The settings of a section by name."""
    return {item.name: item for item in dataclasses.fields(section)}  # type: ignore[arg-type]


def validate(section: type[S], values: Any, where: str) -> S:
    """Build SECTION from plain values. Raises StageError that names the first bad key and the nearest valid one."""
    if not isinstance(values, Mapping):
        raise StageError(f"Bad value for {where}", f"it is a table of settings, got {values!r}", f"Write {where}: {{key: value}}")
    known, kinds = _settings(section), get_type_hints(section)
    for key in values:
        if key not in known:
            raise unknown_key(f"{where}.{key}", str(key), list(known))
    return section(**{key: _setting(known[key], kinds[key], value, f"{where}.{key}") for key, value in values.items()})


def _setting(setting: dataclasses.Field[Any], kind: Any, value: Any, where: str) -> Any:
    try:
        typed = _typed(value, kind, where)
        setting.metadata["limits"].check(typed)
    except ValueError as error:
        raise StageError(
            f"Bad value for {where}", f"{error}, got {value!r}", f"It is: {setting.metadata['description']}"
        ) from None
    return typed


def _typed(value: Any, kind: Any, where: str) -> Any:
    """VALUE as KIND, without any silent conversion but int to float and list to tuple. Raises ValueError in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Trunk:
        return _trunk(value)
    if origin is Literal:
        if value not in inner or isinstance(value, bool):
            raise ValueError(f"must be one of {', '.join(map(str, inner))}")
        return value
    if origin in (Union, UnionType):
        return None if value is None and NoneType in inner else _typed(value, next(k for k in inner if k is not NoneType), where)
    if origin is tuple or origin is Sequence:
        return _typed_list(value, inner, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError("must be a table")
        return {str(key): _typed(item, inner[1], where) for key, item in value.items()}
    return validate(kind, value, where) if issubclass(kind, Section) else _scalar(value, kind)


def _trunk(value: Any) -> str:
    if value in tuple(TRUNKS) or (isinstance(value, str) and value.startswith(TIMM) and value != TIMM):
        return value
    raise ValueError(f"must be one of {', '.join(TRUNKS)}, or {TIMM}NAME for timm's")


def _typed_list(value: Any, inner: Sequence[Any], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list")
    kinds = [inner[0]] * len(value) if len(inner) == 1 or inner[1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        raise ValueError(f"must be a list of {len(kinds)}")
    return tuple(_typed(item, kind, where) for item, kind in zip(value, kinds, strict=True))


_WORDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _scalar(value: Any, kind: type) -> Any:
    accepted = (int, float) if kind is float else (kind,)
    wrong_flag = isinstance(value, bool) and kind is not bool
    if wrong_flag or not isinstance(value, accepted) or (kind is float and not math.isfinite(value)):
        raise ValueError(f"must be {_WORDS[kind]}")
    return kind(value)


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


def merge(base: dict[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """BASE with the values of UPDATE, section by section; neither is changed."""
    merged = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
