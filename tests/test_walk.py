"""The random walk by diagonals, against the full matrix written out and values a person can check."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

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
    st.integers(0, 12),
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


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_that_are_gathered_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    matrix = walk.transition(torch.rand(4, 5, generator=torch.Generator().manual_seed(0)))
    scores = torch.rand(rows, 20, generator=torch.Generator().manual_seed(1))
    whole = walk._product_by_gather(matrix.weights, matrix.shifts)(scores)
    monkeypatch.setattr(walk, "GATHERED_AT_ONCE", 2 * matrix.weights.numel())
    assert torch.equal(walk._product_by_gather(matrix.weights, matrix.shifts)(scores), whole) and len(whole) == rows


def test_images_lie_together_as_long_as_their_grid_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """With walls of a row each: 3 x 4 and 2 x 4 are 28 points, with 2 x 7 beside them 70; 9 x 9 is too large by itself."""
    edges = [torch.rand(*size, dtype=torch.float64) for size in ((3, 4), (2, 4), (2, 7), (9, 9), (1, 1), (1, 1))]
    monkeypatch.setattr(walk, "POINTS_AT_ONCE", 28)
    parts = [(part.start, part.stop) for part in walk._together(edges)]
    assert parts == [(0, 2), (2, 3), (3, 4), (4, 6)]
    scores = [torch.rand(2, *edge.shape) for edge in edges]
    walked = walk.random_walk_batch(scores, edges)
    for found, image in zip(walked, zip(scores, edges, strict=True), strict=True):
        torch.testing.assert_close(found, walk.random_walk(*image), atol=1e-9, rtol=0)


Sizes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 12)), max_size=4)


@settings(max_examples=20, deadline=None)
@given(Sizes, st.integers(2, 6), st.integers(0, 9), st.sampled_from(["exact", "chebyshev"]), st.integers(0, 99))
def test_in_a_batch_every_image_walks_as_it_does_alone(
    sizes: list[tuple[int, int, int]], radius: int, exp_times: int, method: walk.Method, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    edges = [torch.rand(height, width, generator=generator, dtype=torch.float64) ** 2 for _, height, width in sizes]
    scores = [torch.rand(*size, generator=generator, dtype=torch.float64) for size in sizes]
    together = walk.random_walk_batch(scores, edges, radius, 10, exp_times, method)
    alone = [walk.random_walk(*image, radius, 10, exp_times, method) for image in zip(scores, edges, strict=True)]
    assert [tuple(maps.shape) for maps in together] == sizes
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


class Operations(TorchDispatchMode):
    """Notes the name and the floating types of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.types.add(result.dtype)
        return result


def test_there_is_no_matrix_product_for_tf32_and_no_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_product_by_diagonals", walk._product_by_gather)  # what a GPU does
    scores, edge = torch.rand(2, 8, 9), torch.rand(8, 9)
    plain, before = walk.random_walk(scores, edge), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with Operations() as seen, torch.autocast("cpu", torch.bfloat16):
            careless = walk.random_walk(scores, edge)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(plain, careless)
    assert {"mul", "sum", "index_select"} <= {name.rstrip("_") for name in seen.names}
    assert not {name for name in seen.names if any(word in name for word in ("mm", "matmul", "conv", "linear", "dot"))}
    assert seen.types == {torch.float32}


def test_boundaries_of_half_precision_walk_in_float32() -> None:
    edge = torch.tensor([[0.0, 0.5, 0.25]], dtype=torch.bfloat16)  # exact in both
    walked = walk.random_walk(torch.ones(1, 1, 3), edge)
    assert torch.equal(walked, walk.random_walk(torch.ones(1, 1, 3), edge.float()))


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


@pytest.mark.parametrize("exp_times", range(13))
def test_the_degree_grows_with_the_root_of_the_steps(exp_times: int) -> None:
    steps = 2**exp_times
    coefficients, complete = walk.chebyshev_coefficients(steps), walk.chebyshev_coefficients(steps, 0)
    assert sum(complete) == pytest.approx(1)
    assert sum(complete) - sum(coefficients) < walk.CHEBYSHEV_TAIL
    assert len(coefficients) - 1 <= min(steps, 4.6 * steps**0.5)
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    series = sum(c * torch.cos(k * torch.arccos(x)) for k, c in enumerate(coefficients))
    torch.testing.assert_close(series, x**steps, atol=walk.CHEBYSHEV_TAIL, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 12), st.floats(0.2, 20), st.integers(2, 6), st.integers(0, 99))
def test_the_expansion_is_the_exact_walk(exp_times: int, beta: float, radius: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    edge = torch.rand(11, 14, generator=generator, dtype=torch.float64) ** 2
    scores = torch.rand(2, 11, 14, generator=generator, dtype=torch.float64)
    exact = walk.random_walk(scores, edge, radius, beta, exp_times, "exact")
    torch.testing.assert_close(walk.random_walk(scores, edge, radius, beta, exp_times), exact, atol=1e-4, rtol=0)


def test_no_classes_walk_to_no_classes() -> None:
    assert walk.random_walk(torch.zeros(0, 5, 6), torch.zeros(5, 6)).shape == (0, 5, 6)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="chebyshev"):
        walk.propagate(torch.ones(1, 1, 1), walk.transition(torch.zeros(1, 1)), 1, "dense")  # type: ignore[arg-type]
