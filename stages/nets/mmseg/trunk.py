"""Our table of trunks as an mmsegmentation backbone, so the same torchvision weights serve here."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.registry import MODELS
from torch import Tensor

from stages.nets.backbones import Backbone
from stages.nets.depthwise import speed_up


@MODELS.register_module()
class Trunk(Backbone):
    """stages.nets.backbones by NAME; dilation makes up for removed strides (1, 1, 2, 4 at stride 8).

    STAGES: those whose maps the heads see, from 0, shallow to deep; all if none are named.
    """

    def __init__(self, name: str, output_stride: int = 8, dilate: bool = True, stages: Sequence[int] = ()) -> None:
        super().__init__(name, output_stride, dilate)
        self.stages = tuple(stages) or tuple(range(len(self.channels)))
        speed_up(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """x (B,3,H,W) → one map a stage of STAGES."""
        maps = super().forward(x)
        return tuple(maps[stage] for stage in self.stages)
