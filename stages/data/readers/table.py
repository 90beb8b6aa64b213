"""A folder of photographs and a file that says what is in each: see `stages.data.readers.tables` for its formats.

The file is given with --labels or lies in the folder. An image is found by its path, else by its name, else by its name
without suffix, where only one has it: what a file names is looked up among the images of the folder, and never opened.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from stages.core.errors import StageError
from stages.data.readers import Place, tables
from stages.data.readers.folder import SPLITS
from stages.data.readers.listed import ABSENCE, MASKS, Listed, Row, class_names, identify, images_in

UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of uploads


def open_at(place: Place) -> Listed:
    """The labelled photographs at a place. Raises StageError where there is no file of labels."""
    path = place.labels or find(place.root)
    if path is None:
        why = "no such folder" if not place.root.is_dir() else "no file of labels lies in it"
        raise StageError(f"Cannot use data {place.root}", why, "Give CSV, JSON or JSON lines with --labels FILE")
    found = look_up(place.root, path)
    if not found.rows:
        why = f"first '{found.absent[0]}'"
        raise StageError(f"No image that {path} names is in {place.root}", why, "Give the folder of the images with --data DIR")
    classes = class_names(found.rows.values(), place.classes, str(path))
    return Listed(place.lists, place.root, found.rows, classes, path.name, found.absent)


def find(root: Path) -> Path | None:
    """The one file of labels that lies in ROOT, or None. Raises StageError where there are several."""
    if not root.is_dir():
        return None
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in tables.SUFFIXES and path.name[0] != ".")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise tables.Foreign(f"Several files in {root} may hold the labels", names, "Say which with --labels FILE")
    return found[0] if found else None


@dataclass(frozen=True)
class Found:
    """Rows by id; names that are not among the images; images that nothing was said of; how often an image came again."""

    rows: Mapping[str, Row]
    absent: tuple[str, ...]
    unnamed: tuple[str, ...]
    repeated: int


def look_up(root: Path, path: Path) -> Found:
    """What the file PATH says of the images in ROOT; several entries of an image add up. Raises StageError."""
    files = [file for file in images_in(root) if not file.startswith(f"{MASKS}/")]
    known = _Names(files, path.parent.relative_to(root).as_posix() if path.is_relative_to(root) else "")
    rows: dict[str, Row] = {}
    absent, repeated = [], 0
    for entry in tables.read(path):
        file = known.find(entry.image)
        if file is None:
            absent.append(entry.image)
        else:
            repeated += file in rows
            rows[file] = _joined(rows.get(file), file, entry)
    shared = _shared_folder(rows)
    ids = identify(sorted(rows), shared)
    unnamed = tuple(file for file in files if file not in rows)
    return Found({ids[file]: rows[file] for file in ids}, tuple(absent), unnamed, repeated)


def _joined(former: Row | None, file: str, entry: tables.Entry) -> Row:
    """The row of FILE with what one more entry says."""
    said = [former.classes if former else None, entry.classes]
    names = [name for classes in said for name in classes or () if name.lower() not in ABSENCE]
    known = any(classes is not None for classes in said)
    split = SPLITS.get(entry.split.lower(), "") or (former.split if former else "")
    return Row(file, tuple(dict.fromkeys(names)) if known else None, split)


def _shared_folder(files: Iterable[str]) -> str:
    """The deepest folder that holds all FILES."""
    parts = [PurePosixPath(file).parent.parts for file in files]
    same = 0
    while parts and all(len(part) > same and part[same] == parts[0][same] for part in parts):
        same += 1
    return "/".join(parts[0][:same]) if parts else ""


class _Names:
    """Images by what a file may call them: path, name, name without suffix; a word that two have is nobody's."""

    def __init__(self, files: Iterable[str], beside: str) -> None:
        self._paths, self._names, self._stems = set(files), defaultdict(set), defaultdict(set)
        self._beside = "" if beside in ("", ".") else f"{beside}/"
        for file in self._paths:
            name = PurePosixPath(file)
            self._names[name.name].add(file)
            self._stems[name.stem].add(file)

    def find(self, written: str) -> str | None:
        """The image that is meant by WRITTEN, or None."""
        path = unquote(written).rpartition("?d=")[2].replace("\\", "/").removeprefix("./")
        for candidate in (self._beside + path, path):
            if candidate in self._paths:
                return candidate
        name = path.rpartition("/")[2]
        for word in (name, UPLOADED.sub("", name)):
            for same in (self._names.get(word), self._stems.get(word)):
                if same is not None and len(same) == 1:
                    return next(iter(same))
        return None
