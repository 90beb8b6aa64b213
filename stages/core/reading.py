"""Files of tensors that turn out to be something else: one line for whatever their readers raise."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from stages.core import exhaustion
from stages.core.errors import StageError, first_line

_OF_CONTENT = (
    *(EOFError, LookupError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError),
    *(struct.error, AssertionError, AttributeError, OverflowError),  # of torch's format before 1.6, cut or with other bytes
)


@contextmanager
def told(what: str, todo: str, why: str = "{}") -> Iterator[None]:
    """Within it a fault of the file that is read is a StageError: WHAT cannot be done, WHY with the fault at {}, and TODO.

    A lack of memory is none of the file's and passes, and so does the death of a loader process, which torch raises wherever
    this process happens to be.
    """
    try:
        yield
    except (OSError, *_OF_CONTENT) as error:
        if exhaustion.why(error):
            raise
        raise StageError(what, why.format(first_line(error)), todo) from error
