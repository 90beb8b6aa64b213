"""CVAT's format "CVAT for images 1.1": one XML file; polygons, boxes, and masks as run lengths, row after row of their box.

It is read without a tree and without a document type: no entity can be declared, so none is expanded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree
from xml.parsers import expat

from stages.core.files import write_atomic
from stages.data import markup
from stages.data.drawings import Area, Drawing, Polygon, Runs, Shape, Size, labels_of
from stages.data.editors import fields
from stages.data.images import palette

N = TypeVar("N", int, float)
FILE = "annotations.xml"
NO_AREA = ("polyline", "points", "ellipse", "cuboid", "skeleton", "track")  # elements that are refused; others are passed over


def write(folder: Path, drawings: Sequence[Drawing], classes: Sequence[str]) -> Path:
    """Write FOLDER/annotations.xml, its labels in the colours of our masks; returns its path."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name, label in labels_of(classes).items():
        if name[0] != "_":
            entry = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(entry, "name").text = name
            ElementTree.SubElement(entry, "color").text = "#{:02x}{:02x}{:02x}".format(*palette()[label].tolist())
            ElementTree.SubElement(entry, "type").text = "any"
    for index, drawing in enumerate(drawings):
        height, width = drawing.size or (0, 0)
        values = {"id": str(index), "name": drawing.name, "width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", values)
        for order, shape in enumerate(drawing.shapes):
            _enter(image, shape, order)
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree, " ")
    write_atomic(folder / FILE, lambda temporary: tree.write(temporary, encoding="utf-8", xml_declaration=True))
    return folder / FILE


def _enter(image: ElementTree.Element, shape: Shape, order: int) -> None:
    common = {"label": shape.label, "source": "manual", "occluded": "0", "z_order": str(order)}
    if isinstance(shape.area, Polygon):
        points = ";".join(f"{x:g},{y:g}" for x, y in shape.area.ring.tolist())
        ElementTree.SubElement(image, "polygon", {**common, "points": points})
        return
    runs = shape.area
    assert isinstance(runs, Runs)
    place = {name: str(getattr(runs, name)) for name in ("left", "top", "width", "height")}
    ElementTree.SubElement(image, "mask", {**common, "rle": ", ".join(map(str, runs.counts)), **place})


def read(path: Path) -> list[Drawing]:
    """The drawings of a file's images. Raises ValueError in words."""
    reader, parser = _Reader(), markup.parser()
    parser.StartElementHandler = reader.element
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise ValueError(f"not XML: {error}") from error
    return [Drawing(name, size, _by_height(found), path) for name, size, found in reader.images]


def _by_height(found: Sequence[tuple[int, Shape]]) -> list[Shape]:
    """Shapes from the lowest to the highest, those of one height in the order of the file."""
    return [shape for _, shape in sorted(found, key=lambda entry: entry[0])]


class _Reader:
    """Takes the elements of a file as they come."""

    def __init__(self) -> None:
        self._root = ""
        self.images: list[tuple[str, Size, list[tuple[int, Shape]]]] = []  # name, size, shapes with their height

    def element(self, tag: str, values: dict[str, str]) -> None:
        """One element with its attributes."""
        self._root = self._root or tag
        if self._root != "annotations":
            raise ValueError(f"its root is '{self._root[:40]}', not CVAT's 'annotations'")
        if tag in NO_AREA:
            raise ValueError(f"an element '{tag}': only polygon, box and mask of images cover an area")
        if tag == "image":
            self.images.append((_text(values, "name"), (_whole(values, "height"), _whole(values, "width")), []))
        elif tag in ("polygon", "box", "mask"):
            if not self.images:
                raise ValueError(f"a {tag} that is of no image")
            height = _whole(values, "z_order") if "z_order" in values else 0
            self.images[-1][2].append((height, Shape(_text(values, "label"), _area(tag, values))))


def _area(tag: str, values: dict[str, str]) -> Area:
    if tag == "polygon":
        return Polygon(fields.ring([_number(part) for point in _text(values, "points").split(";") for part in point.split(",")]))
    if tag == "box":
        return Polygon(fields.box(fields.ring([_number(_text(values, name)) for name in ("xtl", "ytl", "xbr", "ybr")])))
    top, left, height, width = (_whole(values, name) for name in ("top", "left", "height", "width"))
    return Runs(top, left, height, width, [_number(count, int) for count in _text(values, "rle").split(",")])


def _text(values: dict[str, str], name: str) -> str:
    if name not in values:
        raise ValueError(f"an element without '{name}'")
    return values[name]


def _whole(values: dict[str, str], name: str) -> int:
    return _number(_text(values, name), int)


def _number(text: str, kind: type[N] = float) -> N:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"'{text[:40]}' is not {'a whole' if kind is int else 'a'} number") from None
