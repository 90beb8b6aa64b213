"""LabelMe's format: a JSON file an image, `<id>.json`; shapes in the order in which they are drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.core.files import write_json, write_text
from stages.data.drawings import Area, Drawing, Picture, Polygon, Shape, Size, labels_of
from stages.data.editors import fields

VERSION = "5.5.0"  # of the format, the first that has masks
LABELS = "labels.txt"


def write(folder: Path, drawing: Drawing, image_id: str, photograph: str) -> Path:
    """Write FOLDER/<IMAGE_ID>.json, which names its PHOTOGRAPH relative to itself; returns its path."""
    height, width = drawing.size or (0, 0)
    content = {
        "version": VERSION,
        "flags": {},
        "shapes": [_entry(shape, (height, width)) for shape in drawing.shapes],
        "imagePath": photograph,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    path = folder / f"{image_id}.json"
    write_json(path, content)
    return path


def write_labels(folder: Path, classes: Sequence[str]) -> None:
    """Write FOLDER/labels.txt, which `labelme --labels` takes."""
    write_text(folder / LABELS, "".join(f"{name}\n" for name in dict.fromkeys([*classes, *labels_of(classes)]) if name[0] != "_"))


def _entry(shape: Shape, size: Size) -> dict[str, Any]:
    entry: dict[str, Any] = {"label": shape.label, "group_id": None, "description": "", "flags": {}}
    if isinstance(shape.area, Polygon):
        return {**entry, "shape_type": "polygon", "points": shape.area.ring.tolist(), "mask": None}
    cut, content = shape.area.cover(size), io.BytesIO()
    Image.fromarray(cut.inside.astype(np.uint8)).save(content, format="PNG")
    height, width = cut.inside.shape
    corners = [[cut.left, cut.top], [cut.left + width - 1, cut.top + height - 1]]  # the last pixel, not the edge beyond it
    return {**entry, "shape_type": "mask", "points": corners, "mask": base64.b64encode(content.getvalue()).decode()}


def read(content: dict[str, Any], path: Path) -> Drawing:
    """The drawing in a LabelMe file. Raises ValueError in words."""
    shapes = [Shape(fields.get(entry, "label", str), _area(entry)) for entry in fields.get(content, "shapes", list)]
    stated = content.get("imageHeight") is not None
    size = (fields.get(content, "imageHeight", int), fields.get(content, "imageWidth", int)) if stated else None
    name = content.get("imagePath")
    return Drawing(name if isinstance(name, str) and name else path.name, size, shapes, path)


def _area(entry: dict[str, Any]) -> Area:
    kind, corners = entry.get("shape_type") or "polygon", fields.ring(fields.get(entry, "points", list))
    if kind in ("polygon", "oriented_rectangle"):
        return Polygon(corners)
    if kind == "rectangle":
        return Polygon(fields.box(corners))
    if kind == "mask":
        if len(corners) != 2 or not np.isfinite(corners).all():
            raise ValueError(f"a mask whose place is {len(corners)} corners, not 2")
        left, top = (round(value) for value in corners.min(0).tolist())
        return Picture(top, left, fields.get(entry, "mask", str))
    raise ValueError(f"a shape of type '{str(kind)[:40]}' covers no area: only polygon, rectangle and mask do")
