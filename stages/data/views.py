"""Training views of images with a label map of the same size: rescaled, mirrored and cropped together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.core.loading import seeded
from stages.data.dataset import Sample
from stages.data.images import VOID, Array, read_image, read_mask, resize
from stages.data.transforms import Views, draw, multi_hot, normalise


def rescale(image: Array, labels: Array, factor: float) -> tuple[Array, Array]:
    """Both resized by FACTOR: the image bicubic, the labels (H,W) by nearest neighbour."""
    height, width = (max(round(side * factor), 1) for side in labels.shape)
    nearest = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return resize(image, height, width), np.array(nearest)


def crop_with_padding(image: Tensor, labels: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random square of SIDE from image (3,H,W) and labels (H,W); a smaller image lies somewhere in it.

    Beyond the image there is 0, the mean colour of a normalised image, and void.
    """
    out, marks = image.new_zeros(3, side, side), labels.new_full((side, side), VOID)
    spans = []
    for length in labels.shape:
        room = draw(generator, 0, abs(length - side) + 1)
        start, place = (room, 0) if length > side else (0, room)
        extent = min(length, side)
        spans.append((slice(start, start + extent), slice(place, place + extent)))
    (rows, to_rows), (columns, to_columns) = spans
    out[:, to_rows, to_columns] = image[:, rows, columns]
    marks[to_rows, to_columns] = labels[rows, columns]
    return out, marks


class PixelLabelledImages(Views):
    """Images (3,S,S) with label maps (S,S) uint8 read from `<folder>/<id>.png`. Indexed by (epoch, item)."""

    def __init__(self, samples: Sequence[Sample], folder: Path, crop: int, scales: tuple[float, float], seed: int) -> None:
        super().__init__(samples)
        self._folder, self._crop, self._scales, self._seed = folder, crop, scales, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, item = key
        sample, generator = self._samples[item], seeded(self._seed, epoch, item)
        low, high = self._scales
        factor = low + (high - low) * float(torch.rand(1, generator=generator))
        image, labels = rescale(read_image(sample.image), read_mask(self._folder / f"{sample.id}.png"), factor)
        if draw(generator, 0, 2):
            image, labels = image[:, ::-1], labels[:, ::-1]
        marks = torch.from_numpy(np.ascontiguousarray(labels))
        return crop_with_padding(normalise(image), marks, self._crop, generator)


class ScaledImages(Views):
    """Training views (3,S,S) with image-level labels (C,): the longer side drawn from a range, mirrored, cropped or padded.

    Indexed by (epoch, item).
    """

    def __init__(self, samples: Sequence[Sample], classes: int, long_side: tuple[int, int], crop: int, seed: int) -> None:
        super().__init__(samples)
        self._classes, self._long_side, self._crop, self._seed = classes, long_side, crop, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, item = key
        sample, generator = self._samples[item], seeded(self._seed, epoch, item)
        image = read_image(sample.image)
        factor = draw(generator, self._long_side[0], self._long_side[1] + 1) / max(image.shape[:2])
        height, width = (max(round(side * factor), 1) for side in image.shape[:2])
        image = resize(image, height, width)
        if draw(generator, 0, 2):
            image = image[:, ::-1]
        view, _ = crop_with_padding(normalise(image), torch.zeros(height, width), self._crop, generator)
        return view, multi_hot(sample.labels, self._classes)
