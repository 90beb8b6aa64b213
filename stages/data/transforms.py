"""From uint8 images to network input; every random choice comes from a generator that the caller seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.core.loading import seeded
from stages.data.dataset import Sample
from stages.data.images import Array, read_image, resize

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0,1]
STD = (0.229, 0.224, 0.225)
CACHE_BYTES = 1 << 30  # of decoded images, a loader process


def normalise(image: Array) -> Tensor:
    """(H,W,3) uint8 RGB → (3,H,W) float32 with ImageNet's mean and deviation."""
    scaled = (image.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def draw(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number in [low, high)."""
    return int(torch.randint(low, high, (1,), generator=generator))


def crop_and_flip(image: Array, crop: int, generator: torch.Generator) -> Array:
    """A random square of side CROP from an image at least as large, mirrored half of the time."""
    top = draw(generator, 0, image.shape[0] - crop + 1)
    left = draw(generator, 0, image.shape[1] - crop + 1)
    view = image[top : top + crop, left : left + crop]
    return view[:, ::-1] if draw(generator, 0, 2) else view


def multi_hot(labels: Sequence[int], classes: int) -> Tensor:
    """Present ids → (C,) of 0 and 1."""
    row = torch.zeros(classes)
    row[list(labels)] = 1
    return row


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Training views of SAMPLES, indexed by (epoch, item), so that a view depends on both and on nothing else."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, item: int) -> str:
        """The id of an image."""
        return self._samples[item].id


class LabelledImages(Views):
    """Training views with image-level labels: warped to RESIZE², cropped to CROP², mirrored (section 5.1).

    Indexed by (epoch, item); warped images are kept in memory up to CACHE_BYTES.
    """

    def __init__(self, samples: Sequence[Sample], classes: int, side: int, crop: int, seed: int) -> None:
        super().__init__(samples)
        self._classes, self._side, self._crop, self._seed = classes, side, crop, seed
        self._warped: dict[int, Array] = {}

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, item = key
        view = crop_and_flip(self._read(item), self._crop, seeded(self._seed, epoch, item))
        return normalise(view), multi_hot(self._samples[item].labels, self._classes)

    def _read(self, item: int) -> Array:
        if item in self._warped:
            return self._warped[item]
        image = resize(read_image(self._samples[item].image), self._side, self._side)
        if (len(self._warped) + 1) * image.nbytes <= CACHE_BYTES:
            self._warped[item] = image
        return image
