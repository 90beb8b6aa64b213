"""A run's folder: whether it can be one, held by one process at a time, cleared of what a kill left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

from stages.actions.states import LOCK
from stages.core.errors import StageError
from stages.core.files import TEMPORARY, own


def require_room(folder: Path) -> None:
    """Raise the OSError that making FOLDER, or writing into it, would; nothing is made."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    fault = (errno.EEXIST if there == folder else errno.ENOTDIR) if not there.is_dir() else errno.EACCES
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(fault, os.strerror(fault), str(there))


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
