"""Which class is taken for which: the confusion matrices of a network's predictions, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.files import write_text
from stages.data import plots
from stages.data.images import Array
from stages.formulas import boundary, metrics

if TYPE_CHECKING:
    from stages.data.scoring import Scores, Subsets

FILE = "confusion.json"
BOUNDARY = "boundary-F"


@dataclass
class Tally:
    """What is counted of the predictions of one kind: pixels by true and predicted class, and boundary pixels."""

    names: Sequence[str]  # of classes, without background
    pixels: metrics.Confusion = field(init=False)
    edges: boundary.Counts = field(init=False)

    def __post_init__(self) -> None:
        self.labels = ("background", *self.names)
        self.pixels = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        self.edges = np.zeros((len(self.labels), 4), dtype=np.int64)

    def add(self, truth: Array, prediction: Array) -> None:
        """Count an image. Raises StageError where the sizes differ or a label is neither a class nor void."""
        self.pixels += metrics.confusion(truth, prediction, len(self.labels))
        self.edges += boundary.count(truth, prediction, len(self.labels))

    def by_class(self) -> dict[str, dict[str, float]]:
        """IoU, precision, recall and boundary F-score by class in [0,1]; where one is not a number it is left out."""
        columns = {
            "IoU": metrics.iou(self.pixels),
            "precision": metrics.precision(self.pixels),
            "recall": metrics.recall(self.pixels),
            BOUNDARY: boundary.f_score(self.edges),
        }
        return {
            name: {label: float(value) for label, value in zip(self.labels, values, strict=True) if not np.isnan(value)}
            for name, values in columns.items()
        }

    def enter(self, scores: Scores, prefix: str, subsets: Subsets) -> None:
        """Write the mean IoU (and that of SUBSETS), with its table by class, and the mean boundary F-score under PREFIX."""
        scores.add(prefix, self.pixels, self.names, subsets)
        table = self.by_class()[BOUNDARY]
        if table:
            scores.metrics[f"{prefix}/{BOUNDARY}"] = round(100 * sum(table.values()) / len(table), 2)

    def detail(self) -> dict[str, Any]:
        """The matrix in pixels, and the numbers by class in percent."""
        tables = {name: {label: round(100 * v, 2) for label, v in table.items()} for name, table in self.by_class().items()}
        return {"pixels": self.pixels.tolist(), "classes": tables}

    def shares(self) -> np.ndarray:
        """Percent of each true class's pixels (G,G) that were predicted as each class; NaN without any."""
        totals = self.pixels.sum(1, keepdims=True)
        return np.divide(100.0 * self.pixels, totals, out=np.full(self.pixels.shape, np.nan), where=totals > 0)

    def as_csv(self) -> str:
        """The matrix in pixels: a line a true class, a column a predicted one."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["true \\ predicted", *self.labels])
        rows.writerows([label, *row] for label, row in zip(self.labels, self.pixels.tolist(), strict=True))
        return text.getvalue()


def keep(folder: Path, split: str, kinds: Mapping[str, Tally]) -> None:
    """Write confusion.json, confusion.png and confusion_<kind>.csv into a stage's FOLDER.

    They are no outputs of the stage: true masks decide them.
    """
    labels = next(iter(kinds.values())).labels
    document = {"split": split, "labels": labels, "kinds": {kind: tally.detail() for kind, tally in kinds.items()}}
    write_text(folder / FILE, json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
    for kind, tally in kinds.items():
        write_text(folder / f"confusion_{kind}.csv", tally.as_csv())
    plots.confusion(folder / "confusion.png", split, labels, {kind: tally.shares() for kind, tally in kinds.items()})
