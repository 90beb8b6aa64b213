"""DeepLabV2's arithmetic: multi-scale maps, their losses, the learning rate (Chen et al., TPAMI 2018, sections 3 and 4.1).

Shapes: B images, C classes (background is 0), h w logit grid, H W image. 255 marks void pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.formulas import VOID


def scale_images(images: Tensor, factor: float) -> Tensor:
    """Resize images (B,3,H,W) bilinearly to (B,3,⌊H·factor⌋,⌊W·factor⌋), half-pixel centres.

    The sampling step is 1/factor itself, not H/⌊H·factor⌋: the public DeepLab weights and figures come from
    that choice, and where the size does not divide the two differ clearly.
    """
    if factor == 1:
        return images
    return nnf.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False)


def multiscale_maximum(pyramid: Sequence[Tensor]) -> Tensor:
    """Pixel-wise maximum over scales on the first one's grid (section 3.2): (B,C,h_i,w_i) → (B,C,h_0,w_0)."""
    size = pyramid[0].shape[-2:]
    best = pyramid[0]
    for level in pyramid[1:]:
        best = torch.maximum(best, resize_logits(level, size))
    return best


def multiscale_mean(pyramid: Sequence[Tensor]) -> Tensor:
    """Logarithm of the mean of the softmax over maps, on the first one's grid: (B,C,h_i,w_i) → (B,C,h_0,w_0).

    As mmsegmentation merges views of an image. Its softmax gives that mean back; a single map stays as it is.
    """
    if len(pyramid) == 1:
        return pyramid[0]
    size = pyramid[0].shape[-2:]
    each = torch.stack([resize_logits(level, size).log_softmax(1) for level in pyramid])
    return each.logsumexp(0) - math.log(len(pyramid))


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B,C,h,w) at SIZE = (height, width), bilinearly with half-pixel centres."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return nnf.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def probabilities_at(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Softmax at SIZE = (height, width) of logits resized to it: (C,h,w) of any precision → (C,height,width) float32."""
    return resize_logits(logits[None].float(), size)[0].softmax(0)


def labels_at(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The class of largest logit at SIZE = (height, width): (C,h,w) → (height,width) uint8, of equal ones the first.

    Classes are brought to SIZE one by one: a photograph of 24 megapixels takes .2 GB instead of 2.
    """
    best = resize_logits(logits[None, :1], size)[0, 0]
    labels = torch.zeros(tuple(size), dtype=torch.uint8, device=logits.device)
    for index in range(1, len(logits)):
        plane = resize_logits(logits[None, index : index + 1], size)[0, 0]
        labels[plane > best] = index
        best = torch.maximum(best, plane)
    return labels


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B,H,W) at SIZE by the pixel nearest to each new centre, as imaging libraries do it."""
    planes = nnf.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")
    return planes[:, 0].long()


def cross_entropy(logits: Tensor, labels: Tensor, void: int = VOID) -> Tensor:
    """Mean of -log softmax at the label over labelled pixels: (B,C,h,w), (B,h,w) → scalar; 0 without any."""
    losses = nnf.cross_entropy(logits, labels, ignore_index=void, reduction="none")
    return _mean(losses, labels != void)


def balanced_cross_entropy(logits: Tensor, labels: Tensor, void: int = VOID) -> Tensor:
    """Cross-entropy with the background and the foreground pixels of the batch averaged apart, then added.

    The form of seeded losses since DSRG (Huang et al., CVPR 2018, section 3.2): pseudo masks are mostly
    background, and a plain mean lets it win. A side without pixels adds 0. (B,C,h,w), (B,h,w) → scalar.
    """
    losses = nnf.cross_entropy(logits, labels, ignore_index=void, reduction="none")
    background = labels == 0
    return _mean(losses, background) + _mean(losses, ~background & (labels != void))


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of VALUES where WHERE; 0, with a gradient of 0, where that is nowhere."""
    chosen = torch.where(where, values, torch.zeros_like(values))
    return chosen.sum() / where.sum().clamp(min=1)


def poly_factor(step: int, steps: int, power: float, every: int = 1) -> float:
    """Rate factor (1 - k/steps)^power at STEP (from 0); k = STEP rounded down to a multiple of EVERY."""
    return max(1 - (step // every) * every / steps, 0.0) ** power
