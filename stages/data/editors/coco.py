"""COCO's format: one JSON file; masks as polygons, or as lengths of runs, column after column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.files import write_json
from stages.data.drawings import Drawing, Polygon, Runs, Shape, Size, labels_of, run_lengths
from stages.data.editors import fields

FILE = "annotations.json"
LONGEST = 12  # characters of one number in compressed run lengths


def write(folder: Path, drawings: Sequence[Drawing], classes: Sequence[str]) -> Path:
    """Write FOLDER/annotations.json: categories numbered as the classes are in masks; returns its path."""
    labels = labels_of(classes)
    used = {shape.label for drawing in drawings for shape in drawing.shapes}
    names = [*classes, *(name for name in labels if name in used and name not in classes)]
    images = [_image(index, drawing) for index, drawing in enumerate(drawings, 1)]
    shapes = ((index, drawing.size, shape) for index, drawing in enumerate(drawings, 1) for shape in drawing.shapes)
    annotations = [
        {"id": number, "image_id": index, "category_id": labels[shape.label], **_segment(shape, size)}
        for number, (index, size, shape) in enumerate(shapes, 1)
        if size is not None
    ]
    categories = [{"id": labels[name], "name": name, "supercategory": ""} for name in names]
    write_json(
        folder / FILE, {"info": {}, "licenses": [], "images": images, "categories": categories, "annotations": annotations}
    )
    return folder / FILE


def _image(index: int, drawing: Drawing) -> dict[str, Any]:
    height, width = drawing.size or (0, 0)
    return {"id": index, "file_name": drawing.name, "width": width, "height": height}


def _segment(shape: Shape, size: Size) -> dict[str, Any]:
    """The fields of one shape: its segmentation, box and area. Run lengths are marked as COCO marks them, by `iscrowd`."""
    cut = shape.area.cover(size)
    height, width = cut.inside.shape
    measures = {"area": int(cut.inside.sum()), "bbox": [cut.left, cut.top, width, height]}
    if isinstance(shape.area, Polygon):
        return {"segmentation": [shape.area.ring.ravel().tolist()], **measures, "iscrowd": 0}
    whole = np.zeros(size, bool)
    whole[cut.window] = cut.inside
    return {"segmentation": {"counts": run_lengths(whole.T), "size": list(size)}, **measures, "iscrowd": 1}


def read(content: dict[str, Any], path: Path) -> list[Drawing]:
    """The drawings of a COCO file's images. Raises ValueError in words."""
    names = {fields.get(entry, "id", int): fields.get(entry, "name", str) for entry in fields.get(content, "categories", list)}
    images: dict[int, Drawing] = {}
    for entry in fields.get(content, "images", list):
        size = fields.get(entry, "height", int), fields.get(entry, "width", int)
        images[fields.get(entry, "id", int)] = Drawing(fields.get(entry, "file_name", str), size, [], path)
    for number, entry in enumerate(fields.get(content, "annotations", list), 1):
        image, name = (images.get(fields.get(entry, "image_id", int)), names.get(fields.get(entry, "category_id", int)))
        if image is None or name is None:
            raise ValueError(f"annotation {number} is of {'an image' if image is None else 'a category'} that is not in the file")
        assert isinstance(image.shapes, list) and image.size is not None
        image.shapes.extend(Shape(name, area) for area in _areas(entry, image.size, number))
    return list(images.values())


def _areas(entry: dict[str, Any], size: Size, number: int) -> list[Polygon] | list[Runs]:
    """The polygons of one annotation, all of which it covers, or its run lengths."""
    found = entry.get("segmentation")
    if isinstance(found, list) and found and all(isinstance(corners, list) for corners in found):
        return [Polygon(fields.ring(corners)) for corners in found]
    if not isinstance(found, dict):
        raise ValueError(f"annotation {number} has no segmentation of polygons or run lengths")
    if found.get("size") != list(size):
        raise ValueError(f"the run lengths of annotation {number} are not of its image's size")
    counts = found.get("counts")
    counts = decompressed(counts) if isinstance(counts, str) else fields.get(found, "counts", list)
    if not all(type(count) is int for count in counts):
        raise ValueError(f"the run lengths of annotation {number} are not whole numbers")
    return [Runs(0, 0, *size, counts, by_column=True)]


def decompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed kind: five bits a character, lowest first; from the fourth on, less the last but one."""
    counts: list[int] = []
    value = used = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or used >= LONGEST:
            raise ValueError("run lengths that cannot be decompressed")
        value |= (bits & 31) << (5 * used)
        used += 1
        if bits & 32:
            continue
        signed = value - (1 << (5 * used)) if bits & 16 else value
        counts.append(signed + (counts[-2] if len(counts) > 2 else 0))
        value = used = 0
    return counts
