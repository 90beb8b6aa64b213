"""Plain and balanced cross-entropy as mmsegmentation losses, for our head and any of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor, nn

from stages.formulas import VOID
from stages.formulas.segmentation import balanced_cross_entropy, cross_entropy

LOSSES = {"plain": "PlainCrossEntropy", "balanced": "BalancedCrossEntropy"}


class _PixelLoss(nn.Module):
    """The call that mmsegmentation's heads make; pixel weights come from its samplers, which ours has not."""

    loss_name = "loss_ce"
    formula: Callable[[Tensor, Tensor, int], Tensor]  # logits (B,C,h,w), labels (B,h,w), label of void → scalar

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Any = None, ignore_index: int = VOID, **_: Any) -> Tensor:
        """pred (B,C,h,w), target (B,h,w) → scalar. Raises ValueError on pixel weights."""
        if weight is not None:
            raise ValueError(f"{type(self).__name__} takes no pixel weights")
        return self.loss_weight * self.formula(pred.float(), target, ignore_index)


@MODELS.register_module()
class PlainCrossEntropy(_PixelLoss):
    """Mean over all labelled pixels."""

    formula = staticmethod(cross_entropy)


@MODELS.register_module()
class BalancedCrossEntropy(_PixelLoss):
    """Background and foreground pixels averaged apart, then added."""

    formula = staticmethod(balanced_cross_entropy)
