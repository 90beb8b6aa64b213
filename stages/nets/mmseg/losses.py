"""Plain and balanced cross-entropy as mmsegmentation losses, for our head and any of its own."""

from __future__ import annotations

from typing import Any

from mmseg.registry import MODELS
from torch import Tensor, nn

from stages.formulas import VOID
from stages.formulas.segmentation import balanced_cross_entropy, cross_entropy

LOSSES = {"plain": "PlainCrossEntropy", "balanced": "BalancedCrossEntropy"}


class _PixelLoss(nn.Module):
    """The call that mmsegmentation's heads make; pixel weights come from its samplers, which ours has not."""

    loss_name = "loss_ce"

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Any = None, ignore_index: int = VOID, **_: Any) -> Tensor:
        """pred (B,C,h,w), target (B,h,w) → scalar. Raises ValueError on pixel weights."""
        if weight is not None:
            raise ValueError(f"{type(self).__name__} takes no pixel weights")
        return self.loss_weight * self.formula(pred.float(), target, ignore_index)

    def formula(self, logits: Tensor, labels: Tensor, void: int) -> Tensor:
        raise NotImplementedError


@MODELS.register_module()
class PlainCrossEntropy(_PixelLoss):
    """Mean over all labelled pixels."""

    def formula(self, logits: Tensor, labels: Tensor, void: int) -> Tensor:
        return cross_entropy(logits, labels, void)


@MODELS.register_module()
class BalancedCrossEntropy(_PixelLoss):
    """Background and foreground pixels averaged apart, then added."""

    def formula(self, logits: Tensor, labels: Tensor, void: int) -> Tensor:
        return balanced_cross_entropy(logits, labels, void)
