"""The shipped configurations: each holds only what differs from the defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from stages.core.config import read_yaml
from stages.core.errors import StageError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> dict[str, Any]:
    """Read the shipped configuration NAME or the YAML file at that path, as plain values. Raises StageError."""
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)[0]
        raise StageError(
            f"Unknown dataset '{name}'",
            "neither a shipped configuration nor a YAML file",
            f"Did you mean '{near}'? Shipped: {', '.join(names())}",
        )
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"Cannot read configuration {path}", str(error), "Correct the YAML") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise StageError(f"Cannot read configuration {path}", "it is not a table of sections", "Write section: {key: value}")
    return values
