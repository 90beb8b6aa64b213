"""The cells of an ablation: one run folder for each seed and each training that a table's rows need.

    <run>/ablate/<table>/seed<k>/<variant>/{seed_train, cam_train, seed_infer}

A cell is an ordinary run as far as the seeds: it resumes, and `bas status --run` shows it. Rows that differ only in the
source that they score are one cell. A stage that is finished anywhere else in the run is linked, not computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.actions import configure
from stages.actions.run import Run
from stages.actions.states import Report
from stages.actions.tables import Configured, Row, Table
from stages.core import freshness
from stages.core import stage as contract
from stages.core.config import Section, merge
from stages.core.errors import StageError
from stages.core.files import TEMPORARY, link
from stages.data import sources
from stages.data.dataset import generated_root

FOLDER = "ablate"
STAGES = ("seed_train", "seed_infer")  # and before the second the extra ones that its sources call for
UNCHANGED = "configured"  # the variant that changes nothing


@dataclass(frozen=True)
class Cell:
    """One training of a table: its seed, its variant, the rows that it serves, its run."""

    seed: int
    variant: str
    rows: tuple[Row, ...]
    run: Run

    @property
    def stages(self) -> list[str]:
        """The stages that it takes."""
        return configure.plan(self.run.sections, STAGES)

    @property
    def finished(self) -> bool:
        """Whether all of its stages are fresh."""
        return all(report.state == "done" for report in self.reports())

    def reports(self) -> list[Report]:
        """The state of its stages."""
        return [report for report in self.run.reports() if report.name in self.stages]


def grid(base: Run, name: str, table: Table, seeds: int) -> list[Cell]:
    """The cells of a table, seed by seed from the run's own on. Raises StageError where a row's settings are refused."""
    configured = _spelt_out(base.sections["seed_train"])
    variants: dict[str, list[Row]] = {}
    for row in table.rows:
        variants.setdefault(variant(row, configured), []).append(row)
    first = vars(base.sections["runtime"])["seed"]
    folder = base.folder / FOLDER / name
    return [
        Cell(seed, key, tuple(rows), Run(folder / f"seed{seed}" / key, _sections(base, configured, rows, seed), base.look))
        for seed in range(first, first + seeds)
        for key, rows in variants.items()
    ]


def _spelt_out(config: Section) -> dict[str, Any]:
    """The settings of seed_train, β worked out where it follows α and λ: a row that changes those leaves it alone."""
    values = config.plain()
    return values | ({"beta": values["alpha"] + values["lam"]} if values["beta"] is None else {})


def changed(row: Row, configured: Mapping[str, Any]) -> dict[str, Any]:
    """What a row changes, with the values that it takes from the configuration."""
    return {key: configured[value.key] if isinstance(value, Configured) else value for key, value in row.change.items()}


def variant(row: Row, configured: Mapping[str, Any]) -> str:
    """The name of the training that a row needs: what it changes."""
    parts = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in changed(row, configured).items()
    ]
    return ",".join(parts) or UNCHANGED


def _sections(base: Run, configured: Mapping[str, Any], rows: Sequence[Row], seed: int) -> dict[str, Section]:
    """The configuration of a cell: the run's, with the rows' changes and sources, for the scored images alone."""
    scored = list(dict.fromkeys(row.source for row in rows))
    training = {**configured, **changed(rows[0], configured)}
    if "agnostic" in sources.maps_of(scored) and training["agnostic"] == "none":
        training["agnostic"] = "detached"  # the other maps learn as they would without it
    data = {"reader": "voc", "root": str(generated_root(base.folder).absolute()), "generate": None} if base.recipe else {}
    changes = {
        "data": data,
        "runtime": {"seed": seed},
        "seed_train": training,
        "seed_infer": {"sources": scored, "images": "score", "search": "score"},
        "refine": {"seed": scored[0]},
    }
    plain = {key: section.plain() for key, section in base.sections.items()}
    return configure.build(merge(plain, changes), configure.sections())


def check(base: Run, cells: Sequence[Cell]) -> None:
    """Raise StageError where a cell cannot use the data or lacks weights, and where there is nothing to score with."""
    absent = next((sample.id for sample in base.dataset.split("score") if base.dataset.mask(sample) is None), None)
    if absent is not None:
        raise StageError(
            "Cannot compare anything",
            f"image '{absent}' of the scored list has no true mask",
            "Name a list with true masks: --set data.score=LIST",
        )
    for cell in cells:
        cell.run.check(cell.stages)


def execute(cell: Cell, base: Run, reporter: contract.Reporter, force: bool) -> Iterator[tuple[Report, str]]:
    """Bring a cell to its end; yields each stage's report and how it came: "made", "kept" or "shared"."""
    for name in cell.stages:  # one by one: what may be linked depends on the stages before
        if force:
            shutil.rmtree(cell.run.folder / name, ignore_errors=True)
        shared = not force and _share(cell.run, name, base.folder)
        made = {report.name: made for report, made in cell.run.execute([name], reporter)}[name]
        yield cell.run.report(name), "made" if made else "shared" if shared else "kept"


def _share(run: Run, name: str, home: Path) -> bool:
    """Link the finished result of a stage that lies elsewhere in HOME, if it is missing here and the same is wanted."""
    wanted, target = run.wanted(name), run.folder / name
    if freshness.state(target, wanted).state == "done":
        return False
    others = (folder for folder in (home / name, *sorted(home.glob(f"{FOLDER}/*/*/*/{name}"))) if folder != target)
    found = next((folder for folder in others if freshness.state(folder, wanted).state == "done"), None)
    if found is not None:
        _link(found, target)
    return found is not None


def _link(source: Path, target: Path) -> None:
    """Make the folder TARGET of links to the files in SOURCE, whole or not at all: finished files are never written into."""
    temporary = target.with_name(f".{target.name}{TEMPORARY}")
    for leftover in (temporary, target):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=link)
    temporary.rename(target)
