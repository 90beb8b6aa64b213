"""The two operators that mmsegmentation imports from `mmcv.ops` unguarded, for mmcv-lite, which has none.

mmsegmentation 1.2.2 imports `point_sample` and `sigmoid_focal_loss` at its top; everything else that it takes
from `mmcv.ops` it takes under `except ModuleNotFoundError`, which the stand-in raises. Where full mmcv is
there, nothing is replaced.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor


def point_sample(input: Tensor, points: Tensor, align_corners: bool = False, **kwargs: Any) -> Tensor:
    """Values of a map at points, bilinearly; zero outside (PointRend, Kirillov et al., CVPR 2020, 3.1).

    input (N,C,h,w); points (N,P,2) or (N,Y,X,2) as (x,y) in [0,1]², corner to corner → (N,C,P) or (N,C,Y,X).
    """
    flat = points.dim() == 3
    grid = 2.0 * (points.unsqueeze(2) if flat else points) - 1.0
    sampled = nnf.grid_sample(input, grid, align_corners=align_corners, **kwargs)
    return sampled.squeeze(3) if flat else sampled


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss of C independent classes (Lin et al., ICCV 2017, Eq. 5): -α_t (1 - p_t)^γ log p_t.

    input (N,C) logits; target (N,) class ids, any id outside 0..C-1 being background; weight (C,) per class.
    reduction: "none" → (N,C); "sum"; "mean" = sum / N. Raises ValueError on another reduction.
    """
    classes = torch.arange(input.shape[1], device=input.device)
    truth = (target[:, None] == classes).to(input.dtype)
    entropy = nnf.binary_cross_entropy_with_logits(input, truth, reduction="none")
    probability = input.sigmoid()
    miss = truth * (1 - probability) + (1 - truth) * probability
    side = truth * alpha + (1 - truth) * (1 - alpha)
    loss = side * miss.pow(gamma) * entropy
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is '{reduction}', not none, sum or mean")
    return loss.sum() if reduction == "sum" else loss.sum() / input.shape[0]


class _Operators(ModuleType):
    """`mmcv.ops` with two operators; asking for another says which package has it."""

    point_sample = staticmethod(point_sample)
    sigmoid_focal_loss = staticmethod(sigmoid_focal_loss)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and inspect probe these and expect AttributeError
            raise AttributeError(name)
        raise ModuleNotFoundError(f"mmcv.ops.{name} is a compiled operator of full mmcv; mmcv-lite has none")


def compiled() -> bool:
    """Is full mmcv, with its compiled operators, installed?"""
    return importlib.util.find_spec("mmcv._ext") is not None


def install() -> None:
    """Put the stand-in into `sys.modules` where full mmcv is absent; more calls change nothing."""
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    if "mmcv.ops" not in sys.modules and not compiled():
        sys.modules["mmcv.ops"] = _Operators("mmcv.ops", "Two operators for mmcv-lite.")
        vars(importlib.import_module("mmcv"))["ops"] = sys.modules["mmcv.ops"]
