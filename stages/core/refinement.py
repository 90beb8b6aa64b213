"""Settings that the stages of refinement share: of a dense CRF on hard labels, and of IRN's random walk."""

from __future__ import annotations

from typing import Literal

from stages.core.config import Field, Section


class LabelCrf(Section):
    """Kernels and certainty of a dense CRF; the defaults are IRN's for the labels of seeds (CVPR 2019, section 4.2)."""

    certainty: float = Field(0.7, description="Probability that a label is right, for the CRF.", gt=0.5, lt=1)
    iterations: int = Field(10, description="Mean-field iterations of the CRF.", ge=1)
    smooth_width: float = Field(3.0, description="Width of the smoothness kernel, in pixels.", gt=0)
    smooth_weight: float = Field(3.0, description="Weight of the smoothness kernel.", ge=0)
    colour_width: float = Field(50.0, description="Width of the colour kernel, in pixels.", gt=0)
    colour_range: float = Field(5.0, description="Width of the colour kernel, in grey levels.", gt=0)
    colour_weight: float = Field(10.0, description="Weight of the colour kernel.", ge=0)


class Walk(Section):
    """IRN on a photograph, and the random walk that it stops; the defaults are IRN's (CVPR 2019, section 5)."""

    radius: int = Field(5, description="A step of the walk reaches pixels nearer than this, on the stride-4 grid.", ge=2)
    beta: float = Field(10.0, description="Exponent on the affinities.", gt=0)
    exp_times: int = Field(8, description="The walk takes 2^exp_times steps.", ge=0, le=12)
    method: Literal["chebyshev", "exact"] = Field(
        "chebyshev", description="chebyshev: an expansion, error 1e-5; exact: every step."
    )
    pad: int = Field(0, description="Pad smaller images to this square before the network; the public code takes 512.", ge=0)
    channels_last: bool = Field(True, description="Keep tensors in channels-last order: faster convolutions.")
