"""DeepLabV2's head within mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from stages.nets.aspp import ASPP, RATES


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """Atrous spatial pyramid pooling on the trunk's last map."""

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
