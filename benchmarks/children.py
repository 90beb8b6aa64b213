"""Calls of the command in copies of this process: a fault costs no start, and importing torch takes longer than a small stage."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bas_cli import app

STDERR = "stderr.txt"


def fork(folder: Path, *words: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Start `bas WORDS` in FOLDER as a copy of this process; its stderr goes to stderr.txt there.

    PREPARE changes something in the copy first. Returns the process id.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        sys.argv = ["bas", *words]
        sys.stdout = sys.stderr = (folder / STDERR).open("w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        app.leave = sys.exit  # what the process that was copied registered for its own end is not this one's
        app.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a process that was started by `fork`; negative the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
