"""What a stage reads beside the dataset: earlier stages, what was brought from outside, files of initial weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from stages.core.config import Section
from stages.core.errors import StageError
from stages.core.manifest import read_manifest

IMPORTS = "imports"  # folder of the maps that came from elsewhere, one a name
CORRECTIONS = "corrections"  # folder of the masks that were corrected by hand, likewise
BROUGHT = {IMPORTS: "seed import", CORRECTIONS: "masks import"}  # folders of what comes from outside, and what brings it
WEIGHTS = ("none", "imagenet", "coco", "seed")  # initial weights that are no file


def name_of(stage: ModuleType) -> str:
    """The name of a stage's module, under which its section, its folder and its command are found."""
    return stage.__name__.rsplit(".", 1)[-1]


def needs(stage: ModuleType, section: Section) -> tuple[str, ...]:
    """The stages and imports that a stage reads: its NEEDS, and what its `more_needs(config)` names."""
    more = getattr(stage, "more_needs", None)
    return (*stage.NEEDS, *(more(section) if more is not None else ()))


def require(stage: ModuleType, section: Section, run_dir: Path, coming: Collection[str] = ()) -> None:
    """Raise StageError when an earlier stage or an import that this one reads is neither complete nor COMING before it."""
    for need in needs(stage, section):
        if need not in coming and read_manifest(run_dir / need) is None:
            raise StageError(
                f"Cannot run {name_of(stage)}",
                f"its input {need} is not there in {run_dir}",
                f"Run `bas {brought(need) or f'run DATASET --until {need}'}` first",
            )


def brought(name: str) -> str | None:
    """What brings NAME, an import, from outside, as words of the command; None for a stage of this run."""
    command = BROUGHT.get(name.partition("/")[0])
    return command and f"{command} DIR --name {Path(name).name}"


def require_weights(section: Section) -> None:
    """Raise StageError when SECTION names a file of weights that is not there."""
    weights = getattr(section, "weights", None)
    if weights not in (None, *WEIGHTS) and not Path(weights).is_file():
        raise StageError(f"Cannot read weights {weights}", "no such file", "Check the path given to --weights")
