"""How activation, cross-entropy and background activation follow the area of a mask (BAS, IJCV 2023, 3.5, Fig. 1 and 6).

A true mask is eroded and dilated; each mask is put on the features, and F2's answer is set against the mask's area. Where
the paper uses square kernels of 5n x 5n pixels, masks here are level sets of the distance to the outline: erosions and
dilations by discs, in single pixels. Shapes: K masks, H W an image, h w its features, C classes, J objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from stages.formulas.bas import EPS

RATIOS = tuple(step / 10 for step in range(26))  # areas of masks over the area of the true mask
SETTLED = 0.9  # of its way: there a curve counts as settled

Curve = NDArray[np.float64]


def signed_distance(mask: NDArray[np.bool_]) -> Curve:
    """Distance in pixels of every pixel (H,W) to the nearest one across the outline: positive inside, negative outside.

    Beyond the image nothing belongs to the mask. Raises ValueError for an empty mask, which has no outline.
    """
    if not mask.any():
        raise ValueError("an empty mask has no outline")
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))
    outside = ndimage.distance_transform_edt(~mask)
    return np.asarray(inside)[1:-1, 1:-1] - np.asarray(outside)


def erode_and_dilate(mask: NDArray[np.bool_], ratios: Sequence[float] = RATIOS) -> tuple[NDArray[np.bool_], Curve]:
    """Erosions and dilations of a mask (H,W), for each of RATIOS the smallest that reaches it, none twice.

    Returns masks (K,H,W), growing from the empty one, and their areas over the true one (K,), which the full image limits.
    """
    distance = signed_distance(mask)
    levels, counts = np.unique(distance, return_counts=True)
    levels, areas = levels[::-1], np.concatenate([[0], counts[::-1].cumsum()]) / mask.sum()
    chosen = np.unique(np.searchsorted(areas, ratios).clip(max=len(levels)))
    limits = np.concatenate([[np.inf], levels])[chosen]
    return distance >= limits[:, None, None], areas[chosen]


def on_features(masks: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Masks (K,H,W) → soft masks (K,1,h,w), the covered share of each cell of the features' grid SIZE."""
    return nnf.interpolate(torch.from_numpy(masks[:, None].astype(np.float32)), size, mode="area")


def relative_activation(logits: Tensor, score: Tensor) -> Tensor:
    """Activation of masked features over that of the whole image, both after ReLU, as in Eq. 3 → (K,).

    logits (K,) of the object's class; score: S, its logit for the unmasked features, above 0. Not limited to 1.
    """
    return logits.relu() / (score.relu() + EPS)


def cross_entropy(logits: Tensor, chosen: int, present: Sequence[int]) -> Tensor:
    """Cross-entropy of class CHOSEN among itself and the absent classes: one term of Eq. 9, in nats → (K,).

    It makes one label of several, as the paper does for VOC. logits (K,C); PRESENT: ids of the image's classes.
    """
    rivals = [i for i in range(logits.shape[1]) if i not in present]
    return -logits[:, [chosen, *rivals]].log_softmax(1)[:, 0]


def at_ratios(values: Curve, areas: Curve, ratios: Sequence[float] = RATIOS) -> Curve:
    """A curve over its own areas (K,) → its values at RATIOS (R,), linearly between; NaN beyond the largest area."""
    return np.interp(ratios, areas, values, right=np.nan)


def spread(curves: Curve) -> dict[str, Any]:
    """Mean, standard deviation, quartiles and count over objects, of curves (J,R) with NaN where an object has no value.

    Relative activations of an object with a weak S reach any size: their quartiles say
    more than their mean. Each is a list of R; None where no object is left.
    """
    with np.errstate(all="ignore"):
        kept = curves[:, ~np.isnan(curves).all(0)]
        low, middle, high = np.nanquantile(kept, (0.25, 0.5, 0.75), axis=0)
        rows = {"mean": np.nanmean(kept, 0), "std": np.nanstd(kept, 0), "q1": low, "median": middle, "q3": high}
    missing = [None] * (curves.shape[1] - kept.shape[1])  # areas only grow, so what is missing is the end
    columns: dict[str, Any] = {name: [round(float(v), 5) for v in row] + missing for name, row in rows.items()}
    return columns | {"objects": (~np.isnan(curves)).sum(0).tolist()}


def settles_at(values: Sequence[float | None], ratios: Sequence[float] = RATIOS) -> float:
    """The area from which on a curve has gone nine tenths of its way from the empty mask to its farthest value."""
    way = np.array([value for value in values if value is not None])
    way = np.abs(way - way[0])
    goal = SETTLED * way.max()
    after = int(np.argmax(way >= goal))
    return float(np.interp(goal, way[after - 1 : after + 1], np.asarray(ratios)[after - 1 : after + 1])) if after else 0.0


def most_typical(curves: Curve) -> int:
    """The object whose curves (J,P,R) lie nearest to the medians, every kind P of curve in units of its usual distance."""
    distance = np.abs(curves - np.nanmedian(curves, 0))
    return int(np.nanmean(distance / (np.nanmedian(distance, (0, 2), keepdims=True) + EPS), (1, 2)).argmin())
