"""Label-free signs of which of two masks of an image is the better one: does refinement do harm?

Two masks of one image stand against each other, the seed's and the refined one, and no true mask is known. Each present
class is judged by itself. Three signs, each positive where the refined mask looks better and zero where it says nothing:

- `loss`: L_bas + L_ac of the mask as foreground map on the frozen seed network (BAS, IJCV 2023, Eq. 3 and 4; section 5.5
  chooses thresholds by it); the lower the better;
- `agreement`: IoU of the mask with its own dense-CRF refinement, of the class or of the background, whichever is lower:
  a mask that follows the image changes little;
- `vanished`: whether the class, which the image-level labels name, has any pixel.

Shapes: M masks, P present classes, H W the image, h w the feature grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from torch import Tensor

from stages.formulas import metrics
from stages.formulas.bas import Judge, area_constraint, background_activation_suppression

Mask = NDArray[np.uint8]
Numbers = NDArray[np.float64]

LOSS, AGREEMENT, VANISHED, COMBINED = "loss", "agreement", "vanished", "combined"
NUMBERS = ("loss", "agreement", "area")  # what the signs are made of
WEIGHTS = {LOSS: 0.4, AGREEMENT: 1.0, VANISHED: 1.0}  # of the signs in the combined one: chosen on photographs


def losses(masks: Sequence[Mask], classes: Sequence[int], size: tuple[int, int], logits: Tensor, judge: Judge) -> Numbers:
    """L_bas + L_ac (M,P) of masks (H,W) of background 0 and class ids + 1, on the feature grid SIZE (h,w).

    CLASSES: the P present ids, 0-based; logits (C,): S of the whole features. NaN where S ≤ 0: there the network does not
    see the class, and cannot judge what hides it. A mask without the class has a loss of 1.
    """
    own = torch.as_tensor(classes)
    regions = torch.stack([torch.from_numpy(mask) == index + 1 for mask in masks for index in classes])[:, None]
    small = nnf.interpolate(regions.float().to(logits.device), size, mode="area")
    present = own.repeat(len(masks)).to(logits.device)
    hidden = judge(small).float().gather(1, present[:, None])[:, 0]
    activation = logits.float()[present]
    total = background_activation_suppression(activation, hidden) + area_constraint(small)
    return torch.where(activation > 0, total, torch.nan).view(len(masks), -1).cpu().double().numpy()


def agreement(mask: Mask, refined: Mask, classes: Sequence[int]) -> Numbers:
    """Agreement (P,) of a mask (H,W) with its dense-CRF refinement: the lower IoU of a class's and the background's.

    A region that fills the image agrees with itself by its size alone; the background that is left of it does not. The IoU
    of what is in neither counts 0.
    """
    own = np.asarray(classes, dtype=np.int64) + 1
    ious = np.nan_to_num(metrics.iou(metrics.confusion(mask, refined, int(own.max()) + 1)))
    return np.minimum(ious[own], ious[0])


def areas(mask: Mask, classes: Sequence[int]) -> Numbers:
    """Share of the image (P,) that each present class has in a mask (H,W)."""
    return np.bincount(mask.ravel(), minlength=256)[np.asarray(classes, dtype=np.int64) + 1] / mask.size


def preferences(loss: Numbers, agree: Numbers, area: Numbers) -> dict[str, Numbers]:
    """What each sign says of P classes: positive for the refined mask, negative for the seed's, 0 for neither.

    LOSS, AGREE, AREA (2,P): rows seed and refined.
    """
    return {
        LOSS: np.nan_to_num(loss[0] - loss[1]),
        AGREEMENT: agree[1] - agree[0],
        VANISHED: (area[1] > 0).astype(np.float64) - (area[0] > 0),
    }


def combined(preferred: Mapping[str, Numbers], weights: Mapping[str, float] = WEIGHTS) -> Numbers:
    """Weighted sum (P,) of what the signs say."""
    return np.sum([weight * preferred[name] for name, weight in weights.items()], axis=0)


def mixed(seed: Mask, refined: Mask, from_seed: Sequence[int]) -> Mask:
    """The refined mask (H,W) with the classes FROM_SEED (0-based ids) as the seed has them.

    Where the seed has such a class and the refined mask another one that stays, the latter keeps its pixels.
    """
    own = np.asarray(from_seed, dtype=np.int64) + 1
    kept = np.where(np.isin(refined, own), 0, refined)
    return np.where((kept == 0) & np.isin(seed, own), seed, kept).astype(np.uint8)


def rightness(preferred: Numbers, gain: Numbers) -> dict[str, Any]:
    """How often a sign (N,) prefers the mask of the higher true IoU; GAIN (N,): IoU of the refined mask less the seed's.

    Over the cases in which both tell the two masks apart: `right`, the share of them that agree, `weighted` by the size of
    the gain (None where there are none), and their number `cases`.
    """
    told = (preferred != 0) & (gain != 0)
    agree, size = np.sign(preferred[told]) == np.sign(gain[told]), np.abs(gain[told])
    if not told.any():
        return {"right": None, "weighted": None, "cases": 0}
    return {"right": float(agree.mean()), "weighted": float((agree * size).sum() / size.sum()), "cases": int(told.sum())}
