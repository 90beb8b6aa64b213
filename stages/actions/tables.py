"""The papers' ablations as data: what each row changes, which seeds it scores, and what the paper has in its place.

Figures are mIoU in percent on the training list of PASCAL VOC 2012 with ResNet50 (BAS, IJCV 2023, section 5), without
COCO's. The paper names no kind of threshold but in Table 15; its figures stand beside `oracle`, the best global one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stages.core.errors import StageError

ORACLE, FIXED, SPECIFIC = KINDS = ("oracle", "fixed", "image-specific")  # thresholds, as the metrics' keys name them


class Configured(NamedTuple):
    """In place of a value: the one that the run's configuration gives to a setting of seed_train."""

    key: str


@dataclass(frozen=True)
class Row:
    """A row: the source of seeds that it scores, settings of seed_train that it changes, the paper's figure by threshold.

    BASE: rows that it is compared with; of several, the one with the better mean.
    """

    label: str
    source: str = "bas"
    change: Mapping[str, Any] = field(default_factory=dict)
    base: tuple[str, ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table: its title, its rows, a note to the reader; THRESHOLDS compares the kinds of threshold within a row too."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""
    thresholds: bool = False


def oracle(value: float) -> dict[str, float]:
    """A figure of the paper at the best global threshold."""
    return {ORACLE: value}


WITHOUT = ("without L_bas", "without L_bas, β = α")
WITHOUT_BAS = (
    Row(WITHOUT[0], change={"lam": 0.0}, paper=oracle(50.1)),
    Row(WITHOUT[1], change={"lam": 0.0, "beta": Configured("alpha")}, paper=oracle(50.1)),
)
BAS = Row("BAS", base=WITHOUT, paper={ORACLE: 57.7, SPECIFIC: 57.8})
FUSED = (
    Row("BAS + replace", "replace", base=("BAS",), paper=oracle(57.9)),
    Row("BAS + average", "average", base=("BAS",), paper=oracle(58.3)),
)
CAM = Row("CAM of the same network", "cam")
IRN = Row("CAM of IRN's network", "irn", paper={ORACLE: 48.8, SPECIFIC: 49.5})
SUMS = (
    Row("BAS + CAM", "bas+cam", base=(CAM.label,)),
    Row("BAS + IRN's CAM", "bas+irn", base=(IRN.label,), paper=oracle(58.2)),
)
FUSED_SUMS = (
    Row("average + CAM", "average+cam", base=(SUMS[0].label,)),
    Row("average + IRN's CAM", "average+irn", base=(SUMS[1].label,)),
)
DETACHED = "average: detached"
BETA_NOTE = "Without L_bas, β is as configured or follows the paper's principle β = α + λ; its one figure does not say which."


def _weights(alpha: float, paper: float) -> Row:
    """A row of Table 7, where β = α + λ; the first is the published setting."""
    change = {"alpha": alpha, "beta": round(alpha + 1, 1), "lam": 1.0}
    base = () if alpha == 0.2 else ("α 0.2, β 1.2, λ 1",)
    return Row(f"α {alpha:g}, β {change['beta']:g}, λ 1", change=change, base=base, paper=oracle(paper))


def _one(letter: str, key: str, *values: float) -> tuple[Row, ...]:
    """Rows of Fig. 18: one weight at a time takes other VALUES."""
    return tuple(Row(f"{letter} = {value:g}", change={key: value}, base=("as configured",)) for value in values)


TABLES: dict[str, Table] = {
    "seeds": Table(
        "Sources of seeds and kinds of threshold (Tables 6, 9, 13 and 15 together)",
        (CAM, IRN, *WITHOUT_BAS, BAS, *FUSED, *SUMS, *FUSED_SUMS),
        BETA_NOTE,
        thresholds=True,
    ),
    "table6": Table("Table 6: the loss L_bas", (*WITHOUT_BAS, BAS), BETA_NOTE),
    "table7": Table(
        "Table 7: α, β and λ together",
        (_weights(0.2, 57.73), _weights(0.5, 57.68), _weights(0.7, 57.55), _weights(1.0, 57.41), _weights(1.5, 57.16)),
    ),
    "fig18": Table(
        "Fig. 18: α, β and λ one by one",
        (
            Row("as configured"),
            *_one("α", "alpha", 0.0, 0.1, 0.2, 0.5, 1.0),
            *_one("β", "beta", 0.4, 0.8, 1.2, 1.6),
            *_one("λ", "lam", 0.4, 0.8, 1.2, 1.6),
        ),
        "The paper draws curves: better above α = 0.1, flat from 0.15 to 0.5; far worse at small β; flat at λ from 0.8 to 1.2.",
    ),
    "table8": Table(
        "Table 8: the layer that the generator reads",
        (
            Row("layer 1", change={"generator_after": 1}, base=("layer 3",), paper=oracle(28.6)),
            Row("layer 2", change={"generator_after": 2}, base=("layer 3",), paper=oracle(41.2)),
            Row("layer 3", change={"generator_after": 3}, paper=oracle(57.7)),
            Row("layer 4", change={"generator_after": 4}, base=("layer 3",), paper=oracle(55.3)),
        ),
    ),
    "table9": Table("Table 9: BAS added to the CAM of IRN", (IRN, Row("BAS", paper=oracle(57.7)), SUMS[1])),
    "fig11": Table(
        "Fig. 11: masking the image or the features",
        (
            Row("features", change={"masked": "features"}),
            Row("image", change={"masked": "image"}, base=("features",)),
        ),
        "The paper shows pictures: masked features cover the object better.",
    ),
    "table13": Table(
        "Table 13: the class-agnostic foreground map beside the class-specific ones",
        (Row("BAS", paper=oracle(57.7)), *FUSED),
    ),
    "agnostic": Table(
        "What the paper leaves open of the class-agnostic map: its gradient to the trunk, its area with several classes",
        (
            Row("BAS", change={"agnostic": "detached"}),
            Row(DETACHED, "average", change={"agnostic": "detached"}, base=("BAS",)),
            Row("average: detached, its area once", "average", {"agnostic": "detached", "agnostic_area": "once"}, (DETACHED,)),
            Row("BAS beside shared", change={"agnostic": "shared"}, base=("BAS",)),
            Row("average: shared", "average", change={"agnostic": "shared"}, base=(DETACHED,)),
        ),
        "The paper's average is 0.6 above BAS alone (Table 13).",
    ),
    "area": Table(
        "The area term's power: below 1 it tolerates objects of all sizes (section 6)",
        (
            Row("power 1", change={"area_power": 1.0}),
            *(Row(f"power {power:g}", change={"area_power": power}, base=("power 1",)) for power in (0.5, 0.75)),
        ),
    ),
    "table15": Table(
        "Table 15: one global threshold, or image-specific ones",
        (CAM, IRN, Row("BAS", paper=BAS.paper), *(Row(sum_.label, sum_.source) for sum_ in SUMS)),
        "The paper's CAM is that of IRN (48.8 in Table 9).",
        thresholds=True,
    ),
}


def find(name: str) -> Table:
    """The table NAME. Raises StageError that names the nearest one."""
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, n=1, cutoff=0.0)[0]
        raise StageError(f"Unknown table '{name}'", "no such ablation", f"Did you mean '{near}'? Tables: {', '.join(TABLES)}")
    return TABLES[name]
