"""Pickled `.npy` files from elsewhere, read without executing anything that they hold."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.errors import StageError

_CORE = ("numpy.core", "numpy._core")  # before and since numpy 2


def _latin1(text: str, _: str) -> bytes:
    """What old pickles call to restore bytes."""
    return text.encode("latin1")


# Everything that a pickle may name, and what it gets: nothing is imported on its word.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"{core}.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0] for core in _CORE},
    **{(f"{core}.multiarray", "scalar"): np.float64(0).__reduce__()[0] for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0] for core in _CORE},
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds plain containers, numpy arrays and scalars, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets for a global name. Raises UnpicklingError on all but arrays."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
        return _ALLOWED[module, name]


def load_npy(path: Path) -> Any:
    """The object inside a pickled `.npy`, if it is made of arrays and plain containers. Raises StageError."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            if not dtype.hasobject or shape != ():
                raise ValueError("it holds an array, not a dictionary")
            return _ArraysOnly(io.BytesIO(file.read())).load().item()
    except FileNotFoundError as error:
        raise StageError(f"Cannot read {path}", "no such file", "Check the path") from error
    except Exception as error:  # a damaged pickle can fail in any way
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise StageError(f"Cannot read {path}", f"not a safe array file ({reason})", "Give a dictionary of arrays") from error
