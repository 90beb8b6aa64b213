"""The pairs of image and mask that the segmentation network learns from, without the pixels that masks are least sure of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.core import interrupt
from stages.core.errors import StageError
from stages.core.stage import Context
from stages.data.dataset import Sample
from stages.data.images import Array, read_grey, read_image, read_mask
from stages.formulas import noise

Limits = NDArray[np.int64]  # by label, in 8 bits


@dataclass(frozen=True)
class Pair:
    """An image and the mask that it is learnt from, how sure that one is of its pixels (stride-4 grid), and a second opinion."""

    sample: Sample
    mask: Path | None  # none: all is background
    sure: Path | None = None  # of all its pixels
    other: Path | None = None  # a mask that agrees

    def read(self, limits: Limits | None = None) -> tuple[Array, Array]:
        """Image (H,W,3) and mask (H,W), void where it is less sure than its label's of LIMITS or the second opinion differs.

        Raises StageError when they are unreadable or of different sizes.
        """
        image = read_image(self.sample.image)
        if self.mask is None:
            return image, np.zeros(image.shape[:2], np.uint8)
        labels = read_mask(self.mask)
        if image.shape[:2] != labels.shape:
            sizes = f"{labels.shape[1]}x{labels.shape[0]} beside {image.shape[1]}x{image.shape[0]}"
            raise StageError(
                f"Mask {self.mask} is not of its image's size",
                sizes,
                "Make the masks again: bas refine irn --force, then bas refine choose",
            )
        if self.other is not None:
            labels = noise.agreed(labels, read_mask(self.other))
        if limits is not None and self.sure is not None:
            labels = noise.without(labels, _at_pixels(self.sure, labels.shape), limits)
        return image, labels


def background(ctx: Context) -> list[Pair]:
    """Images to train on of which the labels say that no class is there, where `data.negatives` keeps them."""
    return [Pair(sample, None) for sample in ctx.dataset.split("negatives")]


def limits(pairs: Sequence[Pair], share: float, ctx: Context) -> Limits:
    """The confidence below which pixels of each label are left out: SHARE of them, over all masks that say how sure they are.

    Raises StageError where none does.
    """
    total = np.zeros((noise.LEVELS, noise.LEVELS), np.int64)
    judged = [(pair.mask, pair.sure) for pair in pairs if pair.mask is not None and pair.sure is not None]
    if not judged:
        raise StageError(
            "Cannot leave out what the masks are least sure of",
            f"none of the {len(pairs)} says how sure it is: refined masks do that were not corrected by hand",
            "Set segment_train.void=0, or refine.keep=masks",
        )
    with ctx.track("confidence of masks", len(judged)) as meter:
        for mask, sure in judged:
            interrupt.check()
            labels = read_mask(mask)
            total += noise.counts(labels, _at_pixels(sure, labels.shape))
            meter.advance()
    return noise.least(total, share)


def _at_pixels(path: Path, size: tuple[int, ...]) -> Array:
    """A picture of confidence at the SIZE (H,W) of its image. Raises StageError where it cannot be read."""
    return noise.at_pixels(read_grey(path).astype(np.uint8), (size[0], size[1]))
