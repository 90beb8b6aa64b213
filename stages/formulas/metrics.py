"""Numbers of a segmentation: confusion matrix, IoU, precision, recall, and a sweep of thresholds in one pass.

`mIoU` is the mean over classes with a non-empty union of prediction and truth, over a whole split's confusion
matrix; void pixels of the truth (255) are left out, void pixels of a prediction count as background. Shapes:
G classes with background, C without, K thresholds, H W an image. Values are shares in [0,1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.formulas import VOID

_IDS = 256  # that a label map of 8 bits can hold

# Upper edges of object sizes, as shares of the image: each twice the last. The paper's Fig. 21 is a density without bins.
SIZE_EDGES = (0.025, 0.05, 0.1, 0.2, 0.4, 1.0)

Confusion = NDArray[np.int64]
Histogram = NDArray[np.int64]
Mask = NDArray[np.uint8]


def confusion(truth: Mask, prediction: Mask, n_classes: int) -> Confusion:
    """Pixel counts (G,G), rows truth and columns prediction, of two label maps (H,W) uint8.

    Raises StageError when the sizes differ or a label is neither a class nor void.
    """
    if truth.shape != prediction.shape:
        raise StageError(
            "Cannot compare a mask and a prediction",
            f"sizes {_size(truth)} and {_size(prediction)} differ",
            "Check that both belong to one image",
        )
    codes = (truth.astype(np.uint16) << 8) | prediction
    counts = np.bincount(codes.ravel(), minlength=_IDS * _IDS).reshape(_IDS, _IDS)
    return _fold(counts, n_classes)


def _size(mask: Mask) -> str:
    return "x".join(str(side) for side in reversed(mask.shape))


def _fold(counts: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """(256,256) → (G,G): void truth is dropped, void predictions join background."""
    known = counts[:n_classes, :n_classes].copy()
    known[:, 0] += counts[:n_classes, VOID]
    if known.sum() + counts[VOID].sum() != counts.sum():
        raise _first_stray(counts, n_classes)
    return known


def _first_stray(counts: NDArray[np.int64], n_classes: int) -> StageError:
    """The error that names the first label that is neither a class nor void, in masks before predictions."""
    kind, axis = ("mask", 1) if counts[n_classes:VOID].any() else ("prediction", 0)
    return _stray(kind, n_classes + int(np.nonzero(counts[:VOID].sum(axis)[n_classes:VOID])[0][0]), n_classes)


def _stray(kind: str, label: int, n_classes: int) -> StageError:
    return StageError(
        f"A {kind} holds label {label}",
        f"the dataset has labels 0 to {n_classes - 1} and 255 for void",
        "Check the class list and the masks",
    )


def iou(matrix: Confusion) -> NDArray[np.float64]:
    """IoU of each class (…,G) from confusion matrices (…,G,G); NaN where the union is empty."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    return _share(hits, matrix.sum(-1) + matrix.sum(-2) - hits)


def precision(matrix: Confusion) -> NDArray[np.float64]:
    """Share of each class's predicted pixels that are right (…,G); NaN where nothing was predicted."""
    return _share(np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64), matrix.sum(-2))


def recall(matrix: Confusion) -> NDArray[np.float64]:
    """Share of each class's true pixels that were found (…,G); NaN where there are none."""
    return _share(np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64), matrix.sum(-1))


