"""The random walk by diagonals, against the full matrix written out and values a person can check."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formulas import affinity, walk


def full_matrix(edge: torch.Tensor, radius: int, beta: float) -> torch.Tensor:
    """T (N,N), pair by pair: affinity^beta of pixels nearer than the radius, columns over their sums."""
    height, width = edge.shape
    weights = torch.eye(height * width, dtype=edge.dtype)
    for y in range(height):
        for x in range(width):
            for dy, dx in affinity.offsets(radius):
                if y + dy < height and 0 <= x + dx < width:
                    highest = max(edge[y + py, x + px].item() for py, px in affinity.path((dy, dx)))
                    here, there = y * width + x, (y + dy) * width + x + dx
                    weights[here, there] = weights[there, here] = (1 - highest) ** beta
    return weights / weights.sum(0)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(2, 5),
    st.sampled_from([0, 1, 5, 8]),
    st.integers(0, 99),
)
def test_any_size_equals_the_full_matrix(size: tuple[int, int], radius: int, exp_times: int, seed: int) -> None:
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    edge = torch.rand(height, width, generator=generator, dtype=torch.float64) ** 3
    scores = torch.rand(2, height, width, generator=generator, dtype=torch.float64)
    power = torch.linalg.matrix_power(full_matrix(edge, radius, 10), 2**exp_times)
    expected = ((scores * (1 - edge)).flatten(1) @ power).view_as(scores)
    exact = walk.random_walk(scores, edge, radius, 10, exp_times, "exact")
    torch.testing.assert_close(exact, expected, atol=1e-10, rtol=0)
    expansion = walk.random_walk(scores, edge, radius, 10, exp_times, "chebyshev")
    torch.testing.assert_close(expansion, expected, atol=1e-4, rtol=0)


def test_gathered_product_equals_the_diagonal_one() -> None:
    matrix = walk.transition(torch.rand(7, 12, generator=torch.Generator().manual_seed(0)))
    scores = torch.rand(3, 84, generator=torch.Generator().manual_seed(1))
    by_gather = walk._product_by_gather(matrix.weights, matrix.shifts)(scores)
    torch.testing.assert_close(by_gather, walk._product_by_diagonals(matrix.weights, matrix.shifts)(scores))


def test_two_open_pixels_share_their_score() -> None:
    walked = walk.random_walk(torch.tensor([[[1.0, 0.0]]]), torch.zeros(1, 2), radius=2, method="exact")
    torch.testing.assert_close(walked, torch.tensor([[[0.5, 0.5]]]))


def test_nothing_crosses_a_wall() -> None:
    edge = torch.zeros(4, 9)
    edge[:, 4] = 1.0
    scores = torch.zeros(1, 4, 9)
    scores[:, :, :4] = 1.0
    walked = walk.random_walk(scores, edge, method="exact")
    torch.testing.assert_close(walked[0, :, :4], torch.ones(4, 4))
    assert walked[0, :, 4:].abs().max() == 0


def test_a_walk_averages() -> None:
    generator = torch.Generator().manual_seed(3)
    matrix = walk.transition(torch.rand(20, 23, generator=generator))
    ones = walk.propagate(torch.ones(1, 20, 23), matrix, 256)
    torch.testing.assert_close(ones, torch.ones_like(ones), atol=5e-5, rtol=0)


def test_coefficients_are_the_chances_of_coin_steps() -> None:
    assert walk.chebyshev_coefficients(2, 0) == (0.5, 0.0, 0.5)
    assert sum(walk.chebyshev_coefficients(256, 0)) == pytest.approx(1)
    assert 60 < len(walk.chebyshev_coefficients(256)) < 80
    angle, coefficients = 0.3, walk.chebyshev_coefficients(9, 0)
    series = sum(coefficient * math.cos(k * angle) for k, coefficient in enumerate(coefficients))
    assert series == pytest.approx(math.cos(angle) ** 9)


def test_no_classes_walk_to_no_classes() -> None:
    assert walk.random_walk(torch.zeros(0, 5, 6), torch.zeros(5, 6)).shape == (0, 5, 6)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="chebyshev"):
        walk.propagate(torch.ones(1, 1, 1), walk.transition(torch.zeros(1, 1)), 1, "dense")  # type: ignore[arg-type]
