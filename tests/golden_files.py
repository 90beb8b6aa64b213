"""Reference vectors in $BAS_GOLDEN: inputs with the outputs that public implementations compute on them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def load(name: str) -> dict[str, NDArray]:
    """All arrays of one file; skips the calling test, with the reason, where it is not to be had."""
    folder = os.environ.get("BAS_GOLDEN")
    if not folder:
        pytest.skip("BAS_GOLDEN is not set")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"no {name} in BAS_GOLDEN")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def cases(arrays: dict[str, NDArray], leaf: str) -> list[str]:
    """Prefixes of the arrays named `<prefix>/<leaf>`; never empty, so a loop over them tests something."""
    found = sorted(key[: -len(leaf) - 1] for key in arrays if key.endswith("/" + leaf))
    assert found, f"no case holds {leaf}"
    return found
