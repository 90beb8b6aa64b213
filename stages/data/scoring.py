"""Numbers of seeds, masks and predictions against true masks, under the keys `split/source/kind/metric`, in percent.

The only readers of true masks: nothing here runs before a result is written, and no training stage comes here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.core.files import write_text
from stages.data import plots
from stages.data.dataset import Dataset, Sample
from stages.data.images import VOID, Array, read_mask
from stages.formulas import metrics

if TYPE_CHECKING:
    import logging

Subsets = Mapping[str, Sequence[int]]
GRID = np.arange(1, 100) / 100  # candidate global thresholds; the fixed one joins them
DETAILS = "scores.json"


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

    def add_mean(self, key: str, table: Mapping[str, float]) -> None:
        """Enter a TABLE by class, of values in [0,1], and its mean under KEY, where any class has a value."""
        if table:
            self.metrics[key] = _percent(float(np.mean(list(table.values()))))
            self.classes[key] = {name: _percent(value) for name, value in table.items()}


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def require_size(truth: Array, size: tuple[int, ...]) -> None:
    """Raise StageError where a true mask (H,W) is not of its image's SIZE."""
    if truth.shape != size:
        raise StageError(
            "Cannot score an image",
            f"its mask has {truth.shape[1]}x{truth.shape[0]} pixels, the image {size[1]}x{size[0]}",
            "Replace the mask, or remove the folder of masks to go without numbers",
        )


