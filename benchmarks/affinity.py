"""The affinity losses of IRN's training (IRN, CVPR 2019, section 4) against every pair's path gathered and kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Measured
from stages.formulas import affinity

RADIUS, GRID, IMAGES = 10, (128, 128), 2  # crops of 512 pixels
REL = 1e-5

Losses = Callable[[Tensor, Tensor], Tensor]


def batch(images: int = IMAGES, grid: tuple[int, int] = GRID) -> tuple[Tensor, Tensor]:
    """Boundary logits (B,H,W) and the kinds (B,P,h,w) of pairs of three labels in blocks of eight pixels."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 3, (images, grid[0] // 8, grid[1] // 8), generator=generator, dtype=torch.uint8)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return torch.randn(images, *grid, generator=generator), affinity.pair_labels(labels, RADIUS)


def gathered(logits: Tensor, kinds: Tensor) -> Tensor:
    """The weighted sum of the three terms, the boundary of every point of every path gathered, autograd doing the rest."""
    edge = torch.sigmoid(logits)
    points = torch.arange(edge[0].numel()).view(edge.shape[1:])
    maxima = []
    for _, steps in groupby(affinity.offsets(RADIUS), key=lambda step: len(affinity.path(step))):
        windows = [[affinity.source_window(points, RADIUS, point) for point in affinity.path(step)] for step in steps]
        index = torch.stack([torch.stack(window) for window in windows])  # (offsets, points of the path, h, w)
        maxima.append(edge.flatten(1)[:, index].amax(2))
    pairs = 1 - torch.cat(maxima, 1)
    equal, unequal = -torch.log(pairs + affinity.LOG_EPS), -torch.log(1 + affinity.LOG_EPS - pairs)
    total = logits.new_zeros(())
    kind_of = {affinity.BACKGROUND: equal, affinity.FOREGROUND: equal, affinity.DIFFERENT: unequal}
    for name, (kind, values) in zip(affinity.WEIGHTS, kind_of.items(), strict=False):
        chosen = (kinds == kind).to(values)
        total = total + affinity.WEIGHTS[name] * (values * chosen).sum() / (chosen.sum() + affinity.COUNT_EPS)
    return total


def product(logits: Tensor, kinds: Tensor) -> Tensor:
    """The same by our own losses."""
    terms = affinity.affinity_losses(torch.sigmoid(logits), kinds, RADIUS)
    return torch.stack([affinity.WEIGHTS[name] * value for name, value in terms.items()]).sum()


def gradient(losses: Losses, logits: Tensor, kinds: Tensor) -> Tensor:
    """One pass forwards and backwards."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(losses(leaf, kinds), leaf)[0]


def paths() -> Measured:
    """Two crops of 512 pixels at radius 10, forwards and backwards; memory of either side in a process of its own."""
    logits, kinds = batch()
    value, expected = product(logits, kinds), gathered(logits, kinds)
    slopes = [gradient(losses, logits, kinds) for losses in (product, gathered)]
    error = float((slopes[0] - slopes[1]).abs().max() / slopes[1].abs().max())
    equal = abs(float(value - expected)) <= REL * float(expected) and error <= REL
    measure.require_equal(equal, f"losses {float(value)}, {float(expected)}; gradients differ by {error:.1e} of the largest")
    added, reference = (measure.in_fresh_process(_added_memory, name) for name in ("product", "gathered"))
    pair = measure.in_turns(lambda: gradient(gathered, logits, kinds), lambda: gradient(product, logits, kinds))
    extra = {"cpu_ratio": pair.cpu_ratio, "mb": added, "reference_mb": reference, "memory_ratio": reference / added, "rel": error}
    met = pair.ratio >= 3 and reference >= 8 * added
    sizes = {"grid": GRID, "images": IMAGES, "radius": RADIUS}
    return Measured(pair.ratio, met, pair.seconds, "s", pair.reference_seconds, sizes, extra)


def _added_memory(name: str) -> float:
    """What one pass at full size adds to a process that has done a small one."""
    losses: Losses = {"product": product, "gathered": gathered}[name]
    gradient(losses, *batch(1, (16, 24)))
    logits, kinds = batch()
    measure.reset_peak_memory()
    before = measure.peak_memory_mb()
    gradient(losses, logits, kinds)
    return measure.peak_memory_mb() - before
