"""Values of JSON files from elsewhere: each is what it should be, or a ValueError says in words what it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stages.formulas.polygons import Ring

T = TypeVar("T")
NAMES = {str: "text", int: "a whole number", list: "a list", dict: "a table"}


def load(path: Path) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("tables within tables without end") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"not JSON: {str(error)[:120]}") from error


def get(table: Any, key: str, kind: type[T]) -> T:
    """TABLE[KEY], which must be a KIND."""
    value = table.get(key) if isinstance(table, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"'{key}' is not {NAMES[kind]}")
    return value


def ring(values: Any) -> Ring:
    """Numbers x, y, x, y, … or pairs of them as corners (N, 2)."""
    flat = [number for value in values for number in (value if isinstance(value, list) else [value])]
    if len(flat) % 2 or not all(type(number) in (int, float) for number in flat):
        raise ValueError("corners that are not pairs of numbers")
    return np.array([number if abs(number) < 1e9 else math.inf for number in flat], np.float64).reshape(-1, 2)


def box(corners: Ring) -> Ring:
    """The four corners of a rectangle that is given by two opposite ones."""
    if len(corners) != 2:
        raise ValueError(f"a rectangle of {len(corners)} corners, not 2")
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
