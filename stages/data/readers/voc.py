"""Pascal VOC's devkit layout: JPEGImages, ImageSets/Segmentation, SegmentationClass, and the lists in circulation."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stages.core.errors import StageError
from stages.data.labels import Labels, read_labels
from stages.data.readers import Place, all_there

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug", ".")
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")
OBJECT_FOLDER = "SegmentationObject"
INSTANCES = "instances.json"  # COCO's format, the images named by their files
SUFFIXES = (".jpg", ".jpeg", ".png")  # in either case


def open_at(place: Place) -> Devkit:
    """The devkit at a place, or the VOCdevkit/VOC2012 within it. Raises StageError when none is there."""
    return Devkit(check_root(place.root), place.labels)


def check_root(root: Path) -> Path:
    """ROOT, or its VOCdevkit/VOC2012 if it holds one. Raises StageError when no devkit is there."""
    for candidate in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (candidate / "JPEGImages").is_dir():
            return candidate
    why = "no such folder" if not root.is_dir() else "it has no folder JPEGImages"
    raise StageError(f"Cannot use data {root}", why, "Give the folder that holds JPEGImages and ImageSets with --data DIR")


@dataclass(frozen=True)
class Devkit:
    """The reader of the devkit at ROOT; a file of LABELS goes before the devkit's own."""

    root: Path
    chosen: Path | None = None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names without background, from classes.txt if there is one, else VOC's twenty."""
        path = self.root / "classes.txt"
        names = _lines(path) if path.is_file() else CLASSES
        return tuple(name for name in names if name != "background")

    def has_list(self, name: str) -> bool:
        """Whether the list NAME is there."""
        return bool(self._lists(name))

    def _lists(self, name: str) -> list[Path]:
        return [path for folder in LIST_FOLDERS if (path := self.root / folder / f"{name}.txt").is_file()]

    def ids(self, name: str) -> tuple[str, ...]:
        """Image ids of the list NAME; lines may be bare ids or `/JPEGImages/id.jpg /SegmentationClass/id.png`."""
        found = self._lists(name)
        if not found:
            known = sorted({path.stem for folder in LIST_FOLDERS[:2] for path in (self.root / folder).glob("*.txt")})
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"Did you mean '{near[0]}'?" if near else f"Put {name}.txt into {self.root / LIST_FOLDERS[0]}"
            raise StageError(f"No image list '{name}' in {self.root}", f"lists there: {', '.join(known) or 'none'}", hint)
        ids = tuple(dict.fromkeys(_image_id(line) for line in _lines(found[0])))
        if not ids:
            raise StageError(f"The image list {found[0]} is empty", "it names no image", "Put one id a line into it")
        return ids

    @property
    def _photographs(self) -> Path:
        return self.root / "JPEGImages"

    def find(self, ids: Sequence[str], listed_in: str) -> list[str | None]:
        """The path of each id's image, or None."""
        folder = self._photographs
        with os.scandir(folder) as entries:
            names = sorted((entry.name.rpartition(".") for entry in entries), reverse=True)
        present = {stem: f"{stem}.{suffix}" for stem, _, suffix in names if f".{suffix.lower()}" in SUFFIXES}
        return [f"{folder}{os.sep}{present[i]}" if i in present else None for i in ids]

    def files(self, ids: Sequence[str], listed_in: str) -> list[str]:
        """The path of each id's image. Raises StageError that names the first absent one and counts the rest."""
        return all_there(self.find(ids, listed_in), ids, listed_in, self._photographs, "Add the files or correct the list")

    def labels(self, ids: Sequence[str]) -> tuple[Labels, str]:
        """Labels of IDS and their source: the file that was given, else XML objects, else image_labels.txt."""
        return read_labels(self.root, self.chosen, ids, self.classes)

    def mask(self, image_id: str) -> Path | None:
        """Where the readable true mask of an image lies, or None."""
        return next(filter(None, (_readable(self.root / folder, image_id) for folder in MASK_FOLDERS)), None)

    def objects(self, image_id: str) -> Path | None:
        """Where the readable true mask of an image's instances lies, or None."""
        return _readable(self.root / OBJECT_FOLDER, image_id)

    def instances(self) -> Path | None:
        """The COCO document beside the devkit's folders, or None."""
        path = self.root / INSTANCES
        return path if path.is_file() else None


def _readable(folder: Path, image_id: str) -> Path | None:
    path = folder / f"{image_id}.png"
    return path if os.access(path, os.R_OK) else None


def _lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank. Raises StageError."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"Cannot read {path}", str(error), "Make it a readable UTF-8 text file") from error


def _image_id(line: str) -> str:
    """The id in a line: bare, or that of `/JPEGImages/id.jpg`. An id may hold dots."""
    name = line.split()[0].rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name
