"""What a process does to files under a folder, told by Python's own audit hook at the moment before it is done.

On a disk nothing changes between two such events but the content of files that are open for writing; so a kill before each
event, and one with half of a file written, meet every state that a kill can leave.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {"os.remove": ("remove", 1), "os.rmdir": ("remove", 1), "os.mkdir": ("folder", 2)}  # and which argument is its folder
TARGETS = {"os.rename": "rename", "os.link": "link"}  # of two paths


@dataclass(frozen=True)
class Event:
    """One deed: write (a file opened for writing), read, rename, remove, folder or link, and the path that it is done to."""

    kind: str
    path: str
    source: str = ""  # of a rename or link


def watch(prefixes: tuple[str, ...], tell: Callable[[Event], None]) -> None:
    """TELL every deed to paths that begin with one of PREFIXES, from now on and for good; what TELL raises, the deed raises."""

    def hook(name: str, args: tuple[Any, ...]) -> None:
        event = _event(name, args)
        if event is not None and event.path.startswith(prefixes):
            tell(event)

    sys.addaudithook(hook)


def _event(name: str, args: tuple[Any, ...]) -> Event | None:
    if name == "open":
        if isinstance(args[0], int) or args[2] is None:
            return None
        return Event("write" if args[2] & (os.O_WRONLY | os.O_RDWR) else "read", os.fsdecode(args[0]))
    if name in TARGETS:
        return Event(TARGETS[name], os.fsdecode(args[1]), os.fsdecode(args[0]))
    if name in KINDS:
        kind, place = KINDS[name]
        return Event(kind, _within(os.fsdecode(args[0]), args[place]))
    return None


def _within(path: str, folder: int) -> str:
    """PATH, whose folder may be given as an open descriptor (`shutil.rmtree` does)."""
    return path if folder == -1 else str(Path(f"/proc/self/fd/{folder}").readlink() / path)
