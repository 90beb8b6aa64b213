"""COCO's documents of instances: which photographs show what, and what of them their masks say.

Classes are the categories in the order of their ids, without gaps: COCO's 80 lie between 1 and 90. A class is present where
an annotation of it is, be it a crowd; a photograph without any is without object.

In masks, larger objects are drawn first and smaller ones over them (of equal size the later one), so that the cup is seen on
the table whichever was annotated first; what a crowd alone covers is void, as nobody outlined its members.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stages.core.errors import StageError
from stages.core.files import fitting, read_json, write_text
from stages.data.editors import fields
from stages.data.images import VOID, Array
from stages.data.labels import Labels

_NAMES = (  # of COCO's own classes
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,bird,"
    "cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,"
    "sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,"
    "toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
    "teddy bear,hair drier,toothbrush"
)
CLASSES = tuple(_NAMES.split(","))
Shape = tuple[int, Any, bool]  # id in masks (1-based), segmentation, whether it is a crowd
Outlines = tuple[tuple[int, int], list[Shape]]  # a photograph's height and width, and what is to be drawn of it
LONGEST = 1 << 15  # pixels of a side: no photograph is larger
PLAIN = re.compile(r"\w[\w -]*\.\w+")  # a file's name, no folder's
INDEX = ".index.json"  # in place of a document's suffix: who is where, without the outlines


@dataclass(frozen=True)
class Index:
    """What training asks of a document: its photographs by id, in its order, and the classes in them, if any."""

    classes: tuple[str, ...]
    files: Mapping[str, str]  # as the document names them
    labels: Labels

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the photographs with an object."""
        return tuple(image_id for image_id in self.files if self.labels[image_id])

    @property
    def empty(self) -> int:
        """Photographs without an object."""
        return len(self.files) - len(self.ids)


class Document:
    """A whole document. Raises StageError where it is none of instances, or names files outside its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = fields.load(path)
            self._places, self.classes = _classes(fields.get(content, "categories", list))
            entries = {fields.get(one, "id", int): one for one in fields.get(content, "images", list)}
            self._found: dict[int, list[dict[str, Any]]] = {number: [] for number in entries}
            annotations = fields.get(content, "annotations", list)
            strays = [what for one in annotations if (what := self._add(one))]
            if strays:
                raise ValueError(f"{len(strays)} of {len(annotations)} annotations: one of {strays[0]}, which it does not hold")
            self._entries = {self._id(entry): entry for entry in entries.values()}
            if len(self._entries) < len(entries):
                raise ValueError("two of its images would have the same id")
        except ValueError as error:
            raise StageError(f"Cannot use COCO document {path}", str(error), "Give a document of instances") from error

    def _add(self, one: Any) -> str:
        """Take an annotation; where it is of what is not there, say of what."""
        image, category = fields.get(one, "image_id", int), fields.get(one, "category_id", int)
        if image not in self._found or category not in self._places:
            return f"image {image}" if image not in self._found else f"category {category}"
        self._found[image].append(one)
        return ""

    def _id(self, entry: dict[str, Any]) -> str:
        """The name of an image's outputs: that of its file, without suffix; folders become a part of it, within limits."""
        name = inner(fields.get(entry, "file_name", str))
        stem, _, suffix = name.rpartition(".")
        return fitting((stem if stem and "/" not in suffix else name).replace("/", "-"))

    def index(self) -> Index:
        """The photographs and what is in them."""
        found = {image_id: self._found[entry["id"]] for image_id, entry in self._entries.items()}
        labels = {i: tuple(sorted({self._places[one["category_id"]] for one in those})) for i, those in found.items()}
        return Index(self.classes, {i: entry["file_name"] for i, entry in self._entries.items()}, labels)

    def outlined(self, image_id: str) -> bool:
        """Whether every annotation of the photograph has an outline: a document of boxes has none."""
        return all(one.get("segmentation") for one in self._found[self._entries[image_id]["id"]])

    def shapes(self, image_id: str) -> Outlines:
        """Height and width of a photograph, and what is to be drawn of it."""
        entry = self._entries[image_id]
        found = self._found[entry["id"]]
        shapes = [(self._places[one["category_id"]] + 1, one.get("segmentation"), bool(one.get("iscrowd"))) for one in found]
        return (int(entry.get("height", 0)), int(entry.get("width", 0))), shapes


def inner(name: str) -> str:
    """A file's name in a document, below the folder of the photographs. Raises ValueError where it leads out of it."""
    if PLAIN.fullmatch(name):  # nearly all, and there are many
        return name
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or ":" in path.parts[0] or "\0" in name:
        raise ValueError(f"it names a file outside its folder: {name!r}")
    return str(path)


def _classes(categories: Sequence[Any]) -> tuple[dict[int, int], tuple[str, ...]]:
    """0-based class ids by category id, and the names in that order."""
    names = {fields.get(one, "id", int): fields.get(one, "name", str) for one in categories}
    if len(set(names.values())) < len(categories):
        raise ValueError("two of its categories have the same name or id")
    return {number: place for place, number in enumerate(sorted(names))}, tuple(names[number] for number in sorted(names))


def render(image_id: str, size: tuple[int, int], shapes: Sequence[Shape]) -> Array:
    """The mask (H,W) of a photograph: 0 background, class ids from 1, 255 where a crowd alone lies. Raises StageError."""
    from stages.data.detections import covered

    try:
        if not all(0 < side <= LONGEST for side in size):
            raise ValueError(f"an image of {size[1]}x{size[0]} pixels")
        areas = [(covered(segmentation, size), number, crowd) for number, segmentation, crowd in shapes]
    except ValueError as error:
        raise StageError(f"Cannot draw the true mask of '{image_id}'", str(error), "Correct the COCO document") from error
    mask = np.zeros(size, np.uint8)
    for inside, _, crowd in areas:
        if crowd:
            mask[inside] = VOID
    objects = [(inside, number) for inside, number, crowd in areas if not crowd]
    for inside, number in sorted(objects, key=lambda one: -int(one[0].sum())):
        mask[inside] = number
    return mask


def read_index(path: Path) -> Index:
    """The index of the document PATH: the one that was kept beside it, if it is of this content, else made now."""
    return kept_index(path) or Document(path).index()


def kept_index(path: Path) -> Index | None:
    """The index that was kept beside the document PATH, unless the document has changed since."""
    kept: Any = read_json(path.with_suffix(INDEX))
    try:
        if kept["of"] != _stamp(path):
            return None
        files = {image_id: str(row[0]) for image_id, row in kept["images"].items()}
        labels = {image_id: tuple(int(one) for one in row[1]) for image_id, row in kept["images"].items()}
        return Index(tuple(map(str, kept["classes"])), files, labels)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None  # absent, damaged, or something else


def keep_index(path: Path, index: Index) -> None:
    """Keep the index of the document PATH beside it: COCO's own documents take seconds to read."""
    import json

    rows = {image_id: [file, index.labels[image_id]] for image_id, file in index.files.items()}
    content = {"of": _stamp(path), "classes": index.classes, "images": rows}
    write_text(path.with_suffix(INDEX), json.dumps(content, ensure_ascii=False))


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
