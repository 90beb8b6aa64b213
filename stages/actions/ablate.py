"""An ablation's numbers: every row's mean over seeds and its spread, and the paired differences between rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from stages.actions.cells import Cell
from stages.actions.run import Run
from stages.actions.tables import KINDS, Row, Table
from stages.core.manifest import read_manifest

Values = Mapping[int, float]  # by seed, in percent; a seed that is not finished is left out


class Place(NamedTuple):
    """A row and a kind of threshold."""

    row: str
    kind: str


@dataclass(frozen=True)
class Spread:
    """A mean over COUNT seeds and their sample standard deviation; one seed has none."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Line:
    """One row at one kind of threshold: the paper's figure, ours, and how much they are above what they are compared with."""

    place: Place
    paper: float | None
    values: Values
    ours: Spread | None
    differences: Mapping[str, Spread]  # by the row, or the kind of threshold, that is subtracted


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation; None of nothing."""
    if not values:
        return None
    deviation = round(statistics.stdev(values), 3) if len(values) > 1 else None
    return Spread(round(statistics.fmean(values), 3), deviation, len(values))


def paired(values: Values, base: Values) -> Spread | None:
    """Mean and spread of the differences VALUES - BASE, seed by seed, over the seeds that both have."""
    return spread([value - base[seed] for seed, value in values.items() if seed in base])


def compare(table: Table, values: Mapping[Place, Values]) -> list[Line]:
    """The lines of a table: its rows by all kinds of threshold."""
    return [_line(table, row, Place(row.label, kind), values) for row in table.rows for kind in KINDS]


def _line(table: Table, row: Row, place: Place, values: Mapping[Place, Values]) -> Line:
    own = values[place]
    subtracted = {kind: Place(row.label, kind) for kind in KINDS[: KINDS.index(place.kind)]} if table.thresholds else {}
    base = best([Place(label, place.kind) for label in row.base], values)
    subtracted |= {base.row: base} if base is not None else {}
    differences = {name: paired(own, values[other]) for name, other in subtracted.items()}
    found = {name: difference for name, difference in differences.items() if difference is not None}
    return Line(place, row.paper.get(place.kind), own, spread(list(own.values())), found)


def best(places: Sequence[Place], values: Mapping[Place, Values]) -> Place | None:
    """Of PLACES that have values the one with the highest mean."""
    means = {place: found.mean for place in places if (found := spread(list(values[place].values()))) is not None}
    return max(means, key=lambda place: means[place], default=None)


def metric(run: Run) -> str:
    """The mean that is compared: that of the first subset, else of all classes."""
    return next(iter(vars(run.sections["eval"])["subset"] or {"mIoU": ()}))


def collect(table: Table, finished: Sequence[Cell], name: str) -> dict[Place, dict[int, float]]:
    """The metric NAME of every row and kind by seed, from the manifests of FINISHED cells."""
    values: dict[Place, dict[int, float]] = {Place(row.label, kind): {} for row in table.rows for kind in KINDS}
    for cell in finished:
        metrics = (read_manifest(cell.run.folder / "seed_infer") or {}).get("metrics", {})
        for row in cell.rows:
            for kind in KINDS:
                key = f"train/{row.source}/{kind}/{name}"
                if key in metrics:
                    values[Place(row.label, kind)][cell.seed] = metrics[key]
    return values


@dataclass(frozen=True)
class Result:
    """A table with its numbers."""

    table: Table
    metric: str
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    missing: tuple[Cell, ...]

    def document(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "title": self.table.title,
            "note": self.table.note,
            "metric": self.metric,
            "seeds": list(self.seeds),
            "rows": [_plain(line) for line in self.lines],
            "missing": [str(cell.run.folder) for cell in self.missing],
        }


def _plain(line: Line) -> dict[str, Any]:
    differences = {name: asdict(difference) for name, difference in line.differences.items()}
    ours = None if line.ours is None else asdict(line.ours)
    values = {str(seed): value for seed, value in line.values.items()}
    return {**line.place._asdict(), "paper": line.paper, "ours": ours, "values": values, "differences": differences}


def result(table: Table, cells: Sequence[Cell]) -> Result:
    """What there is now of a table, from its cells."""
    name = metric(cells[0].run)
    seeds = tuple(dict.fromkeys(cell.seed for cell in cells))
    finished = [cell for cell in cells if cell.finished]
    missing = tuple(cell for cell in cells if cell not in finished)
    return Result(table, name, seeds, tuple(compare(table, collect(table, finished, name))), missing)
