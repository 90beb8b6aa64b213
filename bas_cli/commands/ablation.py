"""`bas ablate`: a table of the paper, with ours beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bas_cli import console, numbers, options, progress
from bas_cli.options import Manner, Request
from stages.actions.tables import TABLES

if TYPE_CHECKING:
    from stages.actions.cells import Cell
    from stages.actions.run import Run

HELP = f"""Train and score every row of a table of the paper, and show ours beside it; what is finished is kept.

TABLE is {", ".join(TABLES)}. Rows are scored on the scored list; differences are paired: seed by seed, then their mean and
spread. Every training is a run of its own under RUN/ablate/."""
HOW = {"made": "done", "kept": "fresh, kept", "shared": "finished elsewhere in the run, linked"}
TRAINED = ("seed_train", "cam_train", "seed_infer")  # what --weights is for
Name = Annotated[str, typer.Argument(metavar="TABLE", help="One of those named above.", show_default=False)]
Seeds = Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Random seeds a row, from runtime.seed on.")]
Report = Annotated[bool, typer.Option("--report", help="Show what is finished; train nothing.")]


@options.shared
def ablate(request: Request, manner: Manner, table: Name, seeds: Seeds = 3, report: Report = False) -> None:
    """Train and score the rows of a table of the paper and show ours beside it."""
    from stages.actions import ablate as numbers
    from stages.actions import cells, tables

    wanted = tables.find(table)
    run = options.open_run(request, TRAINED, manner.dry_run)
    run.reporter = progress.reporter(manner.quiet)
    grid = cells.grid(run, table, wanted, seeds)
    if manner.dry_run:
        run.check(cells.STAGES)
        show_plan(run, grid, manner)
        return
    if not report:
        perform(run, grid, manner)
    found = numbers.result(wanted, grid)
    if manner.as_json:
        console.document({"run": str(run.folder), "table": table, **found.document()})
        return
    console.ablation_table(found)


def perform(run: Run, grid: Sequence[Cell], manner: Manner) -> None:
    """Bring every cell to its end and say how far the grid is."""
    from stages.actions import cells

    run.check(cells.STAGES)
    run.begin()
    cells.check(run, grid)
    for number, cell in enumerate(grid, 1):
        if not manner.quiet:
            console.note(f"cell {number} of {len(grid)}: {cell.run.folder}")
            cell.run.on_note = console.stage_note
        cell.run.on_warning = console.warn
        cell.run.on_start = lambda: options.remember(run.folder)
        for report, how in cells.execute(cell, run, progress.reporter(manner.quiet), manner.force):
            options.remember(run.folder)
            if not manner.quiet:
                console.stage_note(f"{report.name}: {HOW[how]}   {numbers.headline(report.metrics, cell.run.refined)}")


def show_plan(run: Run, grid: Sequence[Cell], manner: Manner) -> None:
    """What the grid would take, stage by stage of every cell, as a table or a document on stdout."""
    from stages.actions import estimate

    run.require_place()
    data = estimate.facts(run)
    rows, stages = [], []
    for cell in grid:
        planned = estimate.plan(cell.run, cell.stages, manner.force, data)
        stages += planned
        rows += [{**one.row(), "name": f"seed{cell.seed}/{cell.variant}/{one.report.name}"} for one in planned]
    total = estimate.rounded(estimate.total(stages))
    if manner.as_json:
        console.document({"run": str(run.folder), "stages": rows, "total": total})
        return
    console.plan_table(rows, total)
    console.note(
        "estimates, good to a factor of two or three; a stage that is finished elsewhere in the run is linked and takes nothing"
    )
