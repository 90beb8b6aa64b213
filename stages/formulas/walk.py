"""Boundary-aware random walk of seeds (IRN: Ahn et al., CVPR 2019, section 5), by sparse products only.

With W the affinities to the power beta (1 on the diagonal) and D its column sums, one step multiplies a row
of class scores from the right by T = W D^-1. W has one diagonal for every offset within the radius, both
ways, so it is kept as diagonals: 69 numbers a pixel at radius 5, and a product is 69 shifted multiply-adds.
No matrix of N x N is ever made, and sizes need no padding. All arithmetic is element-wise, in float32 at least:
there is no matrix product that TF32 or autocast could round. Shapes: C classes, h w the stride-4 grid, N = h·w,
K diagonals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from scipy import sparse
from torch import Tensor

from stages.formulas.affinity import offsets, pair_affinities

Method = Literal["exact", "chebyshev"]
CHEBYSHEV_TAIL = 1e-5  # the expansion's dropped coefficients add up to less than this share of the largest score
POINTS_AT_ONCE = 2**19  # of the grid on which images walk together: 32 photographs of 375 x 500, but not 32 of 2048 x 2048
GATHERED_AT_ONCE = 2**27  # numbers that one gather brings together: instances may be hundreds of rows


@dataclass(frozen=True)
class Transition:
    """W of one image as diagonals: weights (K,N), weights[k,i] = W[i, i + shifts[k]], but 0 where shifts[0] = 0 has 1s.

    flow (N): their sum at each pixel, so D = 1 + flow. Kept apart because a pixel behind strong boundaries
    has a flow near 1e-7, which the rounding of 1 + flow would lose 256 times over.
    """

    weights: Tensor
    shifts: tuple[int, ...]
    flow: Tensor
    size: tuple[int, int]


@torch.no_grad()
def transition(edge: Tensor, radius: int = 5, beta: float = 10) -> Transition:
    """Affinities^beta between all pixels nearer than RADIUS, from boundary probabilities edge (h,w) of any size."""
    height, width = edge.shape
    margin = radius - 1
    walled = nnf.pad(edge[None], (margin, margin, 0, margin), value=1.0)  # nothing flows to pixels beyond the image
    ahead = pair_affinities(walled, radius)[0].pow(beta).flatten(1)  # (P,N)
    rows = {0: edge.new_zeros(height * width)}
    for (dy, dx), weight in zip(offsets(radius), ahead, strict=True):
        shift = dy * width + dx
        if dy < height and abs(dx) < width:
            _add_row(rows, shift, weight)
            _add_row(rows, -shift, _shifted(weight, -shift))
    weights = torch.stack(list(rows.values()))
    return Transition(weights, tuple(rows), weights.sum(0), (height, width))


def _add_row(rows: dict[int, Tensor], shift: int, weight: Tensor) -> None:
    """In a map narrower than the window two offsets share one diagonal, each zero where the other has values."""
    rows[shift] = rows[shift] + weight if shift in rows else weight


@torch.no_grad()
def propagate(scores: Tensor, matrix: Transition, steps: int, method: Method = "chebyshev") -> Tensor:
    """scores (C,h,w) times T^steps. "exact": one product a step; "chebyshev": the same to about 1e-5 of the maximum.

    The expansion needs about 72 products for 256 steps (see `chebyshev_coefficients`).
    """
    flat = scores.flatten(1).to(matrix.weights)
    if method == "exact":
        flat = _stepwise(flat, matrix, steps)
    elif method == "chebyshev":
        flat = _chebyshev(flat, matrix, steps)
    else:
        raise ValueError(f"method must be 'exact' or 'chebyshev', not {method!r}")
    return flat.view(scores.shape)


def _stepwise(flat: Tensor, matrix: Transition, steps: int) -> Tensor:
    """x T = (x + x V) / (1 + flow), V = W without its diagonal, written as x + the change so that rounding is
    small.
    """
    share = 1 / (1 + matrix.flow)
    change = _change(matrix.weights, matrix.shifts, matrix.flow)
    for _ in range(steps):
        flat = flat + change(flat) * share
    return flat


def _chebyshev(flat: Tensor, matrix: Transition, steps: int) -> Tensor:
    """x T^s = (x D^1/2) S^s D^-1/2 with S = D^-1/2 W D^-1/2, symmetric and of spectrum in [-1,1]."""
    root = (1 + matrix.flow).sqrt()
    inverse = 1 / root
    far = torch.stack([_shifted(inverse, shift) for shift in matrix.shifts])
    change = _change(matrix.weights * inverse * far, matrix.shifts, matrix.flow / (1 + matrix.flow))  # x (S - 1)
    coefficients = chebyshev_coefficients(steps)
    before = flat * root
    now = before + change(before)
    total = coefficients[0] * before
    if len(coefficients) > 1:
        total += coefficients[1] * now
    for coefficient in coefficients[2:]:
        before, now = now, (now + change(now)).mul_(2).sub_(before)
        if coefficient:
            total.add_(now, alpha=coefficient)
    return total * inverse


def _shifted(values: Tensor, shift: int) -> Tensor:
    """values[i + shift], 0 where that lies outside: (N) → (N)."""
    return nnf.pad(values, (max(-shift, 0), max(shift, 0)))[max(shift, 0) :][: len(values)]


@cache
def chebyshev_coefficients(steps: int, tail: float = CHEBYSHEV_TAIL) -> tuple[float, ...]:
    """c_k of x^steps = sum of c_k T_k(x), cut where the rest adds up to less than TAIL (0 keeps all).

    c_k = 2^(1-s) binom(s, (s-k)/2) where s - k is even, else 0, and half of that for k = 0. They are positive
    and sum to 1: the chances that s fair coin steps end at distance k, hence the cut near 4.5 standard
    deviations: degree 70 for 2^8 steps, 282 for 2^12.
    """
    coefficients = [0.0] * (steps + 1)
    coefficient = math.comb(steps, steps // 2) / 2**steps * 2
    for k in range(steps % 2, steps + 1, 2):
        coefficients[k] = coefficient if k else coefficient / 2
        coefficient *= (steps - k) / (steps + k + 2)
    left = 0.0
    for degree in range(steps, -1, -1):
        left += coefficients[degree]
        if left >= tail:
            return tuple(coefficients[: degree + 1])
    return tuple(coefficients)


def _change(weights: Tensor, shifts: Sequence[int], loss: Tensor) -> Callable[[Tensor], Tensor]:
    """What each pixel gains from its neighbours less the share that it loses: the product with -loss as diagonal."""
    return _product(torch.cat([-loss[None], weights[1:]]), shifts)


def _product(weights: Tensor, shifts: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Rows x (C,N) → x A for the symmetric A with A[i, i + shifts[k]] = weights[k,i].

    On a CPU scipy's diagonal format is the fastest of those tried (C = 2, 47x63, one thread: .07 ms; torch
    CSR .13, scipy CSR .21, sliced tensors .43); elsewhere one gather, a multiplication and a sum.
    """
    if weights.device.type == "cpu":
        return _product_by_diagonals(weights, shifts)
    return _product_by_gather(weights, shifts)


