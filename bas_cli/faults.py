"""Every fault as one line on stderr and an exit code: 1 ours, 2 the user's to mend, 130 interrupted."""

from __future__ import annotations

import errno
import re
from typing import Any

import typer

from bas_cli import console
from stages.core import exhaustion, interrupt
from stages.core.errors import StageError

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer exports only this child of it


def guarded(app: typer.Typer) -> int:
    """Call APP with the words of the command line; returns the exit code."""
    try:
        code = app(standalone_mode=False, prog_name="bas")
        return _interrupted() if code == interrupt.CODE else code or 0
    except UsageError as fault:
        return _bad_usage(fault)
    except StageError as fault:
        console.error(str(fault))
        return 2
    except OSError as fault:
        return _no_memory(fault) or _disk_fault(fault)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as fault:
        return _no_memory(fault) or _our_fault(fault)


def _bad_usage(fault: Any) -> int:
    """One line; but a command group without a command is a question, and its help the answer."""
    if type(fault).__name__ == "NoArgsIsHelpError":
        fault.show()
        return 2
    command = fault.ctx.command_path if fault.ctx is not None else "bas"
    sentences = dict.fromkeys(re.split(r"(?<=[.?]) ", fault.format_message()))  # typer and click may say the same
    console.error(f"{' '.join(sentences)} See `{command} --help`.")
    return 2


def _interrupted() -> int:
    console.error(interrupt.words(interrupt.hurried()))
    return interrupt.CODE


def _disk_fault(fault: OSError) -> int:
    """Full and read-only disks are the user's to mend; other system errors are ours."""
    advice = {
        errno.ENOSPC: "Free some space and run the same command again: finished work is kept",
        errno.EDQUOT: "Free some of your quota and run the same command again: finished work is kept",
        errno.EFBIG: "Raise the limit on file sizes (ulimit -f) and run the same command again: finished work is kept",
        errno.EROFS: "Choose a writable folder with --run DIR",
        errno.EEXIST: "Choose a folder, not a file, with --run DIR",
        errno.ENOTDIR: "Choose a folder, not a file, with --run DIR",
        errno.ENAMETOOLONG: "Choose a shorter name",
        errno.EACCES: "Choose a folder that you may use, or correct its permissions",
    }.get(fault.errno or 0)
    if advice is None:
        return _our_fault(fault)
    console.error(f"Cannot use {fault.filename or 'the disk'}: {fault.strerror}. {advice}.")
    return 2


def _no_memory(fault: Exception) -> int:
    """A lack of memory outside any stage; 0 where the fault is another."""
    reason = exhaustion.why(fault)
    if reason is None:
        return 0
    console.error(f"Out of memory: {reason}. {exhaustion.ADVICE}.")
    return 2


def _our_fault(fault: Exception) -> int:
    import logging

    log = logging.getLogger("bas")
    if log.handlers:
        log.exception("unexpected fault")
    where = "the run's newest file in logs/ has the details" if log.handlers else "it came before any run was opened"
    console.error(f"Unexpected {type(fault).__name__}: {fault}. This is a fault of bas; {where}.")
    return 1
