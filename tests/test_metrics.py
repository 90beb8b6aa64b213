"""Confusion matrices and what is read from them, on masks of a few pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import StageError
from stages.formulas import metrics


def masks(*rows: list[int]) -> list[np.ndarray]:
    return [np.array([row], np.uint8) for row in rows]


def test_eight_pixels() -> None:
    truth, prediction = masks([0, 0, 0, 1, 1, 1, 2, 255], [0, 0, 1, 1, 1, 255, 0, 2])
    matrix = metrics.confusion(truth, prediction, 3)
    assert matrix.tolist() == [[2, 1, 0], [1, 2, 0], [1, 0, 0]]
    np.testing.assert_allclose(metrics.iou(matrix), [2 / 5, 2 / 4, 0])
    assert metrics.miou(matrix) == pytest.approx(0.3)
    assert metrics.miou(matrix, [0, 1]) == pytest.approx(0.45)
    np.testing.assert_allclose(metrics.recall(matrix), [2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(metrics.precision(matrix), [2 / 4, 2 / 3, np.nan])


def test_a_class_seen_nowhere_is_left_out_of_the_mean() -> None:
    truth, prediction = masks([0, 1], [0, 1])
    matrix = metrics.confusion(truth, prediction, 5)
    assert metrics.miou(matrix) == 1
    assert np.isnan(metrics.miou(matrix, [3, 4]))


def test_labels_beyond_the_classes_are_named() -> None:
    stray, fine = masks([0, 7], [0, 1])
    with pytest.raises(StageError, match="mask holds label 7"):
        metrics.confusion(stray, fine, 3)
    with pytest.raises(StageError, match="prediction holds label 7"):
        metrics.confusion(fine, stray, 3)
    sweep = metrics.ThresholdSweep([0.5], 3)
    sweep.add(stray, np.zeros((1, 1, 2)), [0])
    with pytest.raises(StageError, match="mask holds label 7"):
        sweep.matrices()


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(StageError, match="sizes 2x1 and 3x1"):
        metrics.confusion(np.zeros((1, 2), np.uint8), np.zeros((1, 3), np.uint8), 2)


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_sweep_equals_one_confusion_a_threshold(seed: int, n_present: int) -> None:
    rng = np.random.default_rng(seed)
    thresholds, classes = np.arange(0.1, 0.9, 0.1, dtype=np.float32), [4, 0, 2][:n_present]
    sweep, parts = (
        metrics.ThresholdSweep(thresholds.tolist(), 6),
        metrics.ThresholdSweep(thresholds.tolist(), 6),
    )
    expected = np.zeros((len(thresholds), 6, 6), np.int64)
    for image in range(2):
        truth = rng.choice(np.array([0, 1, 3, 5, 255], np.uint8), (5, 7))
        maps = (rng.integers(0, 11, (n_present, 5, 7)) / 10).astype(np.float32)
        (sweep if image else parts).add(truth, maps, classes)
        for index, threshold in enumerate(thresholds):
            planes = np.concatenate([np.full((1, 5, 7), threshold, np.float32), maps])
            prediction = np.array([0, *(c + 1 for c in classes)], np.uint8)[planes.argmax(0)]
            expected[index] += metrics.confusion(truth, prediction, 6)
    sweep.merge(parts)
    np.testing.assert_array_equal(sweep.matrices(), expected)


def test_oracle_takes_the_best_threshold() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    sweep = metrics.ThresholdSweep([0.1, 0.5, 0.9], 2)
    sweep.add(truth, np.array([[[0.2, 0.4, 0.6, 0.8]]]), [0])
    threshold, matrix = sweep.oracle()
    assert threshold == 0.5
    assert matrix.tolist() == [[2, 0], [0, 2]]


def test_objects_of_an_image_by_threshold() -> None:
    """Label 1 covers four pixels, of which three exceed .1 and one .5; a void pixel is not held against it; 3 has no map."""
    truth = np.array([[1, 1, 1, 1, 0, 3, 255]], np.uint8)
    sweep = metrics.ThresholdSweep([0.1, 0.5], 4)
    found = metrics.objects(sweep.add(truth, np.array([[[0.0, 0.2, 0.3, 0.6, 0.9, 0.1, 0.9]]]), [0]), [0])
    assert found.labels.tolist() == [1, 3] and found.pixels.tolist() == [4, 1]
    np.testing.assert_allclose(found.ious, [[3 / 5, 0], [1 / 5, 0]])
    assert (sweep.index(0.1), sweep.index(0.5)) == (0, 1)


def test_objects_of_an_image_without_maps() -> None:
    sweep = metrics.ThresholdSweep([0.5], 4)
    found = metrics.objects(sweep.add(np.array([[2, 0]], np.uint8), np.zeros((0, 1, 2)), []), [])
    assert found.labels.tolist() == [2] and found.ious.tolist() == [[0]]


def test_means_by_size() -> None:
    shares, values = np.array([0.01, 0.05, 0.06, 0.5, 0.6]), np.array([0.2, 0.5, 0.7, 0.9, np.nan])
    counts, means = metrics.by_size(shares, values, edges=(0.05, 0.1, 0.2, 1.0))
    assert counts.tolist() == [2, 1, 0, 1]
    np.testing.assert_allclose(means, [0.35, 0.7, np.nan, 0.9])
