"""Counting of pixels: one pass over an image against loops over classes and thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.measure import Measured
from stages.formulas import metrics

SIZE, LABELS, VOID = (375, 500), 21, 255
THRESHOLDS = [(index + 0.5) / 60 for index in range(60)]
Mask = NDArray[np.uint8]


def _masks(seed: int = 0) -> tuple[Mask, Mask]:
    """A truth with some void pixels and a prediction, in blocks of 25 pixels."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, LABELS, (2, SIZE[0] // 25, SIZE[1] // 25), dtype=np.uint8)
    truth, prediction = blocks.repeat(25, axis=1).repeat(25, axis=2)
    truth = truth.copy()
    truth[::25] = VOID
    return truth, prediction


def by_class(truth: Mask, prediction: Mask) -> NDArray[np.int64]:
    """Hits, true pixels and predicted pixels of one class after another (G,3), as scripts of the field count them."""
    valid = truth != VOID
    counts = np.zeros((LABELS, 3), np.int64)
    for label in range(LABELS):
        true, predicted = truth == label, (prediction == label) & valid
        counts[label] = np.sum(true & predicted), np.sum(true), np.sum(predicted)
    return counts


def _by_class(matrices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same counts (…,G,3) of confusion matrices (…,G,G)."""
    return np.stack([np.diagonal(matrices, axis1=-2, axis2=-1), matrices.sum(-1), matrices.sum(-2)], axis=-1)


def confusion() -> Measured:
    """One image of 375 x 500 with 21 labels."""
    truth, prediction = _masks()
    equal = np.array_equal(_by_class(metrics.confusion(truth, prediction, LABELS)), by_class(truth, prediction))
    measure.require_equal(equal, "counts differ")
    pair = measure.in_turns(lambda: by_class(truth, prediction), lambda: metrics.confusion(truth, prediction, LABELS))
    return pair.against(10, {"image": SIZE, "labels": LABELS})


def sweep() -> Measured:
    """60 global thresholds on the maps of two present classes."""
    truth, _ = _masks()
    random, classes = np.random.default_rng(1), [3, 14]
    maps = random.random((2, 15, 20), dtype=np.float32).repeat(25, axis=1).repeat(25, axis=2)
    maps += 0.01 * random.random(maps.shape, dtype=np.float32)

    def one_by_one() -> NDArray[np.int64]:
        ids = np.array([0, *(index + 1 for index in classes)], dtype=np.uint8)
        matrices = []
        for threshold in THRESHOLDS:
            planes = np.concatenate([np.full((1, *SIZE), threshold, np.float32), maps])
            matrices.append(by_class(truth, ids[planes.argmax(0)]))
        return np.stack(matrices)

    def at_once() -> NDArray[np.int64]:
        counter = metrics.ThresholdSweep(THRESHOLDS, LABELS)
        counter.add(truth, maps, classes)
        return counter.matrices()

    measure.require_equal(np.array_equal(_by_class(at_once()), one_by_one()), "counts differ")
    return measure.in_turns(one_by_one, at_once).against(20, {"image": SIZE, "classes": 2, "thresholds": len(THRESHOLDS)})
