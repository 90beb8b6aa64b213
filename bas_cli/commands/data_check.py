"""`bas data check`: what is wrong or odd in a dataset, in one table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bas_cli import console, options, progress

if TYPE_CHECKING:
    from rich.table import Table

    from stages.actions.datasets.check import Report
    from stages.actions.datasets.clean_lists import Written
    from stages.actions.datasets.findings import Case, Finding

What = Annotated[
    str, typer.Argument(metavar="PATH", help="A dataset's folder, a folder of images, or a configuration.", show_default=False)
]
Fix = Annotated[bool, typer.Option("--fix", help="Write lists without what is wrong, for runs to follow; no image is touched.")]
EXAMPLES = 2


def check(
    path: What,
    data: options.Data = None,
    labels: options.Labels = None,
    fix: Fix = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode every image and mask once; exit code 2 where training would fail or be misled.

    That is: broken or empty files, lists that name absent ones, the same picture with other labels or in two splits, masks that
    do not fit. The rest is worth a look (warning) or handled (note).
    """
    from stages.actions.datasets import check, clean_lists
    from stages.actions.datasets.place import open_census

    report = check.check(open_census(path, data, labels, anew=fix), progress.reporter(quiet))
    written = clean_lists.write(report) if fix else {}
    if as_json:
        console.document({**report.plain(), "written": {role: str(one.path) for role, one in written.items()}})
    else:
        _summary(report)
        console.show(_tables(report))
    _tell(written)
    if not report.sound:
        raise typer.Exit(2)


def _summary(report: Report) -> None:
    census, images = report.census, len(report.census.entries)
    lists = ", ".join(f"{name} {len(census.of(role))}" for name, role in _distinct(report).items())
    console.lines([f"{images} images{f' ({lists})' if lists else ''}, {len(report.masks)} masks: {_verdict(report)}"])
    console.lines(f"{count} images are left out, as they are not in {path}" for path, count in census.left_out.items())


def _verdict(report: Report) -> str:
    """What the findings mean for a training, in one clause."""
    if not report.sound:
        return "a training would fail or be misled"
    doubtful = [finding.kind for finding in report.findings if finding.severity == "warning"]
    return f"can be trained on, but look at: {', '.join(doubtful)}" if doubtful else "nothing that would spoil a training"


def _distinct(report: Report) -> dict[str, str]:
    """The lists by name, each with one of its roles: what is scored may be all that is trained on."""
    lists = report.census.lists
    return {name: next(role for role, other in lists.items() if other == name) for name in dict.fromkeys(lists.values())}


def _tables(report: Report) -> Iterator[Table]:
    if report.findings:
        yield _of_findings(report)
    if report.census.classes and report.census.lists:
        yield _of_classes(report)


def _of_findings(report: Report) -> Table:
    shown = console.table("Findings", "", "what", "count", "what to do", "for example", words=2)
    for column in (3, 4):
        shown.columns[column].justify = "left"
    for finding in report.findings:
        shown.add_row(finding.severity, finding.kind, str(len(finding.cases)), finding.todo, _examples(finding, report))
    return shown


def _examples(finding: Finding, report: Report) -> str:
    more = len(finding.cases) - EXAMPLES
    words = [_words(case, report.census.root) for case in finding.cases[:EXAMPLES]]
    return "; ".join([*words, *([f"{more} more"] if more > 0 else [])])


def _words(case: Case, root: Path) -> str:
    names = " = ".join(os.path.relpath(file, root) for file in case.files[:3])
    return f"{names} ({case.words})" if case.words and names else names or case.words


def _of_classes(report: Report) -> Table:
    lists = _distinct(report)
    shown = console.table("Images of each class", "class", *lists, "most often with")
    for index, name in enumerate(report.census.classes):
        counts = [str(report.counts[role][name]) for role in lists.values()]
        shown.add_row(name, *counts, _companion(report, index))
    return shown


def _companion(report: Report, index: int) -> str:
    """The class that most of a class's training images carry too."""
    row = report.together[index]
    count, other = max(((both, other) for other, both in enumerate(row) if other != index), default=(0, 0))
    return f"{report.census.classes[other]} {100 * count / row[index]:.0f} %" if count else "–"


def _tell(written: Mapping[str, Written]) -> None:
    for one in dict.fromkeys(written.values()):
        console.note(f"written: {one.path}, {one.kept} of {one.of} images; runs leave the others out as long as it is there")
