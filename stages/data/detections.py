"""Instance masks in COCO's format: run-length coded masks, the document and average precision. Only here is pycocotools imported.

A record is what is known of one image: `file_name`, `width`, `height` and its `annotations`, each with `category_id` (class
id + 1, as in masks), `segmentation` (size and counts), `bbox` (x, y, width, height), `area` and, where it was found, `score`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.data.editors.coco import decompressed

Record = dict[str, Any]
CORNERS = 6  # numbers of the smallest polygon that covers anything
FAR = 10  # sides of the image: what lies further away is no corner of its objects
IOUS = np.arange(50, 100, 5) / 100  # COCO's
AVERAGED = {"AP": IOUS.tolist(), "AP70": [0.7], "AP50": [0.5]}  # the first is COCO's, the others IRN's paper's AP^r


def annotation(mask: NDArray[np.bool_], category: int, **more: Any) -> Record:
    """The annotation of a mask (H,W) of the class CATEGORY (1-based), with MORE keys."""
    from pycocotools import mask as coder

    code: Any = coder.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = {"size": [int(side) for side in mask.shape], "counts": code["counts"].decode("ascii")}
    place = {"bbox": coder.toBbox(code).tolist(), "area": int(coder.area(code))}
    return {"category_id": category, "segmentation": counts, **place, "iscrowd": 0, **more}


def covered(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H,W) of COCO's `segmentation`: polygons together, or run lengths, compressed or not. Raises ValueError."""
    from pycocotools import mask

    code = _coded(segmentation, size)
    return np.zeros(size, bool) if code is None else mask.decode(code).astype(bool)


def pixels(segmentation: Any, size: tuple[int, int]) -> int:
    """How many pixels `covered` has. Raises ValueError."""
    from pycocotools import mask

    code = _coded(segmentation, size)
    return 0 if code is None else int(mask.area(code))


def _coded(segmentation: Any, size: tuple[int, int]) -> Any:
    """COCO's `segmentation` as pycocotools codes it, None where it is nothing.

    Raises ValueError, in words, on what pycocotools would read beyond its own memory or work on without end.
    """
    from pycocotools import mask

    coder: Any = mask  # its stubs know fewer of COCO's forms than it does
    if isinstance(segmentation, list):
        rings = [corners for corners in segmentation if len(_within(corners, size)) >= CORNERS]
        return coder.merge(coder.frPyObjects(rings, *size)) if rings else None
    return coder.frPyObjects({"size": list(size), "counts": _runs(segmentation, size)}, *size)


def _within(corners: Any, size: tuple[int, int]) -> list[float]:
    """The numbers of one polygon, x and y in turns, none of them far outside of the image."""
    if not isinstance(corners, list) or len(corners) % 2 or not all(type(value) in (int, float) for value in corners):
        raise ValueError("corners that are not pairs of numbers")
    reach = FAR * max(size)
    if not all(-reach <= value <= reach for value in corners):
        raise ValueError("corners far outside of the image")
    return corners


def _runs(segmentation: Any, size: tuple[int, int]) -> list[int]:
    """Run lengths that fill the image, uncompressed."""
    found = segmentation if isinstance(segmentation, dict) else {}
    counts = found.get("counts")
    counts = decompressed(counts) if isinstance(counts, str) else counts
    if found.get("size") != list(size) or not isinstance(counts, list):
        raise ValueError("neither polygons nor run lengths of the image's size")
    if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError("run lengths that do not fill the image")
    return counts


def document(records: Sequence[Record], classes: Sequence[str]) -> dict[str, Any]:
    """COCO's document of all records: images, categories, annotations, numbered from 1 in order."""
    images, annotations = [], []
    for number, record in enumerate(records, start=1):
        images.append({"id": number, **{key: record[key] for key in ("file_name", "width", "height")}})
        annotations += [{"image_id": number, **found} for found in record["annotations"]]
    numbered = [{"id": number, **found} for number, found in enumerate(annotations, start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "categories": categories, "annotations": numbered}


def average_precision(true: Sequence[Record], found: Sequence[Record], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Average precision of masks in [0,1], by the names of AVERAGED and by class; classes without a true instance are left out.

    TRUE and FOUND are records of the same images in the same order. Precision is taken at COCO's 101 recalls, of the 100
    strongest instances an image; pixels that are void in a true mask count as outside.
    """
    from pycocotools.cocoeval import COCOeval

    if not any(record["annotations"] for record in found):
        present: set[int] = {one["category_id"] for record in true for one in record["annotations"]}
        return {name: {classes[k - 1]: 0.0 for k in sorted(present)} for name in AVERAGED}
    with redirect_stdout(io.StringIO()):  # it tells of its progress there, as `opened` does
        judge = COCOeval(_indexed(true, classes), _indexed(found, classes), "segm")
        judge.params.iouThrs = IOUS
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0, -1]  # (IoU, recall, class); -1 where a class has no true instance
    rows = {name: np.isin(IOUS, ious) for name, ious in AVERAGED.items()}
    known = [k for k in range(len(classes)) if (precision[:, :, k] >= 0).any()]
    return {name: {classes[k]: float(precision[kept, :, k].mean()) for k in known} for name, kept in rows.items()}


def opened(path: Path) -> Any:
    """pycocotools' COCO of a document on disk. Raises OSError, ValueError, KeyError, TypeError or AssertionError on others."""
    from pycocotools.coco import COCO

    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


def _indexed(records: Sequence[Record], classes: Sequence[str]) -> Any:
    """The records as pycocotools wants them."""
    from pycocotools.coco import COCO

    made: Any = COCO()
    made.dataset = document(records, classes)
    made.createIndex()
    return made
