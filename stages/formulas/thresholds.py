"""Image-specific thresholds without labels of pixels (BAS, IJCV 2023, section 5.5 and Fig. 22).

A map is cut at K thresholds; each mask is judged by the BAS network itself, score = L_bas + L_ac (Eq. 3 and 4), and the
threshold of the lowest score is taken. What the paper leaves open: the maps are resized bilinearly to the features of
scale 1, and F2 runs frozen in evaluation mode.

Two things make the search cheaper than K forward passes a map and change nothing in what it finds: identical masks, of
whatever map, are judged once; and as L_bas is never negative, a mask whose area alone exceeds a map's best score is not
judged for it. Shapes: M maps (of any source, each of one class), C classes, K thresholds, J distinct masks, h w the
feature grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.formulas.bas import Judge, background_activation_suppression

NEGLIGIBLE = 7.0  # temperatures above the lowest score, at which a threshold weighs a thousandth


def grid(count: int) -> Tensor:
    """COUNT thresholds (K,) in the middle of equal steps of [0,1]."""
    return (torch.arange(count) + 0.5) / count


def masks_at(maps: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Tensor:
    """Binary masks (M,K,h,w) of normalised maps (M,H,W) resized to the feature grid SIZE, one a threshold."""
    small = nnf.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)
    return small > thresholds.to(small.device)[:, None, None]


def scores(masks: Tensor, classes: Tensor, logits: Tensor, judge: Judge, at_once: int, margin: float = 0.0) -> Tensor:
    """L_bas + L_ac (M,K) of binary masks (M,K,h,w); infinite where the area alone rules a mask out.

    classes (M,): whose activation counts for each map; logits (C,): S of the unmasked features; AT_ONCE: masks a call of
    JUDGE. They are judged from the smallest up, so that the best score so far, and MARGIN, spare the largest.
    """
    distinct, place, area = _distinct(masks)
    background = logits.new_zeros(len(distinct), len(logits))
    judged = torch.zeros(len(distinct), dtype=torch.bool, device=masks.device)
    values = torch.full_like(area, torch.inf)
    while True:
        wanted = ~judged[place] & (area <= values.amin(1, keepdim=True) + margin)
        if not wanted.any():
            return values
        rows = place[wanted].unique()[:at_once]
        background[rows] = judge(distinct[rows][:, None].float()).to(background)
        judged[rows] = True
        suppression = background_activation_suppression(logits[classes][:, None], background[place, classes[:, None]])
        values = torch.where(judged[place], suppression + area, torch.inf)


def _distinct(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (M,K,h,w) → the distinct ones (J,h,w) from the smallest up, each one's place among them and its area (M,K)."""
    distinct, place = masks.flatten(0, 1).unique(dim=0, return_inverse=True)
    area, order = distinct.float().mean(dim=(1, 2)).sort(stable=True)
    place = order.argsort()[place].view(masks.shape[:2])
    return distinct[order], place, area[place]


def search(
    maps: Tensor,
    classes: Tensor,
    count: int,
    size: tuple[int, int],
    logits: Tensor,
    judge: Judge,
    at_once: int,
    temperature: float = 0.0,
) -> list[float | None]:
    """The threshold of the lowest score of each normalised map (M,H,W), None where S ≤ 0 and nothing can be judged.

    classes (M,) ids, logits (C,), JUDGE and AT_ONCE as in `scores`; COUNT thresholds on the feature grid SIZE; for
    TEMPERATURE see `pick`.
    """
    found: list[float | None] = [None] * len(maps)
    judgeable = torch.nonzero(logits[classes] > 0)[:, 0]
    if not len(judgeable):
        return found
    masks = masks_at(maps[judgeable], grid(count), size)
    values = scores(masks, classes[judgeable], logits, judge, at_once, NEGLIGIBLE * temperature).cpu()
    for index, row in zip(judgeable.tolist(), values, strict=True):
        found[index] = pick(row, temperature)
    return found


def pick(values: Tensor, temperature: float = 0.0) -> float:
    """The threshold that the scores (K,) of the grid's masks speak for.

    The paper's: that of the lowest score; of equal ones the middle, as a run of thresholds gives the same mask. With a
    TEMPERATURE (ours) the mean of all thresholds, each weighted by exp(-score / temperature): where the scores differ by
    little, they do not tell the masks apart, and the lowest one is chance.
    """
    thresholds = grid(len(values))
    if temperature > 0:
        return float((torch.softmax(-values / temperature, 0) * thresholds).sum())
    best = torch.nonzero(values == values.min())[:, 0]
    return float(thresholds[best[len(best) // 2]])
