"""The seconds of a stage over all its calls, those that ended by a kill among them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from stages.core.files import read_json, write_json

FILE = "calls.json"  # seconds of ended calls, their number, and since when a call is under way


def start(folder: Path) -> None:
    """Begin a call. One before that never ended counts up to the last file that it wrote."""
    kept = read_json(folder / FILE) or {"seconds": 0.0, "calls": 0}
    unended = max(_last_sign(folder) - kept["since"], 0.0) if "since" in kept else 0.0
    write_json(folder / FILE, {"seconds": kept["seconds"] + unended, "calls": kept["calls"] + 1, "since": time.time()})


def since(folder: Path) -> float | None:
    """When the call began (seconds since 1970) that is under way or never ended; None where there is none."""
    return (read_json(folder / FILE) or {}).get("since")


def stop(folder: Path) -> dict[str, float]:
    """End a call; returns seconds and number of all calls. A disk that is full makes the call one that never ended."""
    kept = read_json(folder / FILE) or {"seconds": 0.0, "calls": 1, "since": time.time()}
    spent = {"seconds": round(kept["seconds"] + max(time.time() - kept["since"], 0.0), 2), "calls": kept["calls"]}
    with contextlib.suppress(OSError):
        write_json(folder / FILE, spent)
    return spent


def _last_sign(folder: Path) -> float:
    """When the newest file under FOLDER was written; a folder's own time is also that of what was removed from it."""
    return max(path.stat().st_mtime for path in folder.rglob("*") if path.is_file())
