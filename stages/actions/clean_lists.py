"""Lists without the images that spoil a dataset: written beside the others; no image is moved or changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages.actions.check_data import Report
from stages.actions.findings import Case
from stages.core.errors import StageError
from stages.core.files import write_text
from stages.data.census import Census, Entry

EVERY = ("train", "score", "val")
SCORED = ("score", "val")  # lists whose masks are read
UNUSABLE = ("empty file", "broken image", "same bytes, other labels")
LEAKS = ("same id in two splits", "same bytes in two splits", "near-duplicate in two splits")
BAD_MASKS = ("broken mask", "mask of another size", "mask with unknown ids")


def write(report: Report) -> dict[str, Path]:
    """Write a clean list for each list of the dataset, or one of all images where it has none; returns them by role.

    Raises StageError where nothing is left or the folder cannot be written.
    """
    census, dropped = report.census, _dropped(report)
    if not census.lists:
        return {"": _written(census, "clean", [entry.id for entry in census.entries if entry.file not in dropped[""]])}
    lost: dict[str, set[str]] = {}  # by list: one of two roles loses what either does
    for role, name in census.lists.items():
        lost[name] = lost.get(name, set()) | dropped[role]
    kept = {name: [e.id for e in _listed(census, name) if e.file not in files] for name, files in lost.items()}
    written = {name: _written(census, f"{name}_clean", ids) for name, ids in kept.items()}
    return {role: written[name] for role, name in census.lists.items()}


def _listed(census: Census, name: str) -> list[Entry]:
    return census.of(*(role for role, other in census.lists.items() if other == name))


def _written(census: Census, name: str, ids: list[str]) -> Path:
    path = census.home / f"{name}.txt"
    if not ids:
        raise StageError(f"No clean list {path}", "no image would be left", "Mend what the table names as errors first")
    try:
        write_text(path, "".join(f"{i}\n" for i in ids))
    except UnicodeEncodeError as error:
        raise StageError(f"Cannot write {path}", "an image's name is not UTF-8", "Rename it") from error
    except OSError as error:
        raise StageError(f"Cannot write {path}", error.strerror or "", "Copy the dataset to where you may write") from error
    return path


def _dropped(report: Report) -> dict[str, set[str]]:
    """The files that each role's list loses; of all images under ""."""
    dropped: dict[str, set[str]] = {role: set() for role in ("", *EVERY)}
    for finding in report.findings:
        for case in finding.cases:
            for role, file in _losses(finding.kind, case, report.census):
                dropped[role].add(file)
    return dropped


def _losses(kind: str, case: Case, census: Census) -> Iterator[tuple[str, str]]:
    """Role and file of what a case costs. Leaks leave the training lists; of doubles the first stays."""
    if kind in UNUSABLE:
        yield from ((role, file) for role in ("", *EVERY) for file in case.files)
    elif kind in LEAKS:
        trained = {entry.file for entry in census.entries if entry.trained}
        yield from ((role, file) for role in ("train", "score") for file in case.files if file in trained)
    elif kind == "same bytes twice":
        yield from ((role, file) for role in ("", *EVERY) for file in case.files[1:])
    elif kind in BAD_MASKS:
        yield from ((role, case.files[0]) for role in SCORED)
