"""Sources of seeds: which maps a setting means, written as they are added up: `bas`, `sum`, `average + 2*irn`.

Maps of this run's networks are `bas` (the generator's), `cam` (of the same network), `agnostic` (the class-agnostic
foreground map, the same for every class) and `irn` (of the CAM network); any other name is of imported maps. `replace` and
`average` are `bas` held under the class-agnostic map (Table 13); `sum` is `bas+cam` (Table 9), in longer sums too. Imports
no torch: settings are checked by it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import StageError

FUSIONS = ("replace", "average")
MADE_OF = {"sum": ("bas", "cam"), **dict.fromkeys(FUSIONS, ("bas", "agnostic"))}  # those that are not maps themselves
OWN = ("bas", "cam", "agnostic", "irn")  # maps that this run's networks make
NAME = re.compile(r"[a-z][a-z0-9_-]*", re.IGNORECASE)
TERM = re.compile(rf"(?:(\d+(?:\.\d+)?)\*)?({NAME.pattern})", re.IGNORECASE)


class Term(NamedTuple):
    """One summand: the name of a map or fusion, and its weight."""

    name: str
    weight: float


def parse(source: str) -> tuple[Term, ...]:
    """The summands of a source, in order. Raises StageError when it is not `name`, or `weight*name` joined by `+`."""
    matches = [TERM.fullmatch(part.strip()) for part in source.split("+")]
    terms = [Term(match[2], float(match[1] or 1)) for match in matches if match is not None]
    if len(terms) < len(matches) or any(term.weight == 0 for term in terms):
        raise StageError(
            f"Cannot read the source '{source}'",
            "it is a name, or names joined by + with weights above 0 as 0.5*name",
            "Write for example bas, sum, or average+0.5*irn",
        )
    flat = ([Term(name, term.weight) for name in MADE_OF["sum"]] if term.name == "sum" else [term] for term in terms)
    return tuple(term for group in flat for term in group)


def meant(source: str, others: Iterable[str] = ()) -> str | None:
    """SOURCE with the names that may be misspellings of this run's own maps, or of OTHERS, set right; None without any."""
    known = (*OWN, *MADE_OF, *others)

    def nearest(name: re.Match[str]) -> str:
        return next(iter(difflib.get_close_matches(name[0].lower(), known, n=1, cutoff=0.7)), name[0])

    right = NAME.sub(nearest, source)
    return None if right == source else right


def require_free(name: str) -> None:
    """Raise StageError where imported maps cannot be called NAME."""
    if NAME.fullmatch(name) is None or name.startswith("threshold_"):
        why = "a name is a letter, then letters, digits, - and _, and begins not with threshold_"
    elif name in (*OWN, *MADE_OF):
        why = "this run's own maps have that name"
    else:
        return
    raise StageError(f"Imported maps cannot be called '{name}'", why, "Choose another with --name")


def maps_of(sources: Iterable[str]) -> tuple[str, ...]:
    """Names of all maps that the sources are made of, each once."""
    names = (name for source in sources for term in parse(source) for name in MADE_OF.get(term.name, (term.name,)))
    return tuple(dict.fromkeys(names))


def imported(sources: Iterable[str]) -> tuple[str, ...]:
    """The maps among them that this run's networks do not make."""
    return tuple(name for name in maps_of(sources) if name not in OWN)


def seed_path(folder: Path, image_id: str) -> Path:
    """Where the seed of an image lies in the folder of the stage or import that made it."""
    return folder / "seeds" / f"{image_id}.npz"