def _share(hits: NDArray[Any], total: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(hits, total, out=np.full(hits.shape, np.nan), where=total > 0)


def mean_over(values: NDArray[np.float64], classes: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Mean of class values (…,G) that are not NaN, of all or of a subset of ids; NaN if none is left."""
    chosen = values if classes is None else values[..., list(classes)]
    return _share(np.nansum(chosen, -1), (~np.isnan(chosen)).sum(-1))


def miou(matrix: Confusion, classes: Sequence[int] | None = None) -> float:
    """Mean IoU of a confusion matrix (G,G), of all classes or of a subset of ids (0 = background)."""
    return float(mean_over(iou(matrix), classes))


def _above(counts: Histogram) -> Histogram:
    """Counts by interval between K thresholds (K+1,…) → counts of the scores that exceed each threshold (K,…)."""
    return np.cumsum(counts[::-1], axis=0)[::-1][1:]


@dataclass(frozen=True)
class Objects:
    """The objects of one image, an object being all pixels of a class: labels (J,), pixels (J,), IoU (K,J) in [0,1]."""

    labels: NDArray[np.int64]
    pixels: NDArray[np.int64]
    ious: NDArray[np.float64]


def objects(counts: Histogram, classes: Sequence[int]) -> Objects:
    """IoU of every class that has true pixels in an image, at K thresholds, from its histogram (K+1,C,256) in a sweep.

    CLASSES are the ids (0-based) of the histogram's maps; a true class without a map has an IoU of 0.
    """
    truth = counts.sum((0, 1))
    labels = np.flatnonzero(truth[1:VOID]) + 1
    above = _above(counts)
    hits, predicted = np.zeros((2, len(above), len(labels)), dtype=np.int64)
    for column, label in enumerate(labels.tolist()):
        if label - 1 in classes:
            found = above[:, list(classes).index(label - 1)]
            hits[:, column], predicted[:, column] = found[:, label], found[:, :VOID].sum(-1)
    return Objects(labels, truth[labels], _share(hits, truth[labels] + predicted - hits))


def by_size(
    shares: NDArray[np.float64], values: NDArray[np.float64], edges: Sequence[float] = SIZE_EDGES
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number of objects and mean of their VALUES in every size bin; an upper edge belongs to its bin.

    shares (J,) of the image that each object covers; values (J,), NaN left out. Returns (E,) and (E,), NaN for an empty bin.
    """
    known = ~np.isnan(values)
    bins = np.searchsorted(np.asarray(edges), shares[known])
    counts = np.bincount(bins, minlength=len(edges))
    sums = np.bincount(bins, weights=values[known], minlength=len(edges))
    return counts, _share(sums, counts)


class ThresholdSweep:
    """Confusion matrices of K global thresholds, from one histogram over (truth, best class, best score).

    With one threshold for all classes a pixel is its best class where the best score exceeds the threshold,
    else background. So one count for each interval between thresholds tells all K matrices, exactly.
    """

    def __init__(self, thresholds: Sequence[float], n_classes: int) -> None:
        self.thresholds = np.unique(np.asarray(thresholds, dtype=np.float32))
        self.n_classes = n_classes
        self._counts = np.zeros((len(self.thresholds) + 1, _IDS, n_classes), dtype=np.int64)

    def add(self, truth: Mask, maps: NDArray[np.floating[Any]], classes: Sequence[int]) -> Histogram:
        """Count one image: truth (H,W), maps (C,H,W) of its present classes, and their 0-based ids.

        Returns the image's own counts (K+1,C,256): of pixels by the number of thresholds that their best score exceeds, by
        best class and by true label. Without classes C is 1 and no threshold is exceeded.
        """
        steps = len(self.thresholds) + 1
        if not len(maps):
            best, passed = np.zeros(truth.shape, dtype=np.int64), 0
        else:
            best = maps.argmax(0) if len(maps) > 1 else 0
            passed = np.searchsorted(self.thresholds, maps.max(0))
        n_present = max(len(maps), 1)
        codes = (passed * n_present + best) * _IDS + truth
        counts = np.bincount(codes.ravel(), minlength=steps * n_present * _IDS).reshape(steps, n_present, _IDS)
        columns = np.asarray(classes, dtype=np.int64) + 1 if len(maps) else np.zeros(1, dtype=np.int64)
        self._counts[:, :, columns] += counts.transpose(0, 2, 1)
        return counts

    def index(self, threshold: float) -> int:
        """Where THRESHOLD stands among the K."""
        return int(np.searchsorted(self.thresholds, np.float32(threshold)))

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of another sweep over the same thresholds, as of another process."""
        self._counts += other._counts

    def matrices(self) -> Confusion:
        """Confusion matrices (K,G,G), one a threshold."""
        above = _above(self._counts)
        result = above[:, :VOID].copy()
        result[..., 0] += self._counts.sum(0)[:VOID].sum(-1) - above[:, :VOID].sum(-1)
        if result[:, self.n_classes :].any():
            raise _stray("mask", self.n_classes + int(np.nonzero(result[:, self.n_classes :])[1].min()), self.n_classes)
        return result[:, : self.n_classes]

    def oracle(self, classes: Sequence[int] | None = None) -> tuple[float, Confusion]:
        """The threshold of the best mIoU (over CLASSES if given) and its confusion matrix. It has seen the truth."""
        matrices = self.matrices()
        best = int(np.nanargmax(mean_over(iou(matrices), classes)))
        return float(self.thresholds[best]), matrices[best]
