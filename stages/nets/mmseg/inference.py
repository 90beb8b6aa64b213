"""What a trained network says of an image: its colours, logits on its grid, at several scales, in squares.

Shapes: B images, C classes, H W pixels, h w the network's grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from stages.formulas import tiles
from stages.formulas.segmentation import multiscale_maximum, multiscale_mean, scale_images
from stages.nets.mmseg.data import Array
from stages.nets.mmseg.segmentor import MultiScaleEncoderDecoder

QUARTER = 4  # stride of the grid on which networks are asked that resize their logits themselves


class Colours(nn.Module):
    """Images (B,3,H,W), RGB from 0 to 255, as a network wants them: normalised, and in its order of channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: EncoderDecoder) -> None:
        super().__init__()
        made: Any = net.data_preprocessor
        self.reverse = made.channel_conversion  # images come as RGB, so that a conversion is to BGR
        self.register_buffer("mean", made.mean.clone())
        self.register_buffer("std", made.std.clone())

    def forward(self, images: Tensor) -> Tensor:
        return ((images.flip(1) if self.reverse else images) - self.mean) / self.std


def own_grid(net: EncoderDecoder) -> bool:
    """Whether NET's last head gives logits on a grid that plain bilinear resizing takes to the image's size."""
    last: Any = net.decode_head[-1] if isinstance(net.decode_head, nn.ModuleList) else net.decode_head
    plain = type(last).predict in (BaseDecodeHead.predict, BaseCascadeDecodeHead.predict)
    return plain and type(last).predict_by_feat is BaseDecodeHead.predict_by_feat and not last.align_corners


def look(net: EncoderDecoder, images: Tensor) -> Tensor:
    """Normalised images (B,3,H,W) → logits (B,C,h,w), on the network's own grid where it has one, else at stride QUARTER."""
    if isinstance(net, MultiScaleEncoderDecoder):
        return EncoderDecoder._forward(net, images)  # at one scale, where its own takes the maximum over several
    if own_grid(net):
        return net._forward(images)
    size = torch.Size(-(-side // QUARTER) for side in images.shape[-2:])
    facts = {"img_shape": size, "pad_shape": size, "ori_shape": size, "padding_size": [0, 0, 0, 0]}
    return net.encode_decode(images, [facts] * len(images))


def pyramid(net: EncoderDecoder, images: Tensor, scales: Sequence[float]) -> list[Tensor]:
    """Normalised images (B,3,H,W) → logits (B,C,h_i,w_i), one entry a scale."""
    if isinstance(net, MultiScaleEncoderDecoder):
        return net.pyramid(images, scales)
    return [look(net, scale_images(images, scale)) for scale in scales]


def tiled_logits(net: EncoderDecoder, image: Array, scales: Sequence[float], flip: bool, side: int) -> Tensor:
    """As `grid_logits`, but an image with a side above SIDE pixels is seen in overlapping squares; SIDE 0: always whole."""
    height, width = image.shape[:2]
    if not side or max(height, width) <= side:
        return grid_logits(net, image, scales, flip)
    stride = _stride(net, image)
    return tiles.merged(height, width, side, stride, lambda rows, columns: grid_logits(net, image[rows, columns], scales, flip))


def _stride(net: EncoderDecoder, image: Array) -> int:
    """Pixels a step of the network's grid: a power of two, as `tiles` needs one."""
    corner = grid_logits(net, image[: tiles.STEP, : tiles.STEP], (1.0,), False)
    return 2 ** round(math.log2(max(tiles.STEP / max(corner.shape[-2:]), 1)))


@torch.inference_mode()
def grid_logits(net: EncoderDecoder, image: Array, scales: Sequence[float], flip: bool) -> Tensor:
    """Logits (C,h,w) of one image (H,W,3) uint8 RGB at SCALES, on the grid of the one nearest to 1, float32; with FLIP of its
    mirror image too.

    DeepLabV2 learns by the maximum over scales and is asked for it, then for the mean of both images. Other networks learn
    at one scale: the mean of probabilities over all views, as mmsegmentation takes it.
    """
    device = next(net.parameters()).device
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).float()
    batch = Colours(net).to(device)(pixels[None])
    views = torch.cat([batch, batch.flip(-1)]) if flip else batch
    order = sorted(scales, key=lambda scale: abs(math.log(scale)))
    levels = [level.float() for level in pyramid(net, views, order)]
    if isinstance(net, MultiScaleEncoderDecoder):
        best = multiscale_maximum(levels)
        return (best[0] + best[1].flip(-1)) / 2 if flip else best[0]
    mirrored = [level[1:].flip(-1) for level in levels] if flip else []
    return multiscale_mean([level[:1] for level in levels] + mirrored)[0]
