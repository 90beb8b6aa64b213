"""Numbers of seeds, masks and predictions against true masks, under the keys `split/source/kind/metric`, in percent.

The only readers of true masks: nothing here runs before a result is written, and no training stage comes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.data.dataset import Dataset, Sample
from stages.data.images import VOID, Array, read_mask
from stages.formulas import metrics

if TYPE_CHECKING:
    import logging

Subsets = Mapping[str, Sequence[int]]
GRID = np.arange(1, 100) / 100  # candidate global thresholds


@dataclass
class Scores:
    """Metrics by key and IoU tables by class, both in percent."""

    metrics: dict[str, float] = field(default_factory=dict)
    classes: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, key: str, matrix: metrics.Confusion, names: Sequence[str], subsets: Subsets) -> None:
        """Enter the mean IoU of a confusion matrix under KEY/mIoU, the subsets' beside it, and the table by class."""
        means = {"mIoU": metrics.miou(matrix)} | {name: metrics.miou(matrix, list(ids)) for name, ids in subsets.items()}
        # A mean over classes of which no pixel is there is not a number, and no key.
        self.metrics |= {f"{key}/{name}": _percent(mean) for name, mean in means.items() if not np.isnan(mean)}
        values = metrics.iou(matrix)
        labels = ("background", *names)
        self.classes[f"{key}/mIoU"] = {label: _percent(v) for label, v in zip(labels, values, strict=True) if not np.isnan(v)}


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


class MapScores:
    """Scores of soft maps (C,H,W) with thresholds of three kinds: oracle, fixed, image-specific."""

    def __init__(self, dataset: Dataset, subsets: Subsets, fixed: float) -> None:
        self._names, self._subsets, self._fixed = dataset.classes, subsets, fixed
        count = len(dataset.classes) + 1
        self._sweep = metrics.ThresholdSweep(GRID.tolist(), count)
        self._at_fixed = metrics.ThresholdSweep([fixed], count)
        self._specific = np.zeros((count, count), dtype=np.int64)
        self._seen: set[int] = set()

    def add(self, truth: Array, maps: NDArray[np.floating], ids: Sequence[int], labelled: Array | None) -> None:
        """Count an image: its true mask, its maps and their class ids, and its label map by image-specific thresholds.

        Raises StageError when the mask is not of the image's size.
        """
        if truth.shape != maps.shape[1:]:
            raise StageError(
                "Cannot score an image",
                f"its mask has {truth.shape[1]}x{truth.shape[0]} pixels, the image {maps.shape[2]}x{maps.shape[1]}",
                "Replace the mask, or remove the folder of masks to go without numbers",
            )
        self._seen.update(np.unique(truth).tolist())
        self._sweep.add(truth, maps, ids)
        self._at_fixed.add(truth, maps, ids)
        if labelled is not None:
            self._specific += metrics.confusion(truth, labelled, len(self._names) + 1)

    def enter(self, scores: Scores, prefix: str) -> None:
        """Write what was counted under PREFIX, if any pixel was. The oracle threshold is the best for the first subset."""
        if not self._seen - {VOID}:
            return
        chosen = [list(ids) for ids in self._subsets.values() if self._seen & set(ids)]
        threshold, matrix = self._sweep.oracle(chosen[0] if chosen else None)
        scores.add(f"{prefix}/oracle", matrix, self._names, self._subsets)
        scores.metrics[f"{prefix}/oracle/threshold"] = round(threshold, 3)
        scores.add(f"{prefix}/fixed", self._at_fixed.matrices()[0], self._names, self._subsets)
        scores.metrics[f"{prefix}/fixed/threshold"] = self._fixed
        if self._specific.any():
            scores.add(f"{prefix}/image-specific", self._specific, self._names, self._subsets)


@dataclass(frozen=True)
class Pairs:
    """Samples with their true masks, decoded one by one while they are walked through."""

    rows: tuple[tuple[Sample, Path], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Sample, Array]]:
        return ((sample, read_mask(path)) for sample, path in self.rows)


def with_truth(dataset: Dataset, role: str, log: logging.Logger) -> Pairs | None:
    """Samples of a split with their true masks, or None when any mask is absent: then nothing is scored, and LOG says why."""
    paths = [(sample, dataset.mask(sample)) for sample in dataset.split(role)]
    absent = [sample.id for sample, path in paths if path is None]
    if absent:
        log.info("nothing is scored: %d of %d images have no true mask, first '%s'", len(absent), len(paths), absent[0])
        return None
    return Pairs(tuple((sample, path) for sample, path in paths if path is not None))
