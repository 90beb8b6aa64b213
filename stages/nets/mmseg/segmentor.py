"""DeepLabV2's multi-scale training and testing around any backbone and head of mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor

from stages.formulas.segmentation import multiscale_maximum, resize_labels, resize_logits, scale_images
from stages.nets import norms

SCALES = (1.0, 0.5, 0.75)  # of training and of the public test; the first gives the grid of the maximum


@MODELS.register_module()
class MultiScaleEncoderDecoder(EncoderDecoder):
    """One network on several sizes of an image (section 4.1): losses on each and on their maximum.

    freeze_bn keeps the trunk's batch-norm at its stored statistics and its affine parameters out of training.
    """

    def __init__(
        self,
        *args: Any,
        scales: Sequence[float] = SCALES,
        freeze_bn: bool = True,
        channels_last: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.scales = tuple(scales)
        self.freeze_bn = freeze_bn
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        if freeze_bn:
            norms.fix(self.backbone)

    def train(self, mode: bool = True) -> MultiScaleEncoderDecoder:
        """As usual, but frozen batch-norm stays in evaluation."""
        super().train(mode)
        if self.freeze_bn:
            norms.hold(self.backbone)
        return self

    def pyramid(self, images: Tensor, scales: Sequence[float] | None = None) -> list[Tensor]:
        """Normalised images (B,3,H,W) → logits (B,C,h_i,w_i), one entry a scale, in the order of SCALES."""
        views = (scale_images(images, scale) for scale in scales or self.scales)
        placed = (view.contiguous(memory_format=self.memory_format) for view in views)
        return [self.decode_head.forward(self.extract_feat(view)) for view in placed]

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """One loss a scale and one on the maximum, on labels brought to each grid; mmengine adds them up."""
        labels = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        levels = self.pyramid(inputs)
        names = [*(f"loss_x{scale:g}" for scale in self.scales), "loss_max"]
        levels.append(multiscale_maximum(levels))
        return {name: self._level_loss(level, labels) for name, level in zip(names, levels, strict=True)}

    def _level_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        head = self.decode_head
        return head.loss_decode(logits, resize_labels(labels, logits.shape[-2:]), ignore_index=head.ignore_index)

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """The maximum over scales, on the grid of the first: (B,3,H,W) → (B,C,h,w)."""
        return multiscale_maximum(self.pyramid(inputs))

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """The maximum at the size of the images, for mmsegmentation's own test tools."""
        return resize_logits(self._forward(inputs), inputs.shape[-2:])
