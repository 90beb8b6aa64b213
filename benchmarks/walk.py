"""The random walk against the dense one: the N x N transition matrix squared eight times (IRN, CVPR 2019, section 5)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Measured
from stages.formulas import seeds, walk
from stages.formulas.affinity import offsets, pair_affinities

RADIUS, BETA, SQUARINGS = 5, 10.0, 8
SMALL, VOC, LARGE, HUGE = (47, 63), (94, 125), (133, 177), (512, 512)
THRESHOLD = 0.3
REL = 1e-4


def scene(size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Seeds of two classes (2,h,w) and boundary probabilities (h,w), both smooth, in [0,1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size[0] // 6, size[1] // 6, generator=generator)
    smooth = nnf.interpolate(coarse, size, mode="bicubic").clamp(0, 1)[0]
    return smooth[:2].clone(), smooth[2] ** 2


def dense_transition(edge: Tensor) -> Tensor:
    """T (N,N) of boundary probabilities (h,w): affinities to the power β, 1 on the diagonal, columns that sum to 1."""
    height, width = edge.shape
    margin = RADIUS - 1
    padded = nnf.pad(edge[None], (margin, margin, 0, margin), value=1.0)
    weights = pair_affinities(padded, RADIUS)[0].pow(BETA)
    matrix = torch.eye(height * width, dtype=edge.dtype, device=edge.device)
    places = torch.arange(height * width, device=edge.device).view(height, width)
    for (dy, dx), weight in zip(offsets(RADIUS), weights, strict=True):
        left, right = max(-dx, 0), min(width, width - dx)
        here = places[: height - dy, left:right].flatten()
        there = places[dy:, left + dx : right + dx].flatten()
        matrix[here, there] = matrix[there, here] = weight[: height - dy, left:right].flatten()
    return matrix / matrix.sum(0, keepdim=True)


def dense_walk(scores: Tensor, matrix: Tensor) -> Tensor:
    """scores (C,h,w) times T^256, by squaring T (N,N) eight times."""
    for _ in range(SQUARINGS):
        matrix = matrix @ matrix
    return (scores.flatten(1) @ matrix).view(scores.shape)


def _agree(found: Tensor, expected: Tensor) -> dict[str, Any]:
    """Raise Unequal on an error above REL of the maximum or on a changed label; returns both figures."""
    error = float((found - expected).abs().max() / expected.abs().max())
    labels = [seeds.label((maps / maps.max()).float(), THRESHOLD, [0, 1]) for maps in (found, expected)]
    flips = int((labels[0] != labels[1]).sum())
    measure.require_equal(error <= REL and flips == 0, f"rel {error:.1e}, {flips} labels changed")
    return {"rel": error, "label_flips": flips}


def small() -> Measured:
    """47 x 63: T given to both sides, and once more with its construction."""
    scores, edge = scene(SMALL)
    kept, matrix, ours = scores * (1 - edge), dense_transition(edge), walk.transition(edge, RADIUS, BETA)
    agreed = _agree(walk.propagate(kept, ours, 2**SQUARINGS), dense_walk(kept, matrix))
    given = measure.in_turns(lambda: dense_walk(kept, matrix), lambda: walk.propagate(kept, ours, 2**SQUARINGS))
    built = measure.in_turns(lambda: dense_walk(kept, dense_transition(edge)), lambda: walk.random_walk(scores, edge))
    return given.against(400, {"grid": SMALL, "classes": 2}, ratio_with_construction=built.ratio, **agreed)


def voc() -> Measured:
    """94 x 125: against one squaring of the dense matrix, counted eight times."""
    scores, edge = scene(VOC)
    kept, ours = scores * (1 - edge), walk.transition(edge, RADIUS, BETA)
    exact = walk.random_walk(scores.double(), edge.double(), method="exact")
    agreed = _agree(walk.propagate(kept, ours, 2**SQUARINGS), exact)
    matrix = dense_transition(edge)
    two_steps = (kept.flatten(1) @ matrix @ matrix).view(kept.shape)
    _agree(walk.propagate(kept, ours, 2, "exact"), two_steps)
    given = measure.in_turns(lambda: matrix @ matrix, lambda: walk.propagate(kept, ours, 2**SQUARINGS))
    built = measure.in_turns(lambda: dense_transition(edge), lambda: walk.random_walk(scores, edge))
    whole = (SQUARINGS * given.reference_seconds + built.reference_seconds) / built.seconds
    sizes = {"grid": VOC, "classes": 2, "squarings_timed": 1}
    return given.repeated(SQUARINGS).against(4000, sizes, ratio_with_construction=whole, **agreed)


def memory() -> Measured:
    """What a walk at 94 x 125 adds to a fresh process that has walked on a small grid before."""
    added = measure.in_fresh_process(_added_memory)
    return Measured(None, added <= 32, added, "MB", sizes={"grid": VOC, "classes": 2})


def _added_memory() -> float:
    walk.random_walk(*scene((12, 12)))
    scores, edge = scene(VOC)
    measure.reset_peak_memory()
    before = measure.peak_memory_mb()
    walk.random_walk(scores, edge)
    return measure.peak_memory_mb() - before


def large() -> Measured:
    """An image of 2048 x 2048 on one thread in a fresh process, transition and all; its peak memory is the whole process's."""
    figures = measure.in_fresh_process(_large)
    met = figures["wall"] <= 60 and figures["peak_mb"] <= 1024
    sizes = {"image": [4 * side for side in HUGE], "grid": HUGE, "classes": 2}
    extra = {"peak_mb": figures["peak_mb"], "mb_before": figures["before"], "cpu_seconds": figures["own"]}
    return Measured(None, met, figures["wall"], "s", sizes=sizes, extra=extra)


