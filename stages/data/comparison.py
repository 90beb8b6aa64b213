"""Seeds and refined masks side by side: what the label-free signs say of them, image by image, and whether they are right.

`signs.json` holds, by image, the present class ids (0-based) and pairs of numbers, the seed's and the refined mask's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.files import read_json, write_json
from stages.data.images import Array
from stages.data.scoring import Scores, Subsets
from stages.formulas import metrics, signs
from stages.formulas.signs import Numbers

NAMES = (*signs.WEIGHTS, signs.COMBINED)
LOOK_BETTER = f"train/signs/{signs.COMBINED}/masks look better"  # percentage of all cases
KINDS = ("masks", "seeds", "better")


@dataclass(frozen=True)
class Comparison:
    """The numbers of one image with P present classes: loss, agreement and area (2,P), rows seed and refined mask."""

    classes: tuple[int, ...]
    loss: Numbers
    agreement: Numbers
    area: Numbers

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Comparison:
        """From the plain values that `plain` gives."""
        arrays = (np.array(values[name], dtype=np.float64) for name in signs.NUMBERS)
        return cls(tuple(values["classes"]), *arrays)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"classes": list(self.classes), **{name: plain(getattr(self, name)) for name in signs.NUMBERS}}

    def preferences(self) -> dict[str, Numbers]:
        """What each sign, and all of them together, say of the classes: above 0 for the refined mask, below for the seed."""
        said = signs.preferences(self.loss, self.agreement, self.area)
        return said | {signs.COMBINED: signs.combined(said)}

    @property
    def from_seed(self) -> tuple[int, ...]:
        """The classes whose seed looks better."""
        return tuple(index for index, value in zip(self.classes, self.preferences()[signs.COMBINED], strict=True) if value < 0)


def plain(values: Numbers) -> list[list[float | None]]:
    """Rows of numbers as JSON values; null for what is not a number, as a loss that cannot be judged."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]


Table = Mapping[str, Comparison]  # by image


def write(path: Path, table: Table) -> None:
    """Keep the comparisons of all images in one file."""
    write_json(path, {image: one.plain() for image, one in table.items()})


def read(path: Path) -> dict[str, Comparison] | None:
    """The comparisons that `write` kept, or None where the file is not there."""
    values = read_json(path)
    return None if values is None else {image: Comparison.of(one) for image, one in values.items()}


def summary(table: Table) -> dict[str, float]:
    """Means over all present classes of all images, and the percentage of them whose refined mask looks better."""
    if not table:
        return {}
    loss, agreement, area = (np.concatenate([getattr(c, name) for c in table.values()], 1) for name in signs.NUMBERS)
    vanished = 100 * (area == 0).mean(1)
    found = {signs.LOSS: np.nanmean(loss, 1), signs.AGREEMENT: 100 * agreement.mean(1), signs.VANISHED: vanished}
    rows = {f"{name}/{kind}": values[row] for name, values in found.items() for row, kind in enumerate(("seeds", "masks"))}
    said = {name: np.concatenate([c.preferences()[name] for c in table.values()]) for name in NAMES}
    rows |= {f"{name}/masks look better": 100 * (values > 0).mean() for name, values in said.items()}
    return {f"train/signs/{key}": round(float(value), 3) for key, value in rows.items() if np.isfinite(value)}


def by_class(table: Table) -> dict[int, float]:
    """Votes of the images by class id, in [-1,1]: below 0, refinement looks worse than the seed in most of them.

    Votes and not a mean of the signs: the loss, which the seed network gives, leans towards its own seeds.
    """
    found: dict[int, list[float]] = {}
    for one in table.values():
        for index, value in zip(one.classes, np.sign(one.preferences()[signs.COMBINED]).tolist(), strict=True):
            found.setdefault(index, []).append(value)
    return {index: float(np.mean(values)) for index, values in sorted(found.items())}


@dataclass
class Proof:
    """Confusion matrices of seeds, refined masks and the better of both, and how often the signs prefer what true IoU does."""

    names: Sequence[str]
    subsets: Subsets
    said: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    gain: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.names) + 1
        self._matrices = {kind: np.zeros((count, count), dtype=np.int64) for kind in KINDS}

    def add(self, one: Comparison, truth: Array, seed: Array, refined: Array) -> None:
        """Count an image: its comparison, true mask, seed mask and refined mask (H,W)."""
        masks = {"masks": refined, "seeds": seed, "better": signs.mixed(seed, refined, one.from_seed)}
        ious = {}
        for kind, mask in masks.items():
            matrix = metrics.confusion(truth, mask, len(self.names) + 1)
            self._matrices[kind] += matrix
            ious[kind] = metrics.iou(matrix)
        self.gain += np.nan_to_num(ious["masks"] - ious["seeds"])[[index + 1 for index in one.classes]].tolist()
        for name, values in one.preferences().items():
            self.said[name] += values.tolist()

    def enter(self, scores: Scores) -> None:
        """Write mIoU of the three, and in percent how often each sign is right, if an image was counted."""
        if not self.gain:
            return
        for kind, matrix in self._matrices.items():
            scores.add(f"train/compared/{kind}", matrix, self.names, self.subsets)
        for name, values in self.said.items():
            found = signs.rightness(np.array(values), np.array(self.gain))
            scores.metrics |= {f"train/signs/{name}/{key}": value for key, value in _shown(found)}


def _shown(found: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    """Shares in percent, the number of cases as it is; nothing for what is not known."""
    for key, value in found.items():
        if value is not None:
            yield key, value if key == "cases" else round(100 * value, 1)
