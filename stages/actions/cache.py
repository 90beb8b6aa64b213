"""What a run keeps on disk: how much it is, whether it is still what was written, and what of it nobody needs any more."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.actions.cells import FOLDER as CELLS
from stages.actions.run import Run
from stages.core import manifest as manifests
from stages.core import stage as contract
from stages.core.files import TEMPORARY
from stages.core.manifest import STATE, Damage

KINDS = {
    "temporary": "files that were half written when a process was killed",
    "state": "states of finished trainings, which nothing goes on from",
    "cells": "trainings of an ablation; `bas ablate` would train them again",
}


@dataclass(frozen=True)
class Leftover:
    """A file or folder that no stage reads any more: of which of KINDS, where in the run, bytes that removing it frees."""

    kind: str
    path: Path
    size: int

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return {"kind": self.kind, "path": str(self.path), "bytes": self.size}


def sizes(run: Run) -> list[dict[str, Any]]:
    """State, files and bytes of every stage and import, then bytes of what else lies in the run's folder, in plain values."""
    rows = []
    for report in run.reports():
        files, size = _weight(run.folder / report.name)
        if files:
            rows.append({"name": report.name, "state": report.state, "why": report.why, "files": files, "bytes": size})
    tops = {row["name"].partition("/")[0] for row in rows}
    for path in sorted(run.folder.iterdir()) if run.folder.is_dir() else []:
        files, size = _weight(path)
        if path.name not in tops and size:
            rows.append({"name": path.name, "state": "", "why": "", "files": files, "bytes": size})
    return rows


def leftovers(run: Run) -> list[Leftover]:
    """What may go: never an output of a finished stage, nor what an unfinished one goes on from."""
    finished = [folder for folder in _stages(run.folder) if manifests.read_manifest(folder) is not None]
    paths = {
        "temporary": run.folder.rglob(f".*{TEMPORARY}*"),
        "state": (folder / STATE for folder in finished if (folder / STATE).is_file()),
        "cells": run.folder.glob(f"{CELLS}/*"),
    }
    return [Leftover(kind, path.relative_to(run.folder), _freed(path)) for kind, found in paths.items() for path in sorted(found)]


def _files(path: Path) -> list[os.stat_result]:
    """What the system says of PATH, if it is a file, or of the files under it."""
    return [one.stat() for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file() and not one.is_symlink()]


def _weight(path: Path) -> tuple[int, int]:
    """Files under PATH and their bytes; a file of several names counts once."""
    files = _files(path)
    return len(files), sum({(one.st_dev, one.st_ino): one.st_size for one in files}.values())


def _freed(path: Path) -> int:
    """Bytes that removing PATH frees: a file that has a name elsewhere too, as cells share theirs, stays."""
    files = _files(path)
    names = Counter((one.st_dev, one.st_ino) for one in files)
    return sum({key: one.st_size for one in files if names[key := (one.st_dev, one.st_ino)] == one.st_nlink}.values())


def _stages(folder: Path) -> Iterator[Path]:
    """The folders of stages and imports that were begun in a run, and in the cells of its ablations."""
    return (path.parent for path in sorted(folder.rglob(manifests.STARTED)) if not path.parent.name.startswith("."))


def collect(run: Run, cells: bool, dry: bool) -> list[Leftover]:
    """Remove leftovers, trainings of ablations with CELLS alone; DRY only looks. Returns them.

    Raises StageError where another process works in the run: what looks left over may be at its hands.
    """
    if not dry:
        run.hold()
    found = [one for one in leftovers(run) if one.kind != "cells" or cells]
    for one in [] if dry else found:
        path = run.folder / one.path
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def verify(run: Run, reporter: contract.Reporter) -> dict[str, list[Damage]]:
    """What is damaged in every finished stage and import of a run, by its name; stages without damage are not named."""
    folders = {str(path.relative_to(run.folder)): path for path in _stages(run.folder)}
    count = sum((manifests.read_manifest(path) or {"outputs": {"count": 0}})["outputs"]["count"] for path in folders.values())
    with reporter.track("reading outputs", count) as meter:
        found = {name: manifests.verify(path, meter.advance) for name, path in folders.items()}
    return {name: damages for name, damages in found.items() if damages}


def drop(run: Run, damaged: Mapping[str, Sequence[Damage]]) -> None:
    """Remove damaged files, so that the next call makes them again. Raises StageError where another process works in the run."""
    run.hold()
    for name, damages in damaged.items():
        for one in damages:
            if one.file is not None:
                (run.folder / name / one.file).unlink(missing_ok=True)
