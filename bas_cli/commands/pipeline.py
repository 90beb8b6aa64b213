"""Commands that run stages: `bas run`, and one for each stage or group."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bas_cli import console, numbers, options, progress
from bas_cli.commands.results import show_status
from bas_cli.options import Manner, Request
from stages import EXTRAS, PIPELINE
from stages.core import lists
from stages.core.errors import StageError

if TYPE_CHECKING:
    from stages.actions.run import Run
    from stages.actions.states import Report

FIRST, *_, LAST = PIPELINE
PREDICT = "segment_predict"
RUN = f"""Run every stage in order; what is fresh is kept.

DATASET is demo (generated), a folder of labelled photographs, or with --data DIR voc, voc_coco_init, coco, voc_small or
voc_small_ablation, or a YAML file; left out: that of the run.

Stages: {", ".join(PIPELINE)}."""
First = Annotated[str, typer.Option("--from", help="First stage.")]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Another list of images than val, with true masks or without, e.g. test.", show_default=False),
]
Until = Annotated[str, typer.Option("--until", help="Last stage.")]


@options.shared
def run(request: Request, manner: Manner, first: First = FIRST, until: Until = LAST) -> None:
    """Run the stages FIRST to UNTIL."""
    perform(request, manner, between(first, until))


def of_stages(*names: str) -> Callable[..., None]:
    """The command that runs the stages NAMES of one run."""

    @options.shared
    def command(request: Request, manner: Manner) -> None:
        perform(request, manner, names)

    words = "; ".join((PIPELINE | EXTRAS)[name] for name in names)
    command.__doc__ = f"{words[0].upper()}{words[1:]}."
    return command


@options.shared
def predict(request: Request, manner: Manner, split: Split = None) -> None:
    """Predictions on the validation split, or on another list, in a folder of its own (segment_predict@LIST)."""
    perform(request, manner, [PREDICT if split is None else lists.on(PREDICT, split)])


def between(first: str, until: str) -> list[str]:
    """The stages FIRST to UNTIL. Raises StageError."""
    names = list(PIPELINE)
    for name in (first, until):
        if name not in PIPELINE:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise StageError(
                f"Unknown stage '{name}'", "none of the pipeline", f"Did you mean '{near}'? Stages: {', '.join(names)}"
            )
    chosen = names[names.index(first) : names.index(until) + 1]
    if not chosen:
        raise StageError(f"--from {first} lies after --until {until}", "no stage is left to run", "Swap the two")
    return chosen


def perform(request: Request, manner: Manner, names: Sequence[str]) -> None:
    """Run stages in order and show what was done."""
    run = options.open_run(request, names, manner.dry_run)
    run.reporter = reporter = progress.reporter(manner.quiet)
    names = [run.canonical(name) for name in names]
    run.check(names)
    if manner.dry_run:
        show_plan(run, names, manner)
        return
    if not manner.quiet:
        console.note(f"run folder {run.folder}")
        run.on_note = console.stage_note
    run.on_warning = console.warn
    run.on_start = lambda: options.remember(run.folder)
    for report, ran in run.execute(names, reporter, manner.force):
        options.remember(run.folder)
        if not manner.quiet:
            console.stage_note(f"{report.name}: {_finished(report, ran)}   {numbers.headline(report.metrics, run.refined)}")
    _describe(run, names, manner)
    if not manner.quiet:
        _tell_pictures(run, names)
    if manner.as_json:
        show_status(run, None, manner.as_json)


def _describe(run: Run, names: Sequence[str], manner: Manner) -> None:
    """Bring the model cards up to date where one of the stages NAMES makes or tests a segmentation network."""
    from stages.actions import card

    for path in card.write(run) if {*card.STAGES, card.TESTED} & set(names) else ():
        if not manner.quiet:
            console.note(f"model card {path}")


def _tell_pictures(run: Run, names: Sequence[str]) -> None:
    """One line that says where the pictures of the stages NAMES lie: contact sheets, curves apart."""
    found = [path for name in names for path in sorted((run.folder / name).glob("*.png")) if path.stem != "curves"]
    if found:
        console.note(f"pictures in {run.folder}: {', '.join(str(path.relative_to(run.folder)) for path in found)}")


def _finished(report: Report, ran: bool) -> str:
    if ran:
        return f"done in {report.seconds:.1f} s"
    return "fresh, kept" if report.state == "done" else f"kept, but stale: {report.why}. `bas run` makes both anew"


def show_plan(run: Run, names: Sequence[str], manner: Manner) -> None:
    """What the stages NAMES would take, as a table or a document on stdout."""
    from stages.actions import estimate

    run.require_place()
    stages = estimate.plan(run, names, manner.force)
    due = [one.report.name for one in stages if one.due]
    run.require([one.report.name for one in stages], due)
    for address in run.to_fetch(due):
        console.note(f"not on this machine, and fetched at the beginning unless --weights names a file: {address}")
    rows, total = [one.row() for one in stages], estimate.rounded(estimate.total(stages))
    if manner.as_json:
        console.document({"run": str(run.folder), "stages": rows, "total": total})
        return
    console.plan_table(rows, total)
    console.note("estimates, good to a factor of two or three; a fresh stage is kept and takes nothing")
