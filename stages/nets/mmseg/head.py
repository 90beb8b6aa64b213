"""DeepLabV2's head: atrous spatial pyramid pooling straight to the classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

RATES = (6, 12, 18, 24)  # Chen et al., TPAMI 2018, Fig. 7 (ASPP-L)
INIT_STD = 0.01


class ASPP(nn.Module):
    """Parallel 3x3 convolutions of several dilations, summed (section 3.3, Fig. 4): (B,N,h,w) → (B,C,h,w)."""

    def __init__(self, in_channels: int, classes: int, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        for index, rate in enumerate(rates):
            conv = nn.Conv2d(in_channels, classes, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=INIT_STD)
            nn.init.constant_(cast(Tensor, conv.bias), 0)
            self.add_module(f"c{index}", conv)

    def forward(self, features: Tensor) -> Tensor:
        return functools.reduce(torch.add, (branch(features) for branch in self.children()))


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """ASPP on the last map of the trunk, within mmsegmentation's interface of heads."""

    def __init__(self, in_channels: int, num_classes: int, rates: Sequence[int] = RATES, **kwargs: Any) -> None:
        settings = {
            "channels": in_channels,
            "out_channels": num_classes,
            "dropout_ratio": 0,
            "init_cfg": None,
        }
        super().__init__(in_channels, num_classes=num_classes, **{**settings, **kwargs})
        del self.conv_seg  # the 1x1 classifier that the other heads end with
        self.aspp = ASPP(in_channels, num_classes, rates)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """The trunk's maps → logits (B,C,h,w)."""
        return self.aspp(self._transform_inputs(inputs))