def _product_by_diagonals(weights: Tensor, shifts: Sequence[int]) -> Callable[[Tensor], Tensor]:
    count = weights.shape[1]
    # scipy stores a diagonal by columns, ours is by rows: that of the transpose, here the same matrix
    diagonals = sparse.dia_array((weights.numpy(), [-shift for shift in shifts]), shape=(count, count))

    def multiply(x: Tensor) -> Tensor:
        result = np.empty_like(x.numpy())
        for index, row in enumerate(x.numpy()):
            result[index] = diagonals @ row
        return torch.from_numpy(result)

    return multiply


def _product_by_gather(weights: Tensor, shifts: Sequence[int]) -> Callable[[Tensor], Tensor]:
    count, reach = weights.shape[1], max(abs(shift) for shift in shifts)
    pixels = torch.arange(count, dtype=torch.int32, device=weights.device)
    index = (torch.tensor(shifts, dtype=torch.int32, device=weights.device)[:, None] + pixels + reach).flatten()

    rows_at_once = max(GATHERED_AT_ONCE // weights.numel(), 1)

    def gathered(x: Tensor) -> Tensor:
        neighbours = nnf.pad(x, (reach, reach)).index_select(1, index).view(len(x), *weights.shape)
        return neighbours.mul_(weights).sum(1)

    def multiply(x: Tensor) -> Tensor:
        return torch.cat([gathered(rows) for rows in x.split(rows_at_once)])

    return multiply


def random_walk(
    scores: Tensor,
    edge: Tensor,
    radius: int = 5,
    beta: float = 10,
    exp_times: int = 8,
    method: Method = "chebyshev",
) -> Tensor:
    """Seeds (C,h,w) times (1 - edge), spread by T^(2^exp_times) of boundary probabilities edge (h,w) → (C,h,w).

    Works in the precision of EDGE, and in float32 where that is a shorter one.
    """
    edge = edge.to(torch.promote_types(edge.dtype, torch.float32))
    kept = scores.to(edge) * (1 - edge)
    return propagate(kept, transition(edge, radius, beta), 2**exp_times, method)


def random_walk_batch(
    scores: Sequence[Tensor],
    edges: Sequence[Tensor],
    radius: int = 5,
    beta: float = 10,
    exp_times: int = 8,
    method: Method = "chebyshev",
) -> list[Tensor]:
    """`random_walk` of several images at once, seeds (C_i,h_i,w_i) and edges (h_i,w_i) of any sizes → [(C_i,h_i,w_i)].

    This is what a GPU wants; a CPU gains nothing by it.
    """
    walker = partial(random_walk, radius=radius, beta=beta, exp_times=exp_times, method=method)
    return [walked for part in _together(edges) for walked in _on_one_grid(walker, scores[part], edges[part])]


def _together(edges: Sequence[Tensor]) -> Iterator[slice]:
    """Neighbours in the list that lie on one grid of up to POINTS_AT_ONCE: photographs of any size share a GPU's memory."""
    first = rows = columns = 0
    for index, edge in enumerate(edges):
        height, width = edge.shape
        rows, columns = rows + height + 1, max(columns, width)
        if index > first and rows * columns > POINTS_AT_ONCE:
            yield slice(first, index)
            first, rows, columns = index, height + 1, width
    yield slice(first, len(edges))


def _on_one_grid(walker: Callable[[Tensor, Tensor], Tensor], scores: Sequence[Tensor], edges: Sequence[Tensor]) -> list[Tensor]:
    """Images under one another, a row of walls (boundary 1) below each and walls beside the narrow ones.

    No affinity crosses a wall, so T has one block an image, and each walks as it would alone.
    """
    if len(edges) < 2:
        return [walker(*image) for image in zip(scores, edges, strict=True)]
    tops = list(accumulate((edge.shape[0] + 1 for edge in edges), initial=0))
    tall = edges[0].new_ones(tops[-1], max(edge.shape[1] for edge in edges))
    planes = tall.new_zeros(max(map(len, scores)), *tall.shape)
    places = []
    for top, seeds, edge in zip(tops, scores, edges, strict=False):
        rows, columns = slice(top, top + edge.shape[0]), slice(edge.shape[1])
        places.append((slice(len(seeds)), rows, columns))
        tall[rows, columns], planes[places[-1]] = edge, seeds.to(planes)
    walked = walker(planes, tall)
    return [walked[place].clone() for place in places]
