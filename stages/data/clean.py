"""Clean lists: the images that `bas data check --fix` found fit to be used. All others are left out, counted and told of.

    <list>_clean.txt  beside a list: ids of it
    clean.txt         in a folder of photographs without lists of its own: paths in it, as ids are not settled before a split

They are in force as long as they lie there, whoever reads the dataset. An id or path is one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.core.errors import StageError
from stages.data.readers import Reader
from stages.data.readers.lists import Lists
from stages.data.readers.voc import LIST_FOLDERS

NAME = "clean"


@dataclass(frozen=True)
class Sifted:
    """The ids that are left of a list, and those that each clean list leaves out."""

    ids: tuple[str, ...]
    left_out: Mapping[Path, frozenset[str]] = field(default_factory=dict)

    def require(self, name: str) -> tuple[str, ...]:
        """The ids of the list NAME. Raises StageError where none is left."""
        if not self.ids:
            path = list(self.left_out)[-1]
            todo = "Write it anew with `bas data check --fix`, or delete it"
            raise StageError(f"No image of list '{name}' is left", f"none of them is in {path}", todo)
        return self.ids


def home(reader: Reader) -> Path:
    """The folder of a dataset's lists."""
    if isinstance(reader, Lists):
        return reader.folder
    devkit = reader.root / LIST_FOLDERS[0]
    return devkit if devkit.is_dir() else reader.root


def of_list(folder: Path, name: str) -> Path:
    """The clean list of the list NAME in FOLDER."""
    return folder / f"{name}_{NAME}.txt"


def of_files(root: Path) -> Path:
    """The clean list of all files in ROOT."""
    return root / f"{NAME}.txt"


def line(text: str) -> str:
    """An id or path as a line: names of files may hold breaks of lines."""
    return " ".join(text.split())


def inner(root: Path, file: str) -> str:
    """The line of FILE in ROOT's list of files."""
    return line(os.path.relpath(file, root).replace(os.sep, "/"))


def sift(reader: Reader, name: str, ids: Sequence[str]) -> Sifted:
    """IDS of the list NAME without those that a clean list leaves out. Raises StageError on one that is no text."""
    path = of_list(home(reader), name)
    known = _lines(path)
    first = Sifted(tuple(ids)) if known is None else _without(ids, [i for i in ids if line(i) not in known], path)
    second = sift_files(reader, name, first.ids)
    return Sifted(second.ids, {**first.left_out, **second.left_out})


def sift_files(reader: Reader, name: str, ids: Sequence[str]) -> Sifted:
    """IDS, listed in NAME, without those whose files the list of files in the reader's root leaves out. Raises StageError."""
    path = of_files(reader.root)
    known = _lines(path)
    if known is None:
        return Sifted(tuple(ids))
    files = zip(ids, reader.find(ids, name), strict=True)
    return _without(ids, [i for i, file in files if file is None or inner(reader.root, file) not in known], path)


def _without(ids: Sequence[str], out: Sequence[str], path: Path) -> Sifted:
    gone = frozenset(out)
    return Sifted(tuple(i for i in ids if i not in gone), {path: gone} if gone else {})


def costs(sifted: Iterable[Sifted]) -> dict[Path, int]:
    """How many images each clean list leaves out of all these lists."""
    gone: dict[Path, set[str]] = {}
    for one in sifted:
        for path, ids in one.left_out.items():
            gone.setdefault(path, set()).update(ids)
    return {path: len(ids) for path, ids in gone.items()}


def _lines(path: Path) -> frozenset[str] | None:
    """The lines of a list; None where it is not there."""
    try:
        return frozenset(map(line, path.read_text(encoding="utf-8-sig").split("\n")))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"Cannot read {path}", str(error), "Write it anew with `bas data check --fix`, or delete it") from error
