"""Pascal VOC's devkit layout: JPEGImages, ImageSets/Segmentation, SegmentationClass, and the lists in circulation."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from stages.core.errors import StageError

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()
LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug", ".")
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def check_root(root: Path) -> Path:
    """ROOT, or its VOCdevkit/VOC2012 if it holds one. Raises StageError when no devkit is there."""
    for candidate in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (candidate / "JPEGImages").is_dir():
            return candidate
    why = "no such folder" if not root.is_dir() else "it has no folder JPEGImages"
    raise StageError(f"Cannot use data {root}", why, "Give the folder that holds JPEGImages and ImageSets with --data DIR")


def read_classes(root: Path) -> tuple[str, ...]:
    """Class names without background, from classes.txt if there is one, else VOC's twenty."""
    path = root / "classes.txt"
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else CLASSES
    return tuple(name for name in names if name != "background")


def read_list(root: Path, name: str) -> tuple[str, ...]:
    """Image ids of the list NAME; lines may be bare ids or `/JPEGImages/id.jpg /SegmentationClass/id.png`."""
    found = [root / folder / f"{name}.txt" for folder in LIST_FOLDERS if (root / folder / f"{name}.txt").is_file()]
    if not found:
        known = sorted({path.stem for folder in LIST_FOLDERS[:2] for path in (root / folder).glob("*.txt")})
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"Did you mean '{near[0]}'?" if near else f"Put {name}.txt into {root / LIST_FOLDERS[0]}"
        raise StageError(f"No image list '{name}' in {root}", f"lists there: {', '.join(known) or 'none'}", hint)
    ids = tuple(dict.fromkeys(Path(line.split()[0]).stem for line in found[0].read_text().splitlines() if line.strip()))
    if not ids:
        raise StageError(f"The image list {found[0]} is empty", "it names no image", "Put one id a line into it")
    return ids


def find_images(root: Path, ids: tuple[str, ...], listed_in: str) -> list[Path]:
    """The image file of each id. Raises StageError that names the first absent one and counts the rest."""
    folder = root / "JPEGImages"
    present = {path.stem: path for path in sorted(folder.iterdir(), reverse=True) if path.suffix in SUFFIXES}
    absent = [i for i in ids if i not in present]
    if absent:
        raise StageError(
            f"List '{listed_in}' names absent images",
            f"{len(absent)} of {len(ids)} are not in {folder}, first '{absent[0]}'",
            "Add the files or correct the list",
        )
    return [present[i] for i in ids]


def mask_path(root: Path, image_id: str) -> Path | None:
    """Where the readable true mask of an image lies, or None; asked for by evaluation alone."""
    for folder in MASK_FOLDERS:
        path = root / folder / f"{image_id}.png"
        if os.access(path, os.R_OK):
            return path
    return None
