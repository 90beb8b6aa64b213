"""Instances from class maps and a displacement field (IRN: Ahn et al., CVPR 2019, section 5).

A displacement says how far and where the centre of a pixel's object lies. Pixels that end near one centre when they follow
the field are one group; a class map cut to a group and spread by the random walk is one instance of that class, and where
several want a pixel, the strongest has it. Shapes: P present classes, M channels (a class in a group), h w the stride-4
grid, H W the image. Fields (2,h,w) are in steps of that grid, channel 0 = y, 1 = x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from stages.formulas.seeds import enlarge, over_maximum

Rule = Literal["max", "mean"]
STILL = 1e-3  # grid steps: where no pixel moves further, all have arrived


class Instance(NamedTuple):
    """One object: its class id, its pixels (H,W), and its score, of the walked ones among them."""

    label: int
    mask: NDArray[np.bool_]
    score: float


class Contest(NamedTuple):
    """Which channel has each pixel of the image, counted from 1 (0: background), and with what score; both (H,W)."""

    owner: Tensor
    score: Tensor


def end_points(field: Tensor, steps: int = 300) -> Tensor:
    """Where each pixel ends that follows the field (2,h,w) for at most STEPS steps: (2,h,w), held inside the grid.

    This is the paper's iterative refinement of a displacement, d(x) + d(x + d(x)) and so on, in terms of the place that
    it points at: between pixels the field is bilinear.
    """
    sides = field.new_tensor(field.shape[1:]).view(2, 1, 1) - 1
    lines = [torch.arange(side, dtype=field.dtype, device=field.device) for side in field.shape[1:]]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    for _ in range(steps):
        moved = torch.minimum((points + _at(field, points, sides)).clamp_min(0), sides)
        arrived = bool((moved - points).abs().max() < STILL)
        points = moved
        if arrived:
            break
    return points


def _at(field: Tensor, points: Tensor, sides: Tensor) -> Tensor:
    """The field at points (2,h,w) between its pixels, bilinearly; SIDES (2,1,1): the last row and column."""
    places = 2 * points / sides.clamp_min(1) - 1
    grid = places.flip(0).permute(1, 2, 0)[None]  # grid_sample wants x before y
    return nnf.grid_sample(field[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def centroids(field: Tensor, reach: float = 2.5) -> NDArray[np.int32]:
    """The centres of objects numbered from 1 (h,w), else 0: pixels connected by their sides, displaced by less than REACH."""
    near = field.square().sum(0).sqrt() < reach
    return _pieces(near.cpu().numpy())[0]


def _pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The pieces of a mask whose pixels touch by their sides, numbered from 1, and how many there are."""
    found: Any = ndimage.label(mask)
    return found


def groups(field: Tensor, reach: float = 2.5, steps: int = 300) -> NDArray[np.int32]:
    """For each pixel (h,w) the number of the centre at which it ends, in the field (2,h,w); 0 where it ends at none.

    Numbers run from 1 without gaps, so the largest is the number of instances there may be.
    """
    y, x = end_points(field, steps).round().long().cpu().numpy()
    reached = centroids(field, reach)[y, x]
    kept = np.unique(reached[reached > 0])
    return np.where(reached > 0, np.searchsorted(kept, reached) + 1, 0).astype(np.int32)


def split(maps: Tensor, grouped: NDArray[np.int32]) -> tuple[Tensor, list[int]]:
    """Class maps (P,h,w) cut to each group (h,w) → channels (M,h,w) and the row of the class map of each.

    Pixels that belong to no centre are a group of their own, as in the public code: a class whose centre is not
    found keeps its mask. Channels without any score are left out.
    """
    numbers = torch.from_numpy(np.unique(grouped)).to(maps.device)
    inside = torch.from_numpy(grouped).to(maps.device) == numbers.view(-1, 1, 1)
    channels = (maps[:, None] * inside).flatten(0, 1)
    kept = channels.amax((-2, -1)) > 0
    rows = torch.arange(len(maps), device=maps.device).repeat_interleave(len(numbers))
    return channels[kept], rows[kept].tolist()


def contest(walked: Tensor, size: tuple[int, int], threshold: float) -> Contest:
    """Who has each pixel of an image of SIZE (H,W): the channel of walked maps (M,h,w) that is largest there.

    Scores are divided by the largest of all; up to THRESHOLD a pixel is background. Channels are enlarged one by one, so
    that memory does not grow with their number.
    """
    best, owner = walked.new_zeros(size), torch.zeros(size, dtype=torch.int32, device=walked.device)
    for number, channel in enumerate(walked, start=1):
        score = enlarge(channel[None], size)[0]
        owner.masked_fill_(score > best, number)
        best = torch.maximum(best, score)
    share = over_maximum(best)
    return Contest(owner.masked_fill_(share <= threshold, 0), share)


def instances(result: Contest, labels: Sequence[int], least: float, rule: Rule = "max") -> list[Instance]:
    """The connected pieces, by their sides, of what each channel has, if they have LEAST pixels; the highest score first.

    LABELS: the class id of each channel. RULE: whether an instance has the largest score of its pixels, as in the paper, or
    their mean, which tells the best instances of two images apart: the largest is 1 in every image.
    """
    owner, share = result.owner.cpu().numpy(), result.score.cpu().numpy()
    found = []
    for number, (label, box) in enumerate(zip(labels, ndimage.find_objects(owner, len(labels)), strict=True), start=1):
        pieces, count = _pieces(owner[box] == number) if box is not None else (owner, 0)
        for piece in range(1, count + 1):
            mask = np.zeros(owner.shape, bool)
            mask[box] = pieces == piece
            if mask.sum() >= least:
                found.append(Instance(label, mask, float(getattr(share[mask], rule)())))
    return sorted(found, key=lambda one: -one.score)
