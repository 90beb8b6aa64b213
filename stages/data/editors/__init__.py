"""Files of annotation editors, one a file each; what is read is told by content, and no path in a file is ever followed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.core.errors import StageError
from stages.data.drawings import Drawing
from stages.data.editors import coco, cvat, fields, labelme

MASKS = "png"
FORMATS = ("coco", "cvat", "labelme", MASKS)
ANNOTATIONS = (".json", ".xml")
LARGEST = 1 << 30  # bytes of one file


def find(source: Path) -> list[Path]:
    """The files of annotations in a folder and those within it, else its PNGs; or the one file that is named.

    Raises StageError where there are none, and on files of absurd size.
    """
    if source.is_file():
        found = [source]
    elif source.is_dir():
        every = sorted(Path(folder, name) for folder, _, names in os.walk(source) for name in names if name[0] != ".")
        found = [p for p in every if p.suffix.lower() in ANNOTATIONS] or [p for p in every if p.suffix.lower() == ".png"]
    else:
        raise StageError(f"Cannot read masks from {source}", "no such folder or file", "Check the path")
    if not found:
        raise StageError(f"No masks in {source}", "no .json, .xml or .png is there", "Save or export from the editor into it")
    large = next((path for path in found if path.stat().st_size > LARGEST), None)
    if large is not None:
        raise StageError(f"Cannot read {large}", f"{large.stat().st_size >> 20} MB", "Split it: a file may have up to 1 GB")
    return found


def read(files: Iterable[Path]) -> tuple[str, list[Drawing] | list[Path]]:
    """What files of annotations hold, and their format; for PNGs the files themselves. Raises StageError.

    JSON that is neither COCO's nor LabelMe's is passed over.
    """
    kinds: dict[str, list[Drawing]] = {}
    masks = [path for path in files if path.suffix.lower() == ".png"]
    for path in files:
        if path not in masks:
            kind, drawings = _of(path)
            kinds.setdefault(kind, []).extend(drawings)
    kinds.pop("", None)
    if len(kinds) > 1:
        raise StageError("Masks of two formats in one folder", " and ".join(kinds), "Import them one after the other")
    if not kinds and not masks:
        raise StageError("No annotations found", "no file is of COCO, CVAT or LabelMe", "Export one of these from the editor")
    return next(iter(kinds.items())) if kinds else (MASKS, masks)


def _of(path: Path) -> tuple[str, Sequence[Drawing]]:
    """The format of one file and its drawings. Raises StageError that names it."""
    try:
        if path.suffix.lower() == ".xml":
            return "cvat", cvat.read(path)
        content = fields.load(path)
        if isinstance(content, dict) and "annotations" in content and "images" in content:
            return "coco", coco.read(content, path)
        if isinstance(content, dict) and "shapes" in content:
            return "labelme", [labelme.read(content, path)]
    except ValueError as error:
        raise StageError(f"Cannot read {path}", str(error), "Export it again, or take it out of the folder") from error
    return "", []
