"""The shipped configurations: each holds only what differs from the defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from stages.core.config import merge
from stages.core.documents import read_yaml
from stages.core.errors import StageError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> dict[str, Any]:
    """Read the shipped configuration NAME or the YAML file at that path, as plain values, over those of its `base`.

    Raises StageError.
    """
    return _load(name, ())


def _load(name: str, users: tuple[Path, ...]) -> dict[str, Any]:
    """Values of NAME over those of the chain of bases that it names; USERS are the files that led here."""
    path = _find(name, users)
    if path in users:
        raise StageError(f"Configuration {path} is its own base", f"by way of {users[-1]}", "Take one `base` out")
    values = _read(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise StageError(f"Cannot read configuration {path}", f"base is {base!r}", "Name one configuration: base: voc")
    return merge(_load(base, (*users, path)), values)


def _find(name: str, users: tuple[Path, ...]) -> Path:
    """The file of NAME; a path in the file that names it as its base starts at that file's folder."""
    path = FOLDER / f"{name}.yaml" if name in names() else Path(*(user.parent for user in users[-1:]), name)
    if path.suffix in (".yaml", ".yml") and not path.is_file():
        raise StageError(
            f"Cannot read configuration {path}",
            "no such file",
            f"Give a YAML file, or one of those shipped: {', '.join(names())}",
        )
    if path.suffix not in (".yaml", ".yml") and len(Path(name).parts) > 1:
        raise StageError(f"No dataset at {name}", "no such file or folder", "Check the path")
    if path.suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)[0]
        raise StageError(
            f"Unknown dataset '{name}'",
            "neither a shipped configuration nor a YAML file",
            f"Did you mean '{near}'? Shipped: {', '.join(names())}",
        )
    return path.resolve()


def _read(path: Path) -> dict[str, Any]:
    """The table in a YAML file."""
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"Cannot read configuration {path}", str(error), "Correct the YAML") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise StageError(f"Cannot read configuration {path}", "it is not a table of sections", "Write section: {key: value}")
    return values
