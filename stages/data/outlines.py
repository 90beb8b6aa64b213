"""Outlines of objects in a document of COCO, looked at one by one, before a true mask is drawn of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.data.coco import Shape
from stages.data.detections import pixels

OUT = 1.0  # pixels that a corner may lie outside: annotators click on edges


@dataclass(frozen=True)
class Outlined:
    """A photograph, its size (height, width), and what its document says: its size and its shapes."""

    file: str
    size: tuple[int, int]
    said: tuple[int, int]
    shapes: Sequence[Shape]


def faults(one: Outlined) -> list[tuple[str, str]]:
    """Kinds of what is wrong with the outlines of a photograph, each with words that name the object by its number in it."""
    found: list[tuple[str, str]] = []
    if one.said != one.size:
        words = f"{one.said[1]} x {one.said[0]} in the document, image {one.size[1]} x {one.size[0]}"
        found.append(("outlines for another size", words))
    for number, (_, segmentation, _) in enumerate(one.shapes, start=1):
        found += [(kind, f"object {number}{why}") for kind, why in _of_shape(segmentation, one.said)]
    return found


def faults_of_all(photographs: Sequence[Outlined]) -> list[tuple[str, str, str]]:
    """File, kind and words of what is wrong in any of them."""
    return [(one.file, kind, words) for one in photographs for kind, words in faults(one)]


def _of_shape(segmentation: object, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    if not segmentation:
        yield "object without an outline", ""
        return
    try:
        covered = pixels(segmentation, size)
    except (ValueError, OverflowError) as error:  # the latter where the document says a side below zero
        yield "broken outline", f": {error}"
        return
    beyond = _beyond(segmentation, size)
    if beyond > OUT:
        yield "outline beyond the image", f": {beyond:.0f} pixels"
    if not covered:
        yield "empty outline", ""


def _beyond(segmentation: object, size: tuple[int, int]) -> float:
    """How far the corners of polygons lie outside, at most; run lengths cannot."""
    if not isinstance(segmentation, list):
        return 0.0
    low = min(min(corners, default=0) for corners in segmentation)
    sides = ((0, size[1]), (1, size[0]))
    high = max((value - side for corners in segmentation for at, side in sides for value in corners[at::2]), default=0)
    return max(-low, high, 0.0)
