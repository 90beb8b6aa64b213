"""Training crops from explicit pairs of image and mask, each a function of seed and key (epoch, item) alone.

So the order and the crops at a step do not depend on what ran before, on the number of loader processes, or
on an interruption; the loader of step S starts there at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from torch.utils.data import Dataset, Sampler

from stages.core.loading import Loader, fault_as_value, seeded
from stages.formulas import VOID, noise

MEAN = (123.675, 116.28, 103.53)  # ImageNet, RGB, 0..255
STD = (58.395, 57.12, 57.375)

Array = np.ndarray[Any, Any]
Key = tuple[int, ...]  # epoch, item, and where the item comes again in that epoch, for which time
Reader = Callable[[int], tuple[Array, Array]]  # item → image (H,W,3) uint8 RGB, mask (H,W) uint8, 255 = void


@dataclass(frozen=True)
class Material:
    """What is learnt from: COUNT pairs, READ by number; how often each is seen (all equally without WEIGHTS), its NAME."""

    count: int
    read: Reader
    weights: Sequence[float] | None = None
    name: Callable[[int], str] = str


@dataclass(frozen=True)
class Crops:
    """Random scale from a set, pad at the bottom and right, crop, flip."""

    size: int
    scales: tuple[float, ...]

    def __call__(self, image: Array, mask: Array, generator: torch.Generator) -> tuple[Array, Array]:
        """image (H,W,3), mask (H,W) → (size,size,3), (size,size); padding is the mean colour and void."""
        scale = self.scales[_draw(len(self.scales), generator)]
        image, mask = resize(image, mask, scale)
        image, mask = self._pad(image, mask)
        top = _draw(mask.shape[0] - self.size + 1, generator)
        left = _draw(mask.shape[1] - self.size + 1, generator)
        window = (slice(top, top + self.size), slice(left, left + self.size))
        image, mask = image[window], mask[window]
        return (image[:, ::-1], mask[:, ::-1]) if _draw(2, generator) else (image, mask)

    def _pad(self, image: Array, mask: Array) -> tuple[Array, Array]:
        height, width = mask.shape
        tall, wide = max(height, self.size), max(width, self.size)
        if (tall, wide) == (height, width):
            return image, mask
        canvas = np.empty((tall, wide, 3), np.uint8)
        canvas[:] = np.round(MEAN).astype(np.uint8)
        canvas[:height, :width] = image
        void = np.full((tall, wide), VOID, np.uint8)
        void[:height, :width] = mask
        return canvas, void


def resize(image: Array, mask: Array, scale: float) -> tuple[Array, Array]:
    """Both times SCALE: the image bilinearly, the mask by the nearest pixel."""
    if scale == 1:
        return image, mask
    size = (max(round(mask.shape[1] * scale), 1), max(round(mask.shape[0] * scale), 1))
    return (
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)),
    )


def _draw(options: int, generator: torch.Generator) -> int:
    return int(torch.randint(options, (), generator=generator))


class PairDataset(Dataset[dict[str, Any]]):
    """Crops of pairs, indexed by the sampler's keys, in mmsegmentation's form; an unreadable one is its fault."""

    def __init__(self, material: Material, crops: Crops, seed: int, classes: Sequence[str]) -> None:
        self.material, self.crops, self.seed = material, crops, seed
        self.metainfo = {"classes": tuple(classes)}

    def __len__(self) -> int:
        return self.material.count

    @fault_as_value
    def __getitem__(self, index: Key) -> dict[str, Any]:
        image, mask = self.crops(*self.material.read(index[1]), seeded(self.seed, *index))
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(mask.astype(np.int64))[None])
        return {
            "inputs": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "data_samples": sample,
        }


class StepSampler(Sampler[list[Key]]):
    """The keys of each step from START to STEPS: epochs of as many draws as there are items, without gaps.

    An epoch is one permutation, or with WEIGHTS draws in proportion to them (`noise.drawn`). Of each batch, process RANK of
    WORLD takes every WORLD-th item.
    """

    def __init__(
        self,
        items: int,
        batch: int,
        start: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.items, self.batch, self.start, self.steps, self.seed = items, batch, start, steps, seed
        self.rank, self.world, self.weights = rank, world, weights

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        known, epoch_keys = -1, []
        for step in range(self.start, self.steps):
            keys = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                epoch, place = divmod(position, self.items)
                if epoch != known:
                    known, epoch_keys = epoch, self._epoch(epoch)
                keys.append(epoch_keys[place])
            yield keys[self.rank :: self.world]

    def of(self, step: int) -> list[Key]:
        """The keys of one step."""
        own = (self.seed, self.rank, self.world, self.weights)
        return next(iter(StepSampler(self.items, self.batch, step, step + 1, *own)))

    def _epoch(self, epoch: int) -> list[Key]:
        """The keys of an epoch in their order; an item that comes again has another key, and so another crop."""
        generator = seeded(self.seed, epoch)
        order = torch.randperm(self.items, generator=generator)
        if self.weights is not None:
            order = noise.drawn(torch.tensor(self.weights), generator)[order]
        times: Counter[int] = Counter()
        keys: list[Key] = []
        for item in order.tolist():
            keys.append((epoch, item, times[item]) if times[item] else (epoch, item))
            times[item] += 1
        return keys


def loader(dataset: PairDataset, sampler: StepSampler, workers: int, pin_memory: bool) -> Loader:
    """Batches as lists of tensors and samples, which mmsegmentation's preprocessor normalises and stacks.

    Raises StageError, while it is iterated, where the reader did.
    """
    return Loader(
        dataset,
        pseudo_collate,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
    )
