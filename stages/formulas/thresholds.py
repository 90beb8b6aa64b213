"""Image-specific thresholds without labels of pixels (BAS, IJCV 2023, section 5.5 and Fig. 22).

A map is cut at K thresholds; each mask is judged by the BAS network itself, score = L_bas + L_ac (Eq. 3 and 4), and the
threshold of the lowest score is taken. What the paper leaves open: the maps are resized bilinearly to the features of
scale 1, F2 runs frozen in evaluation mode, identical masks are judged once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.formulas.bas import area_constraint, background_activation_suppression


def grid(count: int) -> Tensor:
    """COUNT thresholds (K,) in the middle of equal steps of [0,1]."""
    return (torch.arange(count) + 0.5) / count


def masks_at(score_map: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Tensor:
    """Binary masks (K,1,h,w) of a normalised map (H,W) resized to the feature grid SIZE, one a threshold."""
    small = nnf.interpolate(score_map[None, None].float(), size, mode="bilinear", align_corners=False)[0]
    return (small > thresholds.to(small.device)[:, None, None]).float()[:, None]


def scores(masks: Tensor, score: Tensor, background_logit: Callable[[Tensor], Tensor]) -> Tensor:
    """L_bas + L_ac of binary masks (K,1,h,w), identical ones judged once → (K,).

    score: S of the unmasked features, a scalar; background_logit: masks (J,1,h,w) → logit (J,) of the features times
    (1 - mask).
    """
    area = area_constraint(masks)
    # Masks of one map are nested, so equal area means equal mask.
    distinct, where = torch.unique_consecutive(area, return_inverse=True)
    first = torch.searchsorted(where, torch.arange(len(distinct), device=where.device))
    judged = background_logit(masks[first])
    return background_activation_suppression(score.expand(len(judged)), judged)[where] + area


def search(
    score_map: Tensor, count: int, size: tuple[int, int], score: Tensor, background_logit: Callable[[Tensor], Tensor]
) -> float | None:
    """The threshold of the lowest score for one normalised map (H,W), or None where S ≤ 0 and nothing can be judged.

    Of equal scores the middle one is taken: a run of thresholds gives the same mask.
    """
    if float(score) <= 0:
        return None
    thresholds = grid(count)
    values = scores(masks_at(score_map, thresholds, size), score, background_logit)
    best = torch.nonzero(values == values.min())[:, 0]
    return float(thresholds[best[len(best) // 2]])
