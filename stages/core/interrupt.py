"""Interrupts that cannot get lost: Python drops a KeyboardInterrupt that is raised inside a destructor or a callback."""

from __future__ import annotations

import sys
from typing import Any


class _Asked:
    """Whether this process was asked to stop."""

    value = False


def handle(number: int, frame: Any) -> None:
    """A handler of signals: note that the process is to stop, and raise KeyboardInterrupt where it happens to be."""
    _Asked.value = True
    raise KeyboardInterrupt


def unraisable(fault: Any) -> None:
    """What Python does with an exception that it has to drop: an interrupt is heard later, so no word of it."""
    if not (_Asked.value and issubclass(fault.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(fault)


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for before and got lost; long loops call this between two items."""
    if _Asked.value:
        raise KeyboardInterrupt
