"""Memory that a GPU or the machine does not have, told in one line with the setting of the stage that would need less."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from stages.core.errors import StageError

ADVICE = "Use smaller images or batches, or fewer processes with --set runtime.workers=1"  # where no stage knows better
# How torch, its libraries and its loader processes word it where they raise a plain RuntimeError.
_WORDS = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|MemoryError in DataLoader",
    re.IGNORECASE,
)
_KILLED = re.compile(r"is killed by signal: Killed|exited unexpectedly|process pool was terminated abruptly")
_AMOUNT = re.compile(r"allocate ([\d.,]+) ?(\w+)", re.IGNORECASE)
_GPU = re.compile("cuda|gpu|cublas|cudnn", re.IGNORECASE)


def why(error: BaseException) -> str | None:
    """What memory was short, in words; None where ERROR is of another kind.

    The class of a GPU's fault is known by its name: torch need not be there. A worker process that something killed counts,
    as the system does so where memory is short.
    """
    text = str(error)
    if _KILLED.search(text):
        return "a worker process was killed, as the system does when memory is short"
    kinds = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (kinds or system or (isinstance(error, RuntimeError) and _WORDS.search(text))):
        return None
    return f"{'the GPU' if _GPU.search(text) else 'this machine'} has no {_amount(text)} left"


def _amount(text: str) -> str:
    """What was asked for, as the fault says it; bytes in GB."""
    found = _AMOUNT.search(text)
    if found is None:
        return "memory"
    number, unit = found.groups()
    return f"{float(number.replace(',', '')) / 1e9:,.1f} GB" if unit == "bytes" else f"{number} {unit}"


@contextmanager
def told(what: str, todo: str) -> Iterator[None]:
    """Within it a lack of memory is a StageError: WHAT was going on, and TODO, the setting that would make it need less."""
    try:
        yield
    except Exception as error:
        reason = why(error)
        if reason is None:
            raise
        raise StageError(f"{what} ran out of memory", reason, todo) from error
