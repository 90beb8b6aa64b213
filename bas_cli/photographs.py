"""`bas run DIR`: a folder of photographs as a dataset; its configuration is written into the run's folder first."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bas_cli.options import Request

CONFIG, LISTS = "dataset.yaml", "lists"  # in the run's folder


def is_folder(dataset: str) -> bool:
    """Whether DATASET means a folder: a shipped configuration of that name goes before it."""
    import configs

    return dataset not in configs.names() and Path(dataset).expanduser().is_dir()


def folder_name(dataset: str) -> str:
    """The name of a run on the folder DATASET."""
    return Path(dataset).expanduser().resolve().name


def configured(request: Request, run: Path, look: bool = False) -> Request:
    """REQUEST as it is, or, where its dataset is a folder, with the configuration that its RUN folder has for it now or had.

    LOOK: one that is written now goes to a place that this process removes at its end. Raises StageError where the folder
    holds nothing that can be learnt from.
    """
    if request.dataset is None or not is_folder(request.dataset):
        return request
    root = Path(request.dataset).expanduser().resolve()
    place = run if not look or _stays(run, root) else _scratch()
    if not _stays(run, root):
        _write(request, root, run, place)
    return replace(request, dataset=str(place / CONFIG), data=root)


def _scratch() -> Path:
    """An empty folder that lasts as long as this process."""
    import atexit
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="bas-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _stays(run: Path, root: Path) -> bool:
    """Whether the configuration in the folder RUN is to be kept: it is ROOT's, or stages were made with it."""
    import configs
    from stages import PIPELINE
    from stages.core.manifest import begun_with

    if not (run / CONFIG).is_file():
        return False
    data = configs.load(str(run / CONFIG)).get("data") or {}
    return data.get("root") == str(root) or any(begun_with(run / name) for name in PIPELINE)


def _write(request: Request, root: Path, run: Path, place: Path) -> None:
    """Write the configuration of ROOT into the folder PLACE, that of the RUN if it is not only looked at, and tell of it."""
    from bas_cli import console
    from stages.actions.datasets.init import Wish, initialise

    labels = request.labels and request.labels.expanduser().absolute()
    other = (run / CONFIG).is_file()  # another folder's, of which nothing was made yet
    lists = LISTS if place == run else str(place / LISTS)
    found = initialise(Wish(root, place / CONFIG, place / LISTS, lists, labels, force=other))
    later = {} if place == run else {"config": f"nothing yet: the run will write {run / CONFIG}"}
    console.found_table(found | later, sys.stderr)
