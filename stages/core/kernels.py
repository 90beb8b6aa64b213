"""Settings of a dense CRF on hard labels, for the stages that run one."""

from __future__ import annotations

from stages.core.config import Field, Section


class LabelCrf(Section):
    """Kernels and certainty of a dense CRF; the defaults are IRN's for the labels of seeds (CVPR 2019, section 3.2)."""

    certainty: float = Field(0.7, description="Probability that a label is right, for the CRF.", gt=0.5, lt=1)
    iterations: int = Field(10, description="Mean-field iterations of the CRF.", ge=1)
    smooth_width: float = Field(3.0, description="Width of the smoothness kernel, in pixels.", gt=0)
    smooth_weight: float = Field(3.0, description="Weight of the smoothness kernel.", ge=0)
    colour_width: float = Field(50.0, description="Width of the colour kernel, in pixels.", gt=0)
    colour_range: float = Field(5.0, description="Width of the colour kernel, in grey levels.", gt=0)
    colour_weight: float = Field(10.0, description="Weight of the colour kernel.", ge=0)
