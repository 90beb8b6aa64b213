"""Label maps as polygons and back: outlines along the edges of pixels, their simplification, and the pixels inside.

A pixel (x, y) covers [x, x+1] x [y, y+1], as in the editors that show polygons over photographs; it is inside a polygon
when its centre is (even-odd rule). An outline runs along edges of pixels, so that its area is the number of its pixels and,
unsimplified, it gives them back exactly. Outlines are simplified between junctions, the corners where more than two pieces
of outline meet, and a piece that two regions share is simplified once: what touches still touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Ring = NDArray[np.float64]  # (N, 2) corners x, y; the last is joined to the first
LARGEST = 20_000_000  # crossings of edges with rows that one polygon may have
FURTHEST = 1e6  # from the image's corner, in pixels, that a corner of a polygon may lie


class Cut(NamedTuple):
    """Pixels of a part of an image: where that part begins, and which of its pixels (h, w) are meant."""

    top: int
    left: int
    inside: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """The part as an index into an array (H, W)."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class Region(NamedTuple):
    """Pixels of one label that hang together by their sides: the label, the pixels, the outer outline and those of holes."""

    label: int
    cut: Cut
    rings: tuple[Ring, ...]


def regions(labels: NDArray[np.uint8], tolerance: float) -> list[Region]:
    """All regions of LABELS (H,W) but label 0, the largest first, their outlines simplified to within TOLERANCE pixels.

    Painted in this order, later over earlier, unsimplified ones give LABELS back exactly.
    """
    numbered, owners = _numbered(labels)
    fixed = _junctions(labels)
    rings: dict[int, list[Ring]] = {}
    for number, ring in _trace(numbered, fixed):
        rings.setdefault(number, []).append(_simplified(ring, fixed, tolerance))
    found = []
    for number, (label, window) in enumerate(zip(owners, ndimage.find_objects(numbered), strict=True), 1):
        cut = Cut(window[0].start, window[1].start, numbered[window] == number)
        ordered = sorted(rings[number], key=lambda ring: -abs(area(ring)))  # the outer one encloses the others
        found.append(Region(label, cut, tuple(ordered)))
    return sorted(found, key=lambda region: -int(region.cut.inside.sum()))


def _numbered(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[int]]:
    """Regions numbered from 1 in an array (H,W), and the label of each."""
    numbered, owners = np.zeros(labels.shape, np.int32), []
    for label in np.unique(labels[labels > 0]).tolist():
        pieces: Any = ndimage.label(labels == label)
        own, count = pieces
        numbered += np.where(own > 0, own + len(owners), 0).astype(np.int32)
        owners += [label] * count
    return numbered, owners


def _junctions(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Corners (H+1,W+1) at which other than two edges between different labels meet; beyond the image is a label of its own."""
    around = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    lying = np.pad(around[1:, 1:-1] != around[:-1, 1:-1], ((0, 0), (1, 1))).astype(np.int8)  # edges left and right of a corner
    upright = np.pad(around[1:-1, 1:] != around[1:-1, :-1], ((1, 1), (0, 0))).astype(np.int8)  # above and below it
    return lying[:, 1:] + lying[:, :-1] + upright[1:] + upright[:-1] != 2


def _trace(numbered: NDArray[np.int32], fixed: NDArray[np.bool_]) -> Iterator[tuple[int, Ring]]:
    """The outlines of every region, each with its region's number: clockwise around pixels, counter-clockwise around holes.

    Corners are kept where the outline turns and where FIXED is set. Where it meets itself it turns right, and so stays with
    pixels that share sides.
    """
    steps = _steps(numbered)
    while steps:
        first = next(iter(steps))
        number, start, ahead = first[0], first[1:], steps[first][0]
        x, y = start
        corners: list[tuple[int, int]] = []
        before: tuple[int, int] | None = None
        while True:
            ways = steps[number, x, y]
            if before is not None:
                right = (-before[1], before[0])
                ahead = right if len(ways) > 1 and right in ways else ways[0]
            ways.remove(ahead)
            if not ways:
                del steps[number, x, y]
            if before != ahead or fixed[y, x]:
                corners.append((x, y))
            x, y, before = x + ahead[0], y + ahead[1], ahead
            if (x, y) == start and (number, x, y) not in steps:
                break
        yield number, np.array(corners, np.float64)


def _steps(numbered: NDArray[np.int32]) -> dict[tuple[int, int, int], list[tuple[int, int]]]:
    """By region and corner, the directions in which its outline goes on from there: two where it meets itself."""
    around = np.pad(numbered, 1)
    inner = around[1:-1, 1:-1]
    sides = (  # the neighbour beyond a side of a pixel, the corner where that side begins, its direction
        (around[:-2, 1:-1], (0, 0), (1, 0)),
        (around[1:-1, 2:], (1, 0), (0, 1)),
        (around[2:, 1:-1], (1, 1), (-1, 0)),
        (around[1:-1, :-2], (0, 1), (0, -1)),
    )
    steps: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for beyond, (right, down), direction in sides:
        rows, columns = np.nonzero((inner != beyond) & (inner > 0))
        for key in zip(inner[rows, columns].tolist(), (columns + right).tolist(), (rows + down).tolist(), strict=True):
            steps.setdefault(key, []).append(direction)
    return steps


def _simplified(ring: Ring, fixed: NDArray[np.bool_], tolerance: float) -> Ring:
    """RING with fewer corners, none of the old ones further than TOLERANCE from it; as it is where nothing would be left."""
    if tolerance <= 0:
        return ring
    anchors = np.flatnonzero(fixed[ring[:, 1].astype(int), ring[:, 0].astype(int)])
    if len(anchors) == 0:  # nothing else meets it: it begins at its first corner and turns at the one furthest from there
        first = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])
        distance = ((ring - ring[first]) ** 2).sum(1)
        anchors = np.sort([first, int(np.lexsort((ring[:, 1], ring[:, 0], distance))[-1])])
    turned = np.roll(ring, -anchors[0], 0)
    ends = [*(anchors - anchors[0]), len(ring)]
    closed = np.vstack([turned, turned[:1]])
    pieces = [_piece(closed[a : b + 1], tolerance)[:-1] for a, b in pairwise(ends)]
    fewer = np.vstack(pieces)
    return fewer if len(fewer) > 2 and area(fewer) != 0 else ring


def _piece(points: Ring, tolerance: float) -> Ring:
    """Douglas and Peucker's simplification of an open line, the same from either end."""
    backwards = points[::-1]
    if (*backwards[0], *backwards[1]) < (*points[0], *points[1]):
        return _douglas_peucker(backwards, tolerance)[::-1]
    return _douglas_peucker(points, tolerance)


def _douglas_peucker(points: Ring, tolerance: float) -> Ring:
    kept = np.zeros(len(points), bool)
    kept[[0, -1]] = True
    waiting = [(0, len(points) - 1)]
    while waiting:
        a, b = waiting.pop()
        if b - a < 2:
            continue
        distances = _distances(points[a + 1 : b], points[a], points[b])
        furthest = int(distances.argmax())
        if distances[furthest] > tolerance:
            middle = a + 1 + furthest
            kept[middle] = True
            waiting += [(a, middle), (middle, b)]
    return points[kept]


def _distances(points: Ring, a: Ring, b: Ring) -> NDArray[np.float64]:
    """Distances (N,) of POINTS from the segment from A to B."""
    along = b - a
    length = float(along @ along)
    share = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - a - share[:, None] * along).T)


