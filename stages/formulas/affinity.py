"""Affinities between nearby pixels, and the losses that teach them (IRN: Ahn et al., CVPR 2019, sections 4.2 to 4.5).

A pair is a source pixel and one of the offsets (dy,dx) within a radius. Its affinity is 1 - the highest
boundary probability met on the path between the two. Shapes: B images, H W the stride-4 grid, P offsets, h w
the grid of source pixels, which leaves out the margin where an offset would leave the map.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.formulas import VOID
from stages.formulas.seeds import strided_size

Offset = tuple[int, int]
LOG_EPS = 1e-5  # inside the logarithms of the affinity losses
COUNT_EPS = 1e-5  # added to a number of pairs: without pairs a term is 0
ORIGIN: Offset = (0, 0)
PAIRS_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}  # of a batch, in the losses: a CPU wants its caches, a GPU few long calls
NEITHER, BACKGROUND, FOREGROUND, DIFFERENT = 0, 1, 2, 3  # kinds of pairs
WEIGHTS = {  # of the terms in the total
    "bg_affinity": 0.25,
    "fg_affinity": 0.25,
    "neg_affinity": 0.5,
    "fg_displacement": 0.5,
    "bg_displacement": 0.5,
}


@cache
def offsets(radius: int) -> tuple[Offset, ...]:
    """Half of the offsets (dy,dx) nearer than RADIUS, shortest paths first (34 for 5, 152 for 10)."""
    ahead = [(0, dx) for dx in range(1, radius)]
    ahead += [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius) if dy * dy + dx * dx < radius**2]
    return tuple(sorted(ahead, key=lambda offset: len(path(offset))))


@cache
def path(offset: Offset) -> tuple[Offset, ...]:
    """Grid points within a pixel of the line from (0,0) to OFFSET, both ends included, the far end first."""
    dy, dx = offset
    box = [(y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1)]
    near = [(y, x) for y, x in box if (dx * y - dy * x) ** 2 < dy * dy + dx * dx]
    return tuple(sorted(near, key=lambda point: -abs(point[0]) - abs(point[1])))


@cache
def path_pieces(radius: int) -> dict[Offset, tuple[tuple[Offset, Offset], ...]]:
    """For every offset the shorter paths that make up its own, as (the piece's offset, where it starts).

    A path begins like a shorter one and ends like another: that of (2,3) is that of (1,1), and that of (1,1) from (1,2)
    on. So all but a few maxima are the larger of two known ones: 224 comparisons a pixel in place of 1,982 at radius 10.
    """
    shapes: dict[Offset, frozenset[Offset]] = {ORIGIN: frozenset([ORIGIN])}
    pieces: dict[Offset, tuple[tuple[Offset, Offset], ...]] = {}
    for offset in offsets(radius):
        whole, known = frozenset(path(offset)), []
        for piece, shape in shapes.items():
            for start in path(offset) if piece == ORIGIN else (ORIGIN, _sum(offset, piece, -1)):
                moved = frozenset(_sum(point, start) for point in shape)
                known += [(moved, piece, start)] if moved < whole else []
        missing, chosen = set(whole), []
        while missing:
            moved, piece, start = max(known, key=lambda candidate: len(candidate[0] & missing))
            chosen.append((piece, start))
            missing -= moved
        shapes[offset], pieces[offset] = whole, tuple(chosen)
    return pieces


def _sum(point: Offset, other: Offset, sign: int = 1) -> Offset:
    return point[0] + sign * other[0], point[1] + sign * other[1]


def source_window(maps: Tensor, radius: int, shift: Offset = (0, 0)) -> Tensor:
    """The part of maps (…,H,W) that the source pixels (…,h,w) see at SHIFT; h = H - (r-1), w = W - 2(r-1)."""
    margin, (dy, dx) = radius - 1, shift
    height, width = maps.shape[-2] - margin, maps.shape[-1] - 2 * margin
    if height <= 0 or width <= 0:
        raise ValueError(f"a map of {maps.shape[-2]}x{maps.shape[-1]} has no pairs of radius {radius}")
    return maps[..., dy : dy + height, margin + dx : margin + dx + width]


def path_maximum(values: Tensor, radius: int) -> Tensor:
    """Largest of VALUES (B,H,W) on the path of every pair → (B,P,h,w), each from those of shorter paths (`path_pieces`).

    Those are kept for all sources whose path stays on the map, in rows from 0 on and columns from LEFT on.
    """
    height, width = values.shape[-2:]
    rows, columns = source_window(values, radius).shape[-2:]
    known: dict[Offset, Tensor] = {ORIGIN: values}
    result = values.new_empty(len(values), len(offsets(radius)), rows, columns)
    for index, ((dy, dx), parts) in enumerate(path_pieces(radius).items()):
        left, views = max(-dx, 0), []
        for piece, (y, x) in parts:
            first = left + x - max(-piece[1], 0)
            views.append(known[piece][..., y : y + height - dy, first : first + width - abs(dx)])
        best = known[dy, dx] = torch.maximum(views[0], views[1])
        for view in views[2:]:
            torch.maximum(best, view, out=best)
        result[:, index] = best[..., :rows, radius - 1 - left :][..., :columns]
    return result


@torch.no_grad()
def pair_affinities(edge: Tensor, radius: int) -> Tensor:
    """1 - the largest boundary probability on each pair's path: edge (B,H,W) → (B,P,h,w). No gradient."""
    return path_maximum(edge, radius).neg_().add_(1)


def quarter_labels(labels: Tensor) -> Tensor:
    """Labels (B,H,W) uint8 → every fourth pixel's (B,H/4,W/4), nearest to the centre of its cell."""
    return nnf.interpolate(labels[:, None], strided_size(*labels.shape[-2:]), mode="nearest-exact")[:, 0]


def pair_labels(labels: Tensor, radius: int) -> Tensor:
    """Kind of every pair of labels (B,H,W) on the stride-4 grid → (B,P,h,w) uint8.

    BACKGROUND: both background; FOREGROUND: the same class; DIFFERENT: two labels; NEITHER: one of them is
    void.
    """
    source = source_window(labels, radius)
    kinds = labels.new_zeros(labels.shape[0], len(offsets(radius)), *source.shape[-2:], dtype=torch.uint8)
    same = torch.where(source == 0, BACKGROUND, FOREGROUND).to(torch.uint8)
    for index, step in enumerate(offsets(radius)):
        other = source_window(labels, radius, step)
        kind = torch.where(source == other, same, DIFFERENT)
        kinds[:, index] = kind.masked_fill_((source == VOID) | (other == VOID), NEITHER)
    return kinds


def affinity_losses(edge: Tensor, kinds: Tensor, radius: int) -> dict[str, Tensor]:
    """Mean -log(affinity) of equal pairs and -log(1 - affinity) of different ones, from edge (B,H,W) in [0,1].

    A pair's affinity depends on one pixel, the highest of its path, so a sum over millions of pairs is a sum
    over pixels, each times the number of pairs it decides. Only whole numbers are counted there, which also
    makes the gradient the same in every run. Equal to the sums over pairs, term by term.
    Keys: bg_affinity, fg_affinity, neg_affinity.
    """
    at_once = max(PAIRS_AT_ONCE.get(edge.device.type, 2**21) // max(kinds[0].numel(), 1), 1)
    parts = zip(edge.detach().split(at_once), kinds.split(at_once), strict=True)
    counts = torch.cat([_pairs_decided(*part, radius) for part in parts], 1)
    equal, unequal = -torch.log(1 - edge + LOG_EPS), -torch.log(edge + LOG_EPS)
    return {
        "bg_affinity": _mean(equal, counts[BACKGROUND]),
        "fg_affinity": _mean(equal, counts[FOREGROUND]),
        "neg_affinity": _mean(unequal, counts[DIFFERENT]),
    }


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    return (values * counts).sum() / (counts.sum() + COUNT_EPS)


def _pairs_decided(edge: Tensor, kinds: Tensor, radius: int) -> Tensor:
    """How many pairs of each kind have their highest boundary at each pixel: (4,B,H,W) in edge's type.

    The maximum is taken over ranks instead of values, because a rank also tells which pixel it came from.
    """
    shape, flat = edge.shape, edge.flatten()
    order = flat.argsort(stable=True)
    ranks = torch.empty_like(order, dtype=torch.int32)
    ranks[order] = torch.arange(len(order), dtype=torch.int32, device=edge.device)
    highest = path_maximum(ranks.view(shape), radius)
    slot = highest.add_(kinds, alpha=len(order))
    by_rank = torch.bincount(slot.flatten(), minlength=4 * len(order)).view(4, -1)
    counts = torch.empty_like(by_rank)
    counts[:, order] = by_rank
    return counts.view(4, *shape).to(edge.dtype)


class _DisplacementSums(torch.autograd.Function):
    """Sums of |d(source) - d(other) - wanted| over the pairs of one class and over those of background.

    Value and gradient are taken in one pass over the offsets, so that nothing of the size of all pairs is
    kept.
    """

    @staticmethod
    def forward(ctx, field: Tensor, kinds: Tensor, radius: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        sums = field.new_zeros(2)
        slopes = field.new_zeros(2, *field.shape)
        source = source_window(field, radius)
        for index, step in enumerate(offsets(radius)):
            difference = source - source_window(field, radius, step)
            wanted = field.new_tensor(step).view(1, 2, 1, 1)
            kind = kinds[:, index, None]
            for row, (pairs, error) in enumerate(((FOREGROUND, difference - wanted), (BACKGROUND, difference))):
                error = error.masked_fill_(kind != pairs, 0)
                sums[row] += error.abs().sum()
                slope = error.sign_()
                source_window(slopes[row], radius).add_(slope)
                source_window(slopes[row], radius, step).sub_(slope)
        ctx.save_for_backward(slopes)
        return sums[0], sums[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, fg_slope: Tensor, bg_slope: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (slopes,) = ctx.saved_tensors
        return fg_slope * slopes[0] + bg_slope * slopes[1], None, None


def displacement_losses(field: Tensor, kinds: Tensor, radius: int) -> dict[str, Tensor]:
    """Mean L1 error of displacement differences, field (B,2,H,W) in grid steps, channel 0 = y, 1 = x.

    Pairs of one class should differ by their offset, as both point at one centroid; pairs of background not at all.
    Keys: fg_displacement, bg_displacement.
    """
    fg_sum, bg_sum = _DisplacementSums.apply(field, kinds, radius)  # type: ignore[misc]
    fg_count, bg_count = ((kinds == kind).sum() for kind in (FOREGROUND, BACKGROUND))
    return {
        "fg_displacement": fg_sum / (2 * fg_count + COUNT_EPS),
        "bg_displacement": bg_sum / (2 * bg_count + COUNT_EPS),
    }


def irn_losses(edge_logits: Tensor, field: Tensor | None, labels: Tensor, radius: int) -> dict[str, Tensor]:
    """All named terms and their weighted sum "total" from logits (B,1,H,W), field (B,2,H,W), labels (B,H,W).

    total = (mean of bg and fg affinity + neg affinity) / 2 + (fg + bg displacement) / 2. Without a field the
    terms of affinity alone.
    """
    kinds = pair_labels(labels, radius)
    terms = affinity_losses(torch.sigmoid(edge_logits[:, 0]), kinds, radius)
    if field is not None:
        terms |= displacement_losses(field, kinds, radius)
    terms["total"] = torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
    return terms


def merge_edges(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Boundary probability (h,w) from logits (2,1,H,W) of an image and its mirror image, padded right and below.

    SIZE (h,w): the stride-4 size of the image. The padding is cropped before mirroring back; logits are
    averaged.
    """
    height, width = size
    plain, mirrored = logits[:, 0, :height, :width]
    return torch.sigmoid((plain + mirrored.flip(-1)) / 2)
