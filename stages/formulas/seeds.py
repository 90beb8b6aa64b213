"""Seeds from maps: scales and mirrored passes merged, normalised, fused, cut into labels (BAS, IJCV 2023, 5.1, 5.3 and 5.5).

Shapes: C present classes, h w the feature grid of one scale, H W the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

MAX_EPS = 1e-5  # added to a map's own maximum before the division, so that an empty map stays empty
SEED_STRIDE = 4  # grid of the seeds that the random walk reads
TRUNK_STRIDE = 16  # of maps that no other stride is stated of


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Size of an image of height x width (pixels) at SCALE, rounded half to even; at least one pixel a side."""
    return max(round(height * scale), 1), max(round(width * scale), 1)


def strided_size(height: int, width: int, stride: int = SEED_STRIDE) -> tuple[int, int]:
    """Size of the grid that holds every STRIDE-th pixel of an image, from its first."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def add_mirrored(pair: Tensor) -> Tensor:
    """Sum of the map of an image and the map of its mirror image, mirrored back: (2,C,h,w) → (C,h,w)."""
    return pair[0] + pair[1].flip(-1)


def merge_strided(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum maps of several scales (C,h_s,w_s) on the stride-4 grid of an image of SIZE (H,W) → (C,H/4,W/4) float32."""
    return _resized_sum(maps, strided_size(*size))


def merge_full(maps: Sequence[Tensor], size: tuple[int, int], stride: int = TRUNK_STRIDE) -> Tensor:
    """Sum maps of several scales (C,h_s,w_s) at the full SIZE (H,W) of the image → (C,H,W) float32.

    They are resized to whole steps of STRIDE, the network's between image and map, then cropped: pixels stay aligned.
    Give the present classes only: the others cost an upsampling each and change nothing.
    """
    height, width = size
    return _resized_sum(maps, padded_size(height, width, stride))[:, :height, :width]


def padded_size(height: int, width: int, stride: int = TRUNK_STRIDE) -> tuple[int, int]:
    """The size of an image filled up to whole steps of STRIDE."""
    rows, columns = strided_size(height, width, stride)
    return rows * stride, columns * stride


def box_around(region: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (ends excluded) of the box around a region (H,W) of true values, twice as large, in the image."""
    spans: list[int] = []
    for axis in (1, 0):
        places, limit = torch.nonzero(region.any(axis))[:, 0], region.shape[1 - axis]
        first, last = int(places[0]), int(places[-1]) + 1
        margin = (last - first + 1) // 2
        spans += [max(first - margin, 0), min(last + margin, limit)]
    top, bottom, left, right = spans
    return top, bottom, left, right


def _resized_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    total = maps[0].new_zeros((maps[0].shape[0], *size), dtype=torch.float32)
    for scale_map in maps:
        if scale_map.shape[0]:
            total += nnf.interpolate(scale_map[None].float(), size, mode="bilinear", align_corners=False)[0]
    return total


def cover(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (C,h,w) whose grid is laid over the image itself, at its full SIZE (H,W) → (C,H,W) float32."""
    if not len(maps):
        return maps.new_zeros((0, *size))
    return nnf.interpolate(maps[None].float(), size, mode="bilinear", align_corners=False)[0]


def thin(maps: Tensor, size: tuple[int, int], stride: int = SEED_STRIDE) -> Tensor:
    """Maps (C,h,w) whose grid is laid over an image of SIZE (H,W), on a grid not finer than every STRIDE-th pixel.

    Means over the cells of that grid, so that `cover` lays it over the image again; a coarser grid stays as it is.
    """
    height, width = (min(own, wanted) for own, wanted in zip(maps.shape[-2:], strided_size(*size, stride), strict=True))
    return nnf.interpolate(maps[None], (height, width), mode="area")[0]


def cover_strided(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The same maps at every 4th pixel of the image, from its first → (C,H/4,W/4) float32."""
    return cover(maps, size)[:, ::SEED_STRIDE, ::SEED_STRIDE]


def upsample_walked(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Random-walk maps (C,h,w) on the stride-4 grid → (C,H,W) in [0,1]: four times up, cropped, over the GLOBAL maximum."""
    return over_maximum(enlarge(maps, size)) if len(maps) else maps.new_zeros((0, *size))


def over_maximum(maps: Tensor) -> Tensor:
    """Maps over the largest value of them all; maps of zero stay so.

    One maximum for all classes keeps their order after the walk, where each class's own would lift a weak one.
    """
    return maps / maps.max().clamp_min(torch.finfo(maps.dtype).tiny)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (C,h,w) on the stride-4 grid, bilinearly at the SIZE (H,W) of the image → (C,H,W)."""
    height, width = size
    return nnf.interpolate(maps[None], scale_factor=SEED_STRIDE, mode="bilinear", align_corners=False)[0, :, :height, :width]


def normalise(maps: Tensor) -> Tensor:
    """Divide each map of (C,H,W) by (its own maximum + 1e-5). No minimum is taken away."""
    return maps / (maps.amax((-2, -1), keepdim=True) + MAX_EPS) if maps.shape[0] else maps


def add_seeds(kinds: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Combine kinds of maps, each (C,H,W): normalise all, add with WEIGHTS (1), normalise (section 5.3, Table 9)."""
    weights = weights or [1.0] * len(kinds)
    return normalise(torch.stack([weight * normalise(maps) for maps, weight in zip(kinds, weights, strict=True)]).sum(0))


def fuse(maps: Tensor, agnostic: Tensor, strategy: str) -> Tensor:
    """Hold class-specific maps (C,H,W) under the class-agnostic foreground map (1,H,W) (section 5.5, Table 13).

    Both normalised. Where a class map exceeds the foreground map, which should cover it, STRATEGY "replace" takes the
    foreground map's value and "average" the mean of both.
    """
    held = agnostic.expand_as(maps) if strategy == "replace" else (maps + agnostic) / 2
    return torch.where(maps > agnostic, held, maps)


def power(maps: Tensor, exponent: float) -> Tensor:
    """Raise maps to EXPONENT; above 1 it lowers weak responses before the random walk; negative values count as 0."""
    return maps.clamp_min(0) ** exponent


def label(maps: Tensor, thresholds: float | Sequence[float] | Tensor, classes: Sequence[int] | Tensor) -> Tensor:
    """Label map (H,W) uint8 from normalised maps (C,H,W): 0 background, class id + 1 elsewhere.

    A pixel takes the class of the largest (map - its threshold) if that is positive, else background.
    THRESHOLDS: one for all classes (a constant background plane) or one a class; CLASSES: the C ids, 0-based.
    """
    if not maps.shape[0]:
        return maps.new_zeros(maps.shape[1:], dtype=torch.uint8)
    limits = torch.as_tensor(thresholds, dtype=maps.dtype, device=maps.device).reshape(-1, 1, 1)
    best, index = (maps - limits).max(0)
    ids = torch.as_tensor(classes, device=maps.device).long() + 1
    return torch.where(best > 0, ids[index], 0).to(torch.uint8)
