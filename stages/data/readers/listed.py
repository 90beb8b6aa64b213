"""What readers of a person's own photographs share: a row an image, lists in a folder of their own, masks that may be there.

A mask of `sub/name.jpg` is `masks/sub/name.png`, `masks/<id>.png`, or `masks/name.png` where no other image has that name.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn

from stages.core.errors import StageError
from stages.core.files import fitting
from stages.data import formats
from stages.data.labels import Labels
from stages.data.readers import all_there
from stages.data.readers.lists import Lists

MASKS = "masks"  # the folder of true masks
ABSENCE = ("background", "negative", "negatives", "none")  # names that say of an image that no class is in it


@dataclass(frozen=True)
class Row:
    """One image: its file below the root, with slashes; the names of its classes, None where nobody said; its split, if told.

    COPIES are further files of the same image, of the same bytes, that its classes come from.
    """

    file: str
    classes: tuple[str, ...] | None
    split: str = ""
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed(Lists):
    """The reader of ROWS by id; SOURCE says where their labels come from, and ABSENT what it names that is not there."""

    root: Path
    rows: Mapping[str, Row]
    classes: tuple[str, ...]
    source: str
    absent: tuple[str, ...] = ()

    def find(self, ids: Sequence[str], listed_in: str) -> list[str | None]:
        """The file of each of IDS, or None."""
        rows = map(self.rows.get, ids)
        return [None if row is None else f"{self.root}{os.sep}{row.file}" for row in rows]

    def files(self, ids: Sequence[str], listed_in: str) -> list[str]:
        """The file of each of IDS. Raises StageError that names the first absent one and counts the rest."""
        todo = "Add the files, correct the list, or write lists and configuration anew with `bas data init`"
        return all_there(self.find(ids, listed_in), ids, listed_in, self.root, todo)

    def labels(self, ids: Sequence[str]) -> tuple[Labels, str]:
        """Labels of IDS and their source; an image of which nobody said anything is not among them."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        found = {i: self.rows[i].classes for i in ids if i in self.rows}
        return {i: tuple(sorted(numbers[n] for n in names)) for i, names in found.items() if names is not None}, self.source

    @cached_property
    def _stems(self) -> Counter[str]:
        return Counter(PurePosixPath(row.file).stem for row in self.rows.values())

    def mask(self, image_id: str) -> Path | None:
        """The readable true mask of an image, or None."""
        file = PurePosixPath(self.rows[image_id].file)
        places = [str(file.with_suffix("")), image_id, *([file.stem] if self._stems[file.stem] == 1 else [])]
        paths = (self.root / MASKS / f"{place}.png" for place in dict.fromkeys(places))
        return next((path for path in paths if os.access(path, os.R_OK)), None)

    def objects(self, image_id: str) -> Path | None:
        """Instances are not told of."""
        return None

    def instances(self) -> Path | None:
        """Instances are not told of."""
        return None


def images_in(root: Path, below: str = "") -> list[str]:
    """Images in ROOT/BELOW and the folders in it, relative to ROOT with slashes, sorted; hidden ones are passed over."""
    found: list[str] = []
    for folder, inner, names in os.walk(root / below, onerror=unreadable):
        inner[:] = sorted(name for name in inner if name[0] != ".")
        place = Path(folder).relative_to(root).as_posix()
        prefix = "" if place == "." else f"{place}/"
        found += [prefix + name for name in names if name[0] != "." and name.lower().endswith(tuple(formats.SUFFIXES))]
    return sorted(found)


def unreadable(error: OSError) -> NoReturn:
    """Raise StageError of a folder that cannot be listed, whose images would be missing in silence."""
    why = error.strerror or "it cannot be listed"
    raise StageError(f"Cannot read folder {error.filename}", why, "Allow reading it, or move it away") from error


def identify(files: Iterable[str], below: str = "") -> dict[str, str]:
    """An id for each file: its path below the folder BELOW without the suffix, joined by `-`; with it where two would be alike.

    Of one that is too long for the names of outputs, a digest and the end; which other files there are does not matter to it.
    Raises StageError where two are alike all the same, and on a name that is no text.
    """
    start = len(below) + 1 if below else 0
    short = {file: _line(file[start:].rpartition(".")[0]) for file in files}
    often = Counter(short.values())
    ids = {file: name if often[name] == 1 else _line(file[start:]) for file, name in short.items()}
    double = next((name for name, count in Counter(ids.values()).items() if count > 1), None)
    if double is not None:
        same = [file for file, name in ids.items() if name == double]
        raise StageError("Two images would have one name", f"{same[0]} and {same[1]} are both '{double}'", "Rename one of them")
    return ids


def _line(path: str) -> str:
    """PATH as a line of a list: no break of a line in it, no space at its ends. Raises StageError where it is no text."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = path.encode(errors="backslashreplace").decode()
        raise StageError(f"Cannot use image {shown}", "its name is not UTF-8", "Rename it") from error
    return fitting(" ".join(path.replace("/", "-").split()))


def class_names(rows: Iterable[Row], wanted: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The classes: those WANTED in their order, else all that ROWS name, sorted. Raises StageError on one that is not wanted."""
    found = sorted({name for row in rows for name in row.classes or ()})
    if wanted is None:
        return tuple(found)
    strange = [name for name in found if name not in wanted]
    if strange:
        near = difflib.get_close_matches(strange[0], wanted, n=1)
        raise StageError(
            f"Unknown class '{strange[0]}' in {where}",
            f"data.classes are {', '.join(wanted[:20])}",
            f"Did you mean '{near[0]}'?" if near else "Correct the label, or add it to data.classes",
        )
    return tuple(wanted)
