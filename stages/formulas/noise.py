"""Learning from masks that may be wrong, and from classes that are rare: pixels to leave out, images to see more often.

Shapes: H W image, L labels (background is 0, 255 = void), N images. Confidence is in 8 bits, 255 = sure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.formulas import VOID, seeds

LEVELS = 256  # of confidence, and of labels
Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


def at_pixels(sure: Bytes, size: tuple[int, int]) -> Bytes:
    """Confidence (h,w) on the stride-4 grid at the SIZE (H,W) of the image, bilinearly as walked maps are enlarged."""
    grid = torch.from_numpy(sure.astype(np.float32))[None]
    return seeds.enlarge(grid, size)[0].round().byte().numpy()


def on_grid(sure: Tensor) -> Bytes:
    """Confidence of pixels (H,W) in [0,1] on the stride-4 grid (h,w): means over 4 x 4 pixels, cut ones over what is there."""
    means = torch.nn.functional.avg_pool2d(sure[None, None], seeds.SEED_STRIDE, ceil_mode=True, count_include_pad=False)
    return (255 * means[0, 0]).round().byte().cpu().numpy()


def counts(labels: Bytes, sure: Bytes) -> Counts:
    """Pixels by label and confidence (L,256) of labels and confidence (H,W); L is 256, void among them."""
    joined = labels.astype(np.int64) * LEVELS + sure
    return np.bincount(joined.ravel(), minlength=LEVELS * LEVELS).reshape(LEVELS, LEVELS)


def least(histogram: Counts, share: float) -> NDArray[np.int64]:
    """By label the confidence (L,) below which its least confident pixels lie, SHARE of them at most.

    One share for every class and not one confidence: the rare and the hard ones keep as much as the others (Zou et al.,
    "Class-Balanced Self-Training", ECCV 2018, section 4.1). 0 for a label without pixels. HISTOGRAM: `counts`, added up over
    images.
    """
    below = histogram.cumsum(axis=1)
    return np.array([np.searchsorted(row, share * row[-1], side="right") if row[-1] else 0 for row in below])


def without(labels: Bytes, sure: Bytes, limits: NDArray[Any]) -> Bytes:
    """Labels (H,W) with those pixels void whose confidence is below their label's of LIMITS (L,)."""
    return np.where(sure < limits[labels], np.uint8(VOID), labels)


def agreed(labels: Bytes, others: Bytes) -> Bytes:
    """Labels (H,W) with those pixels void for which OTHERS (H,W) say something else."""
    return np.where(labels == others, labels, np.uint8(VOID))


def class_factors(present: Sequence[Sequence[int]], share: float) -> dict[int, float]:
    """How much more often images of a class are to be seen: max(1, √(SHARE / its share of the images)).

    Gupta et al., "LVIS", CVPR 2019, section 5 (repeat factor sampling). PRESENT: the classes of each image.
    """
    carried = Counter(index for labels in present for index in set(labels))
    return {index: max(1.0, (share * len(present) / count) ** 0.5) for index, count in sorted(carried.items())}


def repeat_factors(present: Sequence[Sequence[int]], share: float) -> list[float]:
    """How much more often each image is to be seen than one without rare classes: the largest of its `class_factors`."""
    factors = class_factors(present, share)
    return [max((factors[index] for index in labels), default=1.0) for labels in present]


def drawn(weights: Tensor, generator: torch.Generator) -> Tensor:
    """N of N images (N,) in proportion to their WEIGHTS (N,), each as often as its expected number, rounded down or up.

    Systematic sampling in a random order: with equal weights every image comes once.
    """
    order = torch.randperm(len(weights), generator=generator)
    ends = weights.double()[order].cumsum(0)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    places = (torch.arange(len(weights)) + offset) * (ends[-1] / len(weights))
    return order[torch.searchsorted(ends, places, right=True).clamp_max(len(weights) - 1)]
