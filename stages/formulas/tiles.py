"""Large images in overlapping squares, so that a network's memory does not grow with them.

Windows begin at multiples of STEP pixels, which every stride of a network divides, so that their grids lie on the grid of
the whole image. Where windows overlap, their logits are averaged with weights that fall off towards a window's border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stages.formulas.segmentation import resize_logits

STEP = 32
OVERLAP = 4  # a quarter of a window, at least, is seen by its neighbour too


def starts(length: int, side: int) -> list[int]:
    """Where windows of SIDE pixels begin along LENGTH pixels, at multiples of STEP; the last one may end early."""
    stride = max(side - side // OVERLAP, STEP) // STEP * STEP
    last = max(-(-(length - side) // STEP) * STEP, 0)
    return [*range(0, last, stride), last]


def windows(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window, in reading order; together they cover the image."""
    for top in starts(height, side):
        for left in starts(width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def merged(height: int, width: int, side: int, stride: int, look: Callable[[slice, slice], Tensor]) -> Tensor:
    """The grid logits of the whole image from those that LOOK gives of each window.

    LOOK: rows and columns → (C,h,w), where h and w are the window's sides over STRIDE, a divisor of STEP, rounded up;
    logits of another size are resized. Returns (C,⌈height/stride⌉,⌈width/stride⌉).
    """
    size = (-(-height // stride), -(-width // stride))
    total = weights = torch.zeros(size)
    for rows, columns in windows(height, width, side):
        place = tuple(slice(part.start // stride, -(-part.stop // stride)) for part in (rows, columns))
        shape = [part.stop - part.start for part in place]
        logits = resize_logits(look(rows, columns)[None], shape)[0]
        if total.ndim == 2:
            total, weights = logits.new_zeros(len(logits), *size), logits.new_zeros(size)
        hat = torch.outer(ramp(shape[0]), ramp(shape[1])).to(logits)
        total[(slice(None), *place)] += hat * logits
        weights[place] += hat
    return total / weights


def ramp(length: int) -> Tensor:
    """Weights along a window of LENGTH cells: 1 at its ends, one more each cell towards its middle."""
    places = torch.arange(length, dtype=torch.float32)
    return torch.minimum(places, places.flip(0)) + 1
