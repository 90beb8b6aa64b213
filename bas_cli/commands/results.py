"""Commands that read a run: `bas status` and `bas eval`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bas_cli import console, options
from bas_cli.options import Request

if TYPE_CHECKING:
    from stages.actions.run import Run

Recompute = Annotated[bool, typer.Option("--recompute", help="Score the outputs again instead of reading the manifests.")]


def status(run: options.RunDir = None, as_json: options.Json = False) -> None:
    """What is done, stale (and why) or missing."""
    show_status(options.open_run(Request(run=run)), None, as_json)


def show_status(run: Run, names: Sequence[str] | None, as_json: bool) -> None:
    """The state of the stages NAMES, or of all that this run has, as a table or a document on stdout."""
    rows = [report.row() for report in run.reports() if names is None or report.name in names]
    if as_json:
        console.document({"run": str(run.folder), "stages": rows})
    else:
        console.status_table(rows)


def evaluate(
    run: options.RunDir = None, recompute: Recompute = False, as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """The numbers of every finished stage, in percent."""
    from stages.actions.evaluate import collect

    found = collect(options.open_run(Request(run=run)), recompute, console.reporter(quiet))
    if as_json:
        console.document({"stages": found.metrics, "classes": found.classes})
        return
    if not found.metrics:
        console.note("no stage of this run has finished yet: `bas status` says how far it is")
    console.show(console.metric_tables(found.metrics, found.classes))
