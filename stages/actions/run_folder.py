"""A run's folder: whether it can be one, its configuration, held by one process at a time, cleared of what a kill left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from stages import EXTRAS, PIPELINE
from stages.actions.configure import saved
from stages.actions.states import LOCK
from stages.core.config import Section
from stages.core.errors import StageError
from stages.core.files import TEMPORARY, own, write_text
from stages.core.manifest import begun_with


def require_room(folder: Path) -> None:
    """Raise the OSError that making FOLDER, or writing into it, would; nothing is made."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    fault = (errno.EEXIST if there == folder else errno.ENOTDIR) if not there.is_dir() else errno.EACCES
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(fault, os.strerror(fault), str(there))


def require_same_data(folder: Path, data: Mapping[str, Any], other_images: Callable[[], bool]) -> None:
    """Raise StageError where FOLDER holds a run of another dataset than DATA, the settings of one, describe.

    A moved folder of data is no other dataset: OTHER_IMAGES says whether what lies there was made from others.
    """
    former = saved(folder).get("data") or {}
    reader, root = (key in former and former[key] != data[key] for key in ("reader", "root"))
    begun = any(begun_with(folder / name) for name in (*PIPELINE, *EXTRAS))
    if begun and (reader or (root and other_images())):
        raise StageError(
            f"Run folder {folder} belongs to another dataset",
            f"it holds a run on {former.get('root') or former.get('reader')}",
            "Choose another folder with --run DIR, or remove this one",
        )


def save_config(folder: Path, sections: Mapping[str, Section]) -> None:
    """Write config.yaml, unless it says the same already."""
    import yaml

    values = {name: section.plain() for name, section in sections.items()}
    path, text = folder / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def hold(folder: Path) -> IO[str]:
    """Keep other processes out of FOLDER as long as what is returned is open. Raises StageError where another works in it."""
    try:
        return own(folder / LOCK)
    except BlockingIOError as fault:
        raise StageError(
            f"Run folder {folder} is in use", str(fault.strerror), "Wait for it to end, or choose another with --run DIR"
        ) from fault


def tidy(folder: Path) -> None:
    """Remove half-written files that a kill left beside stages and in them; into folders of images stages look themselves."""
    for path in (*folder.glob(f".*{TEMPORARY}*"), *folder.glob(f"*/.*{TEMPORARY}*")):
        if path.is_file():
            path.unlink(missing_ok=True)