def _large() -> dict[str, float]:
    walk.random_walk(*scene((12, 12)))
    before, walker, turns = measure.peak_memory_mb(), _walker(HUGE), []
    for _ in range(measure.REPEATS):
        wall, own = time.perf_counter(), time.process_time()
        walker()
        turns.append((time.perf_counter() - wall, time.process_time() - own))
    wall, own = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    return {"wall": wall, "own": own, "peak_mb": measure.peak_memory_mb(), "before": before}


def scale() -> Measured:
    """The exponent of the walk's seconds in the number of pixels, from 47 x 63 to 133 x 177."""
    few, many = _walker(SMALL), _walker(LARGE)
    pair = measure.in_turns(many, few)
    growth = math.log(math.prod(LARGE) / math.prod(SMALL))
    exponent, own = math.log(pair.ratio) / growth, math.log(pair.cpu_ratio) / growth
    sizes = {"grids": [SMALL, LARGE], "classes": 2}
    return Measured(
        None,
        exponent <= 1.1,
        exponent,
        "exponent",
        sizes=sizes,
        extra={"seconds": [pair.seconds, pair.reference_seconds], "cpu_exponent": own},
    )


def _walker(size: tuple[int, int]) -> Callable[[], Tensor]:
    scores, edge = scene(size)
    return lambda: walk.random_walk(scores, edge)


def gpu() -> Measured:
    """16 images of 47 x 63 on a GPU as one batch, float32 without TF32 on both sides: T given, and with its construction."""
    wait = measure.cuda()
    torch.backends.cuda.matmul.allow_tf32 = False
    return many_at_once(torch.device("cuda"), SMALL, 16, wait)


def many_at_once(device: torch.device, size: tuple[int, int], images: int, wait: measure.Work = lambda: None) -> Measured:
    """IMAGES scenes of SIZE: a dense walk of one after another against one walk of all."""
    scores, edges = zip(*([part.to(device) for part in scene(size, seed)] for seed in range(images)), strict=True)
    kept = [maps * (1 - edge) for maps, edge in zip(scores, edges, strict=True)]
    dense = [dense_transition(edge) for edge in edges]
    ours = walk.transition(torch.cat([_walled(edge, 1.0) for edge in edges]), RADIUS, BETA)
    tall = torch.cat([_walled(maps, 0.0) for maps in kept], 1)

    def product() -> Tensor:
        return walk.propagate(tall, ours, 2**SQUARINGS)

    def reference() -> list[Tensor]:
        return [dense_walk(maps, matrix) for maps, matrix in zip(kept, dense, strict=True)]

    def built() -> list[Tensor]:
        return [dense_walk(maps, dense_transition(edge)) for maps, edge in zip(kept, edges, strict=True)]

    alone = [maps[:, :-1] for maps in product().split(size[0] + 1, dim=1)]
    batch = walk.random_walk_batch(scores, edges, RADIUS, BETA, SQUARINGS)
    agreed = [_agree(found, expected) for side in (alone, batch) for found, expected in zip(side, reference(), strict=True)]
    worst = max(agreed, key=lambda figures: figures["rel"])
    given = measure.in_turns(reference, product, wait=wait)
    whole = measure.in_turns(built, lambda: walk.random_walk_batch(scores, edges, RADIUS, BETA, SQUARINGS), wait=wait)
    sizes = {"grid": size, "images": images, "classes": 2}
    return given.against(100, sizes, ratio_with_construction=whole.ratio, **worst)


def _walled(maps: Tensor, wall: float) -> Tensor:
    """Maps (…,h,w) with a row of WALL below: images that lie under one another are then apart."""
    return nnf.pad(maps, (0, 0, 0, 1), value=wall)