def area(ring: Ring) -> float:
    """The area that a ring encloses, below zero where it runs counter-clockwise (y downwards)."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def bridged(rings: Sequence[Ring]) -> Ring:
    """One ring of an outer one and its holes: each hole is reached and left by the same line, which encloses nothing."""
    joined, *holes = rings
    for hole in holes:
        found: Any = KDTree(joined).query(hole)
        distances, nearest = found
        there = int(distances.argmin())
        around, here = np.roll(hole, -there, 0), int(nearest[there])
        joined = np.vstack([joined[: here + 1], around, around[:1], joined[here:]])
    return joined


def rasterise(rings: Sequence[Ring], size: tuple[int, int]) -> Cut:
    """The pixels of an image of SIZE (H,W) whose centres the rings enclose, by the even-odd rule.

    Raises ValueError on corners that are no places near an image and on polygons of absurd length.
    """
    begin = np.vstack(rings)
    end = np.vstack([np.roll(ring, -1, 0) for ring in rings])
    if not (np.abs(begin) <= FURTHEST).all():  # nor is it when they are no numbers
        raise ValueError("corners that are no places near an image")
    height, width = size
    (left, top), (right, bottom) = (np.clip(np.rint(corner), 0, (width, height)).astype(int) for corner in _corners(begin))
    rows, columns = _crossings(begin, end, top, bottom)
    places = (rows - top) * (right - left + 1) + np.clip(columns, left, right) - left
    toggles = np.bincount(places, minlength=(bottom - top) * (right - left + 1)).reshape(bottom - top, right - left + 1)
    return Cut(int(top), int(left), (toggles.cumsum(1)[:, :-1] & 1).astype(bool))


def _corners(points: Ring) -> tuple[Ring, Ring]:
    """Corners of the box of whole pixels around POINTS."""
    return np.floor(points.min(0)), np.ceil(points.max(0))


def _crossings(begin: Ring, end: Ring, top: int, bottom: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows from TOP to BOTTOM whose middle an edge crosses, and of each crossing the first column whose centre lies beyond it."""
    flipped = (begin[:, 1] > end[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(flipped, end, begin).T, np.where(flipped, begin, end).T
    first, last = (np.clip(np.ceil(y - 0.5), top, bottom).astype(np.int64) for y in (y0, y1))
    count = last - first
    if count.sum() > LARGEST:
        raise ValueError(f"a polygon of {len(begin)} corners across {bottom - top} rows")
    edge = np.repeat(np.arange(len(begin)), count)
    rows = np.arange(len(edge)) - np.repeat(count.cumsum() - count, count) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    crossing = x0[edge] + (rows + 0.5 - y0[edge]) * slope
    return rows, np.ceil(crossing - 0.5).astype(np.int64)
