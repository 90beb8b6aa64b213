"""A stage on another list of images than its configuration's: `segment_predict@test`, with a folder and a manifest of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from stages.core.errors import StageError

MARK = "@"


def on(stage: str, images: str) -> str:
    """The name of STAGE on the list IMAGES."""
    return f"{stage}{MARK}{images}"


def stage_of(name: str) -> str:
    """The stage that NAME means: its module, and its section of the configuration."""
    return name.partition(MARK)[0]


def canonical(name: str, usual: Sequence[str]) -> str:
    """NAME without its list where that is one of the USUAL, which is read anyway. Raises StageError on what cannot be a list."""
    asked = list_of(name)
    if asked is None or asked in usual:
        return stage_of(name)
    if Path(asked).name != asked or asked.startswith("."):
        raise StageError(f"Bad list '{asked}'", "the name of a list is no path", "Give the name of one of the dataset's lists")
    return name


def list_of(name: str) -> str | None:
    """The list in NAME; None where it is the stage alone."""
    return name.partition(MARK)[2] or None


def found(run_dir: Path) -> list[str]:
    """The names in a run's folder of stages that worked on other lists."""
    return sorted(path.name for path in run_dir.glob(f"*{MARK}*"))


def read_by(stage: ModuleType, name: str) -> tuple[str, ...]:
    """The lists or splits of the dataset that the STAGE of that NAME reads."""
    asked = list_of(name)
    return stage.READS if asked is None else (asked,)
