"""Commands that read a run: `bas status` and `bas eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bas_cli import console, numbers, options, progress
from bas_cli.options import Request

if TYPE_CHECKING:
    from rich.table import Table

    from stages.actions.evaluate import Collected
    from stages.actions.run import Run

Curves = Annotated[bool, typer.Option("--curves", help="The whole threshold curves, and precision and recall by class.")]
Classes = Annotated[bool, typer.Option("--classes", help="IoU by class of every source too.")]
Confusion = Annotated[bool, typer.Option("--confusion", help="Which class the network takes for which.")]
Recompute = Annotated[bool, typer.Option("--recompute", help="Score the outputs again instead of reading the manifests.")]

LARGEST = 15  # confusions in a table
SCORED = {"seed_infer", "irn_masks", "segment_predict"}  # stages that have numbers where true masks are
SHOWN = tuple(step / 20 for step in range(1, 20))  # thresholds that have a row; the file has them all


def status(run: options.RunDir = None, as_json: options.Json = False) -> None:
    """What is done, stale (and why) or missing."""
    opened = options.open_run(Request(run=run), look=True)
    show_status(opened, None, as_json)
    opened.hashes.save()


def show_status(run: Run, names: Sequence[str] | None, as_json: bool) -> None:
    """The state of the stages NAMES, or of all that this run has, as a table or a document on stdout."""
    from stages.actions.evaluate import supervision

    rows = [report.row() for report in run.reports() if names is None or report.name in names]
    if as_json:
        console.document({"run": str(run.folder), "stages": rows, **supervision(run)})
    else:
        console.status_table(rows, lambda metrics: numbers.headline(metrics, run.refined))
        _state(supervision(run))


def _state(facts: Mapping[str, str]) -> None:
    """What the numbers rest on beyond what is expected."""
    for name, words in facts.items():
        console.note(f"{name}: {words}")


def evaluate(
    run: options.RunDir = None,
    recompute: Recompute = False,
    classes: Classes = False,
    curves: Curves = False,
    confusion: Confusion = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The numbers of every finished stage, in percent."""
    from stages.actions.evaluate import collect, confusions, details, outdated, supervision

    opened = options.open_run(Request(run=run))
    late = [] if recompute else outdated(opened)
    if late:
        console.warn(f"eval.subset was another when {', '.join(late)} were scored: `bas eval --recompute` scores again")
    found = collect(opened, recompute, progress.reporter(quiet))
    if curves:
        _show_curves(details(opened), as_json)
        return
    if confusion:
        _show_confusions(confusions(opened), as_json)
        return
    if as_json:
        console.document({"stages": found.metrics, "classes": found.classes, **supervision(opened)})
        return
    if not found.metrics:
        console.note("no stage of this run has finished yet: `bas status` says how far it is")
    console.show(numbers.stage_tables(found.metrics, opened.refined))
    if classes:
        console.show(numbers.class_tables(found.classes))
    for words in [] if quiet else _notes(found, opened.refined, classes):
        console.note(words)
    _state(supervision(opened))


def _notes(found: Collected, refined: str, classes: bool) -> Iterator[str]:
    """What the names in the tables mean, where more is to be had, and why there may be no scores."""
    yield from numbers.legend(found.metrics, refined)
    if found.classes and not classes:
        yield "IoU by class: --classes; threshold curves, precision and recall: --curves; classes taken for others: --confusion"
    if SCORED & set(found.metrics) and not any("/mIoU" in key for keys in found.metrics.values() for key in keys):
        yield "nothing is scored: no true masks are there for all images of the scored list (data.score) or of data.val"


def _show_confusions(matrices: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        console.document(matrices)
        return
    details = [(detail, kind) for detail in matrices.values() for kind in detail["kinds"]]
    console.show(table(detail, kind) for detail, kind in details for table in (_confusion_table, _network_table))


def _confusion_table(detail: Mapping[str, Any], kind: str) -> Table:
    """The largest parts of a true class that were predicted as another one; the files have the whole matrix."""
    labels, rows = detail["labels"], detail["kinds"][kind]["pixels"]
    parts = [
        (100 * pixels / sum(row), true, predicted)
        for true, row in zip(labels, rows, strict=True)
        for predicted, pixels in zip(labels, row, strict=True)
        if pixels and true != predicted
    ]
    title = f"{detail['split']}/network/{kind}: taken for another class"
    shown = console.table(title, "true", "predicted", "% of the true pixels", words=2)
    for share, true, predicted in sorted(parts, reverse=True)[:LARGEST]:
        shown.add_row(true, predicted, f"{share:.1f}")
    return shown


def _network_table(detail: Mapping[str, Any], kind: str) -> Table:
    """IoU, precision, recall and boundary F-score by class."""
    columns = detail["kinds"][kind]["classes"]
    shown = console.table(f"{detail['split']}/network/{kind} by class (percent)", "class", *columns)
    for label in detail["labels"]:
        shown.add_row(label, *(console.cell(values.get(label)) for values in columns.values()))
    return shown


def _show_curves(details: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        console.document(details)
    else:
        console.show(_detail_tables(details))


def _detail_tables(details: Mapping[str, Any]) -> Iterator[Table]:
    """For every source of every stage its means by threshold, and precision and recall by class; `bas eval` has the IoU."""
    for detail in details.values():
        for source, values in detail["sources"].items():
            yield _curve_table(f"{detail['split']}/{source} by global threshold (percent)", values["curve"])
            yield _class_table(f"{detail['split']}/{source} by class (percent)", values["kinds"])


def _curve_table(title: str, curve: Mapping[str, Sequence[float | None]]) -> Table:
    names = [name for name in curve if name != "threshold"]
    shown = console.table(title, "threshold", *names)
    for index, threshold in enumerate(curve["threshold"]):
        if threshold in SHOWN:
            shown.add_row(f"{threshold:.2f}", *(console.cell(curve[name][index]) for name in names))
    return shown


def _class_table(title: str, kinds: Mapping[str, Any]) -> Table:
    columns = [(kind, name) for kind in kinds for name in ("precision", "recall")]
    headings = (f"{kind}\n{name}".replace("-", "-\n") for kind, name in columns)  # narrow enough for 80 characters
    shown = console.table(title, "class", *headings)
    for label in next(iter(kinds.values()), {"classes": {}})["classes"]:  # no kind where every pixel is void
        rows = [(kinds[kind]["classes"].get(label) or {}).get(name) for kind, name in columns]
        shown.add_row(label, *map(console.cell, rows))
    return shown
