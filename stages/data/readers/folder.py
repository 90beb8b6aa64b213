"""A folder that holds one sub-folder a class: DIR/cat/*.jpg, or DIR/train/cat/*.jpg beside DIR/val and DIR/test.

A class's folder may have folders of its own. The same name in two of them is one image with two labels where the bytes are
the same (meant so where one is a link to the other), else two images. A folder called background, negative or none holds
images in which no class is.
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path

from stages.core.errors import StageError
from stages.data.readers import Place
from stages.data.readers.listed import ABSENCE, MASKS, Listed, Row, class_names, identify, images_in

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_at(place: Place) -> Listed:
    """The class folders at a place. Raises StageError where there are none."""
    found = rows(place.root, place.classes)
    if not found:
        why = "no such folder" if not place.root.is_dir() else "no sub-folder of it holds images"
        raise StageError(f"Cannot use data {place.root}", why, "Give a folder with one sub-folder a class")
    ids = identify(row.file for row in found)
    classes = class_names(found, place.classes, str(place.root))
    return Listed(place.lists, place.root, {ids[row.file]: row for row in found}, classes, "the folders' names")


def rows(root: Path, wanted: Sequence[str] | None = None) -> list[Row]:
    """A row an image, those of the classes that are WANTED or of all; empty where ROOT has no class folders."""
    grouped: dict[tuple[str, str], list[tuple[str, str]]] = {}  # split and path within the class → class and file
    for split, name, folder in class_folders(root):
        if wanted is None or name in wanted or name.lower() in ABSENCE:
            for file in images_in(root, folder):
                grouped.setdefault((split, file.removeprefix(f"{folder}/")), []).append((name, file))
    return [row for (split, _), group in grouped.items() for row in _distinct(root, split, group)]


def class_folders(root: Path) -> list[tuple[str, str, str]]:
    """Split ('' where there are none), class and folder of each class; the folder of masks is none."""
    top = _folders(root)
    if top and all(name.lower() in SPLITS for name in top):
        return [(SPLITS[part.lower()], name, f"{part}/{name}") for part in top for name in _folders(root / part)]
    return [("", name, name) for name in top]


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name != MASKS)


def _distinct(root: Path, split: str, group: Sequence[tuple[str, str]]) -> list[Row]:
    """Files of one name in the folders of several classes: a row for each content, with the classes that have it."""
    found: list[list[tuple[str, str]]] = []
    for name, file in group:
        same = next((one for one in found if _alike(root / one[0][1], root / file)), None)
        if same is None:
            found.append([(name, file)])
        else:
            same.append((name, file))
    return [_row(root, split, same) for same in found]


def _row(root: Path, split: str, same: Sequence[tuple[str, str]]) -> Row:
    """The row of one image that lies in the folders of several classes: class and file of each; links are no copies."""
    (_, first), *others = same
    copies = tuple(file for _, file in others if not (root / file).samefile(root / first))
    return Row(first, tuple(name for name, _ in same if name.lower() not in ABSENCE), split, copies)


def _alike(first: Path, second: Path) -> bool:
    """Whether two files have the same bytes; one that cannot be read is like no other."""
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False
