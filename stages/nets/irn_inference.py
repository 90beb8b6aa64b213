"""IRN on one photograph of any size: it sees the image and its mirror image, filled up to whole steps of the trunk.

Boundaries are taken of both, displacements of the image itself, as the public code does. Both come cropped to the
stride-4 grid of the image: h w are its height and width over 4, rounded up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.core.runtime import Runtime
from stages.data.transforms import normalise
from stages.formulas import affinity
from stages.formulas.seeds import TRUNK_STRIDE, strided_size
from stages.nets.irn import Irn

if TYPE_CHECKING:
    from stages.data.images import Array


def boundaries(net: Irn, image: Array, runtime: Runtime, pad: int, channels_last: bool) -> Tensor:
    """Boundary probability (h,w) of an image (H,W,3); smaller ones are filled up to squares of PAD pixels."""
    with runtime.fabric.autocast():
        logits = net.edge_logits(_pair(image, runtime, pad, channels_last))
    return affinity.merge_edges(logits.float(), strided_size(*image.shape[:2]))


def boundaries_and_field(net: Irn, image: Array, runtime: Runtime, pad: int, channels_last: bool) -> tuple[Tensor, Tensor]:
    """The same, and the displacement field (2,h,w) in steps of that grid, channel 0 = y, 1 = x."""
    with runtime.fabric.autocast():
        maps = net(_pair(image, runtime, pad, channels_last))
    height, width = strided_size(*image.shape[:2])
    edge = affinity.merge_edges(maps.edge_logits.float(), (height, width))
    return edge, maps.displacement[0, :, :height, :width].float()


def _pair(image: Array, runtime: Runtime, pad: int, channels_last: bool) -> Tensor:
    """The image and its mirror image (2,3,·,·), normalised, with zeros right and below."""
    view = normalise(image)
    height, width = view.shape[1:]
    right, below = (max(-side % TRUNK_STRIDE, pad - side) for side in (width, height))
    return runtime.place(nnf.pad(torch.stack([view, view.flip(-1)]), (0, right, 0, below)), channels_last)
