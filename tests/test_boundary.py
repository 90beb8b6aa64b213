"""The boundary F-score, on maps small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.formulas import boundary

SIDE = 200  # θ = .0075 · √2 · 200 = 2.12 pixels


def square(top: int, left: int, side: int, label: int = 1) -> np.ndarray:
    """A map of background with a square of a label."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[top : top + side, left : left + side] = label
    return labels


def test_an_edge_is_inside_and_the_frame_is_none() -> None:
    region = np.zeros((4, 5), bool)
    region[1:, 1:] = True  # touches the frame on two sides
    assert boundary.edge(region).astype(int).tolist() == [[0] * 5, [0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert not boundary.edge(np.ones((3, 3), bool)).any()


def test_a_square_and_itself() -> None:
    counts = boundary.count(square(50, 60, 20), square(50, 60, 20), 3)
    assert counts.tolist() == [[80, 80, 80, 80], [76, 76, 76, 76], [0, 0, 0, 0]]  # 4·20 around it, 4·20 - 4 in it
    scores = boundary.f_score(counts)
    assert scores[:2].tolist() == [1.0, 1.0] and np.isnan(scores[2])


@pytest.mark.parametrize(("shift", "score"), [(2, 1.0), (3, None)])
def test_two_pixels_beside_are_near_and_three_are_not(shift: int, score: float | None) -> None:
    counts = boundary.count(square(50, 60, 20), square(50, 60 + shift, 20), 2)
    found = boundary.f_score(counts)[1]
    if score is not None:
        assert found == score
    else:  # of 76 pixels the 18 within the shifted side are 3 from the true side; rows of the other sides overlap
        assert 0 < found < 1 and counts[1, 1] == counts[1, 3] < 76


def test_precision_and_recall_by_hand() -> None:
    """The truth has two squares of 76 boundary pixels, the prediction one of them: P = 1, R = 1/2, F = 2/3."""
    truth = np.maximum(square(20, 20, 20), square(120, 120, 20))
    counts = boundary.count(truth, square(20, 20, 20), 2)
    assert counts[1].tolist() == [76, 76, 152, 76]
    assert boundary.f_score(counts)[1] == pytest.approx(2 / 3)


def test_sums_are_over_images() -> None:
    right, missed = (boundary.count(square(20, 20, 20), seen, 2) for seen in (square(20, 20, 20), square(0, 0, 0)))
    assert boundary.f_score(missed)[1] == 0
    assert boundary.f_score(right + missed)[1] == pytest.approx(2 / 3)


def test_a_rim_of_void_holds_the_boundary_in_its_middle_and_deep_void_none() -> None:
    truth = square(50, 50, 40, 255)
    truth[52:88, 52:88] = 1  # a rim of two pixels
    for seen in (square(50, 50, 40), square(51, 51, 38), square(52, 52, 36)):
        assert boundary.f_score(boundary.count(truth, seen, 2))[1] == 1.0
    hidden = square(50, 50, 40, 255)  # a whole object that nobody labelled
    assert boundary.count(hidden, square(60, 60, 20), 2)[1].tolist() == [0, 0, 0, 0]
    assert not boundary.count(np.full((9, 9), 255, np.uint8), np.ones((9, 9), np.uint8), 2).any()


def test_void_predictions_are_background() -> None:
    seen = square(50, 60, 20)
    seen[seen == 0] = 255
    assert np.array_equal(boundary.count(square(50, 60, 20), seen, 2), boundary.count(square(50, 60, 20), square(50, 60, 20), 2))
