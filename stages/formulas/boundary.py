"""How well the boundaries of a segmentation lie: the boundary F-score (Csurka et al., BMVC 2013, section 3.2).

Of a class c, B is the set of its pixels with one of the four neighbours outside of it (the frame of the image is no neighbour),
and θ is .75 % of the image's diagonal:

    P_c = Σ |{z ∈ B_prediction : d(z, B_truth) ≤ θ}| / Σ |B_prediction|,    R_c likewise with the two exchanged,
    F_c = 2 P_c R_c / (P_c + R_c).

The sums are over all images, as the mean IoU's are; the paper takes means of images, in which a speck of a class weighs as
much as an object. Void pixels of the truth, VOC's rims, belong to the nearest labelled pixel's class, so that a boundary runs
in the middle of a rim; where void is deeper than θ, no boundary counts. Shapes: G classes with background, H W an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from stages.formulas import VOID

TOLERANCE = 0.0075  # θ, of the image's diagonal

Mask = NDArray[np.uint8]
Counts = NDArray[np.int64]


def edge(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a region (H,W) that have a neighbour above, below, left or right outside of it."""
    inside = np.pad(region, 1, mode="edge")
    whole = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return region & ~whole


def count(truth: Mask, prediction: Mask, n_classes: int) -> Counts:
    """Boundary pixels by class (G,4) of two label maps (H,W) of one size: predicted and matched, true and matched."""
    counts = np.zeros((n_classes, 4), dtype=np.int64)
    reach = TOLERANCE * float(np.hypot(*truth.shape))
    void = truth == VOID
    counted = np.ones(truth.shape, dtype=bool)
    if void.any() and not void.all():
        found: Any = distance_transform_edt(void, return_indices=True)
        truth, counted = truth[tuple(found[1])], found[0] <= reach
    predicted = np.where(prediction == VOID, 0, prediction)
    present = sum(np.bincount(labels.ravel(), minlength=256)[:n_classes] for labels in (truth, predicted))
    for label in np.flatnonzero(present) if not void.all() else ():
        ours, theirs = (np.argwhere(edge(labels == label) & counted) for labels in (predicted, truth))
        counts[label] = [len(ours), _near(ours, theirs, reach), len(theirs), _near(theirs, ours, reach)]
    return counts


def _near(points: NDArray[np.intp], others: NDArray[np.intp], reach: float) -> int:
    """How many of POINTS (N,2) have one of the OTHERS (M,2) no farther than REACH."""
    if not len(points) or not len(others):
        return 0
    distances, _ = KDTree(others).query(points, distance_upper_bound=np.nextafter(reach, np.inf))
    return int(np.isfinite(distances).sum())


def f_score(counts: Counts) -> NDArray[np.float64]:
    """F_c of each class (G,) from the counts (G,4) of all images, in [0,1]; NaN for a class without a boundary in either."""
    predicted, matched, true, found = counts.T.astype(np.float64)
    precision = np.divide(matched, predicted, out=np.zeros_like(matched), where=predicted > 0)
    recall = np.divide(found, true, out=np.zeros_like(found), where=true > 0)
    both = precision + recall
    score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return np.where(predicted + true > 0, score, np.nan)
