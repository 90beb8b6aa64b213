"""Masks as drawings: labelled shapes over an image, later ones over earlier ones, as editors of annotations keep them."""

from __future__ import annotations

import base64
import binascii
import difflib
import io
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image

from stages.core.errors import StageError
from stages.data.images import DAMAGE, VOID, Array
from stages.formulas import polygons
from stages.formulas.polygons import Cut, Ring

BACKGROUND, UNKNOWN = "background", "void"  # names of the labels 0 and 255
ALIASES = {BACKGROUND: 0, "_background_": 0, UNKNOWN: VOID, "__ignore__": VOID}  # LabelMe's own tools write the underscored
Size = tuple[int, int]  # height and width


class Area(Protocol):
    """What a shape covers."""

    def cover(self, size: Size) -> Cut:
        """Its pixels in an image of SIZE. Raises ValueError, in words, on what cannot lie on such an image."""
        ...


@dataclass(frozen=True)
class Polygon:
    """The pixels whose centres a ring of corners encloses."""

    ring: Ring

    def cover(self, size: Size) -> Cut:
        if len(self.ring) < 3:
            raise ValueError(f"a polygon of {len(self.ring)} corners")
        cut = polygons.rasterise([self.ring], size)
        (left, top), (right, bottom) = self.ring.min(0), self.ring.max(0)
        if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
            raise ValueError(f"a polygon outside the image, x {left:g} to {right:g}, y {top:g} to {bottom:g}")
        return cut


@dataclass(frozen=True)
class Runs:
    """Pixels of a box by the lengths of runs outside and inside in turn, row after row or (COCO) column after column."""

    top: int
    left: int
    height: int
    width: int
    counts: Sequence[int]
    by_column: bool = False

    def cover(self, size: Size) -> Cut:
        _require_within(size, self.top, self.left, self.height, self.width)
        if min(self.counts, default=0) < 0 or sum(self.counts) != self.height * self.width:
            raise ValueError(f"runs of {sum(self.counts)} pixels in a box of {self.height} x {self.width}")
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        shape, order = (self.height, self.width), "F" if self.by_column else "C"
        return Cut(self.top, self.left, flat.reshape(shape, order=order))


@dataclass(frozen=True)
class Picture:
    """Pixels that are not zero in a small grey PNG, in base64, that lies on the image."""

    top: int
    left: int
    content: str

    def cover(self, size: Size) -> Cut:
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.content)), formats=["PNG"]) as image:
                _require_within(size, self.top, self.left, image.height, image.width)
                inside = np.asarray(image) != 0
        except (*DAMAGE, binascii.Error) as error:
            raise ValueError(f"a mask that cannot be used: {(str(error).splitlines() or ['damaged'])[0][:100]}") from error
        if inside.ndim != 2:
            raise ValueError("a mask that is a colour picture")
        return Cut(self.top, self.left, inside)


def _require_within(size: Size, top: int, left: int, height: int, width: int) -> None:
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        box = f"{width} x {height} at x {left}, y {top}"
        raise ValueError(f"a mask outside the image, {box}, which is {size[1]} x {size[0]} (width x height)")


class Shape(NamedTuple):
    """A labelled area."""

    label: str
    area: Area


class Drawing(NamedTuple):
    """All shapes over one image: the name of its file, its size where the drawing states it, and where it was read."""

    name: str
    size: Size | None
    shapes: Sequence[Shape]
    where: Path


def _runs(cut: Cut) -> Runs:
    """The pixels of a cut in little memory: the drawings of all images wait for a file of them all."""
    height, width = cut.inside.shape
    return Runs(cut.top, cut.left, height, width, array("i", run_lengths(cut.inside)))


def run_lengths(inside: np.ndarray) -> list[int]:
    """Lengths of runs of False and True in turn, False first (of length 0 where there is none), row after row."""
    flat = inside.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate(([0], ends, [flat.size]))).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def labels_of(classes: Sequence[str]) -> dict[str, int]:
    """Label of a mask by name: the dataset's classes from 1, background 0, void 255; a class of such a name goes before."""
    return ALIASES | {name: index for index, name in enumerate(classes, 1)}


def draw(mask: Array, classes: Sequence[str], kind: Literal["polygons", "masks"], tolerance: float) -> list[Shape]:
    """MASK (H,W) as shapes, the largest region first: polygons simplified to within TOLERANCE pixels, or masks as they are."""
    names = {label: name for name, label in reversed(labels_of(classes).items())}
    found = polygons.regions(mask, tolerance)
    if kind == "masks":
        return [Shape(names[region.label], _runs(region.cut)) for region in found]
    return [Shape(names[region.label], Polygon(polygons.bridged(region.rings))) for region in found]


def paint(drawing: Drawing, size: Size, labels: Mapping[str, int]) -> Array:
    """The mask (H,W) of a drawing over an image of SIZE. Raises StageError that names its file."""
    if drawing.size not in (None, size):
        raise fault(drawing, f"it is {_words(drawing.size)}, the image is {_words(size)} (width x height)")
    mask = np.zeros(size, np.uint8)
    for shape in drawing.shapes:
        if shape.label not in labels:
            near = difflib.get_close_matches(shape.label[:60], labels, n=1, cutoff=0.0)
            raise fault(drawing, f"unknown class '{shape.label[:60]}', did you mean '{near[0] if near else '?'}'")
        try:
            cut = shape.area.cover(size)
        except ValueError as error:
            raise fault(drawing, f"{error}, of class '{shape.label}'") from error
        mask[cut.window][cut.inside] = labels[shape.label]
    return mask


def _words(size: Size | None) -> str:
    return f"{size[1]} x {size[0]}" if size else ""


def fault(drawing: Drawing, why: str) -> StageError:
    """What is wrong with a drawing, in one line that names its file and image."""
    return StageError(f"Cannot use {drawing.where}, image '{drawing.name}'", why, "Correct it in the editor and import again")
