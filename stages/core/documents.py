"""Documents in YAML as plain values, held to a size: what is read may come from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

LARGEST, DEEPEST = 100_000, 100  # values in a YAML document, and how deep they are nested


def read_yaml(text: str) -> Any:
    """The plain value in TEXT. Raises ValueError, with the reason in one line."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        """The safe loader (in C where it is built), to which 1e-4 is a number: YAML 1.1 takes it for a string."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
    try:
        if any(depth > DEEPEST for depth in _depths(yaml.parse(text, Loader))):
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        value = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from error
    if _extent(value, {}) > LARGEST:
        raise ValueError(f"its anchors unfold to more than {LARGEST} values")
    return value


def _depths(events: Iterable[Any]) -> Iterator[int]:
    """How deep a document is nested at each of its events: the loader in C calls itself for each level, and ends the process."""
    from yaml import CollectionEndEvent, CollectionStartEvent

    steps = (isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent) for event in events)
    return accumulate(steps)


def _extent(value: Any, known: dict[int, float]) -> float:
    """How many values VALUE unfolds to: an anchor that is named often is one value in memory and many when it is shown."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # what holds itself has no end
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_extent(one, known) for one in inner)
    return known[id(value)]
