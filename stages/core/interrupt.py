"""Interrupts that let what was begun come to its end, and cannot get lost.

The first one waits for the image or the training step at hand (`finishing`), the second does not: it leaves that half done
or, where the process is on its way out already, ends it as a kill would. Python drops a KeyboardInterrupt that is raised
inside a destructor or a callback: long loops ask for one (`check`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CODE = 130  # of a process that was interrupted


class _Asked:
    """Whether this process was asked to stop, whether it is to finish something, was asked twice then, and is on its way out."""

    value = False
    within = False
    hurried = False
    leaving = False


def handle(number: int, frame: Any) -> None:
    """A handler of signals: note that the process is to stop, and raise KeyboardInterrupt unless something is to be finished."""
    again, _Asked.value = _Asked.value, True
    if _Asked.leaving:
        os.write(2, f"\nerror: {words(hurried=True)}\n".encode())  # what a handler may do is little: no stream of Python's
        os._exit(CODE)
    if _Asked.within and not again:
        if os.isatty(2):
            os.write(2, b"\nfinishing what is at hand; interrupt again to stop at once\n")
        return
    _Asked.hurried, _Asked.leaving = _Asked.within, True
    raise KeyboardInterrupt


def words(hurried: bool) -> str:
    """What an interrupt leaves behind, and what to do; HURRIED: where what was at hand is not finished."""
    training = ", a training up to its last half minute" if hurried else ""
    return f"Interrupted: all finished work is kept{training}. Run the same command again to go on."


@contextmanager
def finishing() -> Iterator[None]:
    """Let an interrupt wait for the end of this block, where it raises KeyboardInterrupt."""
    _Asked.within = True
    try:
        yield
    finally:
        _Asked.within = False
    check()


def asked() -> bool:
    """Whether the process is to stop."""
    return _Asked.value


def hurried() -> bool:
    """Whether the process was asked twice, so that what was at hand is not finished."""
    return _Asked.hurried


def unraisable(fault: Any) -> None:
    """What Python does with an exception that it has to drop: an interrupt is heard later, so no word of it."""
    if not (_Asked.value and issubclass(fault.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(fault)


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for before and got lost; long loops call this between two items."""
    if _Asked.value:
        _Asked.leaving = True
        raise KeyboardInterrupt