class MapScores:
    """Scores of soft maps (C,H,W) with thresholds of three kinds: oracle, fixed, image-specific."""

    def __init__(self, dataset: Dataset, subsets: Subsets, fixed: float) -> None:
        self._names, self._subsets, self._fixed = dataset.classes, subsets, fixed
        self._count = len(dataset.classes) + 1
        self._sweep = metrics.ThresholdSweep([*GRID.tolist(), fixed], self._count)
        self._specific = np.zeros((self._count, self._count), dtype=np.int64)
        self._seen: set[int] = set()
        self._objects: list[_Object] = []

    def add(self, image: str, truth: Array, maps: NDArray[np.floating], ids: Sequence[int], labelled: Array | None) -> None:
        """Count an image: its id and true mask, its maps and their class ids, its label map by image-specific thresholds.

        Raises StageError when the mask is not of the image's size.
        """
        require_size(truth, maps.shape[1:])
        self._seen.update(np.unique(truth).tolist())
        found = metrics.objects(self._sweep.add(truth, maps, ids), ids)
        specific = np.full(self._count, np.nan)
        if labelled is not None:
            matrix = metrics.confusion(truth, labelled, self._count)
            self._specific += matrix
            specific = metrics.iou(matrix)
        for column, (label, pixels) in enumerate(zip(found.labels.tolist(), found.pixels.tolist(), strict=True)):
            if label < self._count:  # another label is an error, which the sweep tells of
                swept = found.ious[:, column].astype(np.float32)
                self._objects.append(_Object(image, label, pixels / truth.size, swept, float(specific[label])))

    def enter(self, scores: Scores, prefix: str) -> None:
        """Write what was counted under PREFIX, if any pixel was. The oracle threshold is the best for the first subset."""
        for kind, (threshold, matrix) in self._kinds().items():
            scores.add(f"{prefix}/{kind}", matrix, self._names, self._subsets)
            if threshold is not None:
                scores.metrics[f"{prefix}/{kind}/threshold"] = round(threshold, 3)

    def _kinds(self) -> dict[str, tuple[float | None, metrics.Confusion]]:
        """Threshold and confusion matrix of every kind that there is; empty where no pixel was counted."""
        if not self._seen - {VOID}:
            return {}
        chosen = [list(ids) for ids in self._subsets.values() if self._seen & set(ids)]
        kinds: dict[str, tuple[float | None, metrics.Confusion]] = {"oracle": self._sweep.oracle(chosen[0] if chosen else None)}
        kinds["fixed"] = self._fixed, self._sweep.matrices()[self._sweep.index(self._fixed)]
        if self._specific.any():
            kinds["image-specific"] = None, self._specific
        return kinds

    def detail(self) -> dict[str, Any]:
        """Everything that was counted, as plain values in percent (thresholds in [0,1]).

        `curve`: columns by threshold; `kinds`: by kind its threshold, IoU, precision and recall by class, and mean IoU by
        object size; `objects`: columns by object (one class in one image), with its share of the image and IoU by kind.
        """
        kinds = self._kinds()
        shares = np.array([o.share for o in self._objects])
        columns: dict[str, list[Any]] = {
            "image": [o.image for o in self._objects],
            "class": [self._names[o.label - 1] for o in self._objects],
            "share": _percents(shares),
        }
        described = {}
        for kind, (threshold, matrix) in kinds.items():
            ious = self._object_ious(threshold)
            columns[kind] = _percents(ious)
            rounded = None if threshold is None else round(threshold, 3)
            described[kind] = {"threshold": rounded, "classes": self._by_class(matrix), "sizes": _by_size(shares, ious)}
        return {"curve": self._curve(), "kinds": described, "objects": columns}

    def _object_ious(self, threshold: float | None) -> NDArray[np.float64]:
        """IoU of every object (J,) at a global threshold, or at the image-specific ones."""
        if threshold is None:
            return np.array([o.specific for o in self._objects])
        return np.array([o.swept[self._sweep.index(threshold)] for o in self._objects], dtype=np.float64)

    def _curve(self) -> dict[str, list[float | None]]:
        matrices = self._sweep.matrices()
        ious = metrics.iou(matrices)
        means = {"mIoU": ious, "precision": metrics.precision(matrices), "recall": metrics.recall(matrices)}
        columns = {name: _percents(metrics.mean_over(values)) for name, values in means.items()}
        columns |= {name: _percents(metrics.mean_over(ious, list(ids))) for name, ids in self._subsets.items()}
        return {"threshold": [round(float(t), 3) for t in self._sweep.thresholds], **columns}

    def _by_class(self, matrix: metrics.Confusion) -> dict[str, dict[str, float | None]]:
        values = {"IoU": metrics.iou(matrix), "precision": metrics.precision(matrix), "recall": metrics.recall(matrix)}
        columns = {name: _percents(numbers) for name, numbers in values.items()}
        rows = {label: {n: c[i] for n, c in columns.items()} for i, label in enumerate(("background", *self._names))}
        return {label: row for label, row in rows.items() if row["IoU"] is not None}


@dataclass(frozen=True)
class _Object:
    """One class in one image: its label, share of the image, IoU at every threshold (K,) and at the image-specific one."""

    image: str
    label: int
    share: float
    swept: NDArray[np.float32]
    specific: float


def _percents(shares: NDArray[np.float64]) -> list[float | None]:
    """In percent; None for what is not a number."""
    return [None if np.isnan(share) else _percent(share) for share in shares]


def _by_size(shares: NDArray[np.float64], ious: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Mean IoU of the objects in every size bin, all in percent."""
    counts, means = metrics.by_size(shares, ious)
    edges = [100 * edge for edge in (0.0, *metrics.SIZE_EDGES)]
    rows = zip(edges, edges[1:], counts.tolist(), _percents(means), strict=False)
    return [{"from": low, "to": high, "objects": count, "IoU": mean} for low, high, count, mean in rows]


def keep(folder: Path, split: str, counts: Mapping[str, MapScores]) -> None:
    """Write the details of every source into a stage's FOLDER: scores.json and curves.png.

    They are no outputs of the stage: true masks decide them, and a stage's digest knows of no masks.
    """
    detail = {"split": split, "sources": {source: count.detail() for source, count in counts.items()}}
    write_text(folder / DETAILS, json.dumps(detail, ensure_ascii=False, allow_nan=False) + "\n")
    plots.threshold_curves(folder / "curves.png", detail)


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
