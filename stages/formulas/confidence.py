"""How sure a mask is of itself, without any true mask: of each pixel, and of the image.

Shapes: P present classes, h w the stride-4 grid of the random walk. Maps are walked ones `seeds.over_maximum`.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 0.05  # to either side of the threshold: of .05 to .25 it ranked photographs best (the log in CONTRIBUTING.md)


def margins(maps: Tensor, threshold: float) -> Tensor:
    """Confidence of each pixel (h,w) in [0,1]: the distance to where its label would be another.

    Of foreground the winner less the larger of runner-up and THRESHOLD, over 1 - THRESHOLD; of background THRESHOLD less
    the winner, over THRESHOLD.
    """
    ranked = torch.cat([maps, torch.zeros_like(maps[:1])]).topk(2, 0).values
    best, second = ranked[0], ranked[1].clamp_min(threshold)
    return torch.where(best > threshold, (best - second) / (1 - threshold), (threshold - best) / threshold)


def stability(maps: Tensor, threshold: float, step: float = STEP) -> float:
    """Confidence of an image in [0,1]: the share of a class's pixels above THRESHOLD - STEP that are above THRESHOLD + STEP.

    Mean over the present classes; a class without pixels counts 0. It is the IoU of the masks at both thresholds.
    """
    best, winner = maps.max(0)
    own = winner[None] == torch.arange(len(maps), device=maps.device)[:, None, None]
    sure, possible = ((own & (best > limit)).sum((1, 2)) for limit in (threshold + step, threshold - step))
    return float((sure / possible.clamp_min(1)).mean())


def lead(probabilities: Tensor) -> Tensor:
    """Confidence of each pixel (H,W) in [0,1] of PROBABILITIES (L,H,W): the largest less the second; 1 of one label alone."""
    best = probabilities.topk(min(2, len(probabilities)), 0).values
    return best[0] - best[1] if len(best) > 1 else torch.ones_like(best[0])
