"""Clean lists: the images of a dataset without those that spoil it; no image is moved. `stages.data.clean` reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.actions.datasets.check import Report
from stages.actions.datasets.findings import Case
from stages.core.errors import StageError
from stages.core.files import write_text
from stages.data import clean
from stages.data.census import Census, Entry

ALL = "all"  # in place of a role, where there are no lists yet
EVERY = ("train", "score", "val")
SCORED = ("score", "val")  # lists whose masks are read
UNUSABLE = ("empty file", "broken image", "same bytes, other labels", "same file in two classes")
LEAKS = ("same id in two splits", "same bytes in two splits", "near-duplicate in two splits")
BAD_MASKS = ("broken mask", "mask of another size", "mask with unknown ids", "broken outline", "outlines for another size")


@dataclass(frozen=True)
class Written:
    """A clean list, and how many images it KEPT of how many."""

    path: Path
    kept: int
    of: int


def write(report: Report) -> dict[str, Written]:
    """Write a clean list for each list of the dataset, by role, or one of all files where nobody has split them yet.

    Raises StageError where nothing is left or the folder cannot be written.
    """
    census, dropped = report.census, _dropped(report)
    if census.home is None:
        kept = [clean.inner(census.root, entry.file) for entry in census.entries if entry.file not in dropped[ALL]]
        return {ALL: _written(clean.of_files(census.root), kept, len(census.entries))}
    lost: dict[str, set[str]] = {}  # by list: one of two roles loses what either does
    for role, name in census.lists.items():
        lost[name] = lost.get(name, set()) | dropped[role]
    written: dict[str, Written] = {}
    for name, files in lost.items():
        listed = _listed(census, name)
        absent = next(len(census.absent.get(role, ())) for role, other in census.lists.items() if other == name)
        kept = [clean.line(entry.id) for entry in listed if entry.file not in files]
        written[name] = _written(clean.of_list(census.home, name), kept, len(listed) + absent)
    return {role: written[name] for role, name in census.lists.items()}


def _listed(census: Census, name: str) -> list[Entry]:
    return census.of(*(role for role, other in census.lists.items() if other == name))


def _written(path: Path, lines: Sequence[str], of: int) -> Written:
    if not lines:
        raise StageError(f"No clean list {path}", "no image would be left", "Mend what the table names as errors first")
    try:
        write_text(path, "".join(f"{line}\n" for line in lines))
    except UnicodeEncodeError as error:
        raise StageError(f"Cannot write {path}", "an image's name is not UTF-8", "Rename it") from error
    except OSError as error:
        todo = "Let `bas data init DIR` write a configuration elsewhere and check that: its lists lie beside it"
        raise StageError(f"Cannot write {path}", error.strerror or "", todo) from error
    return Written(path, len(lines), of)


def _dropped(report: Report) -> dict[str, set[str]]:
    """The files that each role's list loses; where there are none yet, ALL do."""
    dropped: dict[str, set[str]] = {role: set() for role in (ALL, *EVERY)}
    for finding in report.findings:
        for case in finding.cases:
            for role, file in _losses(finding.kind, case, report.census):
                dropped[role].add(file)
    return dropped


def _losses(kind: str, case: Case, census: Census) -> Iterator[tuple[str, str]]:
    """Role and file of what a case costs. Leaks leave the training lists; of doubles the first stays."""
    if kind in UNUSABLE:
        yield from ((role, file) for role in (ALL, *EVERY) for file in case.files)
    elif kind in LEAKS:
        trained = {entry.file for entry in census.entries if entry.trained}
        yield from ((role, file) for role in (ALL, "train", "score") for file in case.files if file in trained)
    elif kind == "same bytes twice":
        yield from ((role, file) for role in (ALL, *EVERY) for file in case.files[1:])
    elif kind in BAD_MASKS:  # before a split nobody knows which images will be scored
        yield from ((role, case.files[0]) for role in (ALL, *SCORED))
