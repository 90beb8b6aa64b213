"""Networks on disk: safetensors that are whole or absent, with the same bytes for the same network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from stages.core.files import write_atomic

FILE = "network.safetensors"  # in the folder of a stage that trains one


def write(path: Path, tensors: Mapping[str, Tensor], backbone: str) -> None:
    """Write TENSORS and the name of their trunk. By way of memory: a full disk is then an OSError, as everywhere else.

    The name is the only metadata: safetensors writes several entries in a random order.
    """
    from safetensors.torch import save

    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, {"backbone": backbone})
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file that `write` made, and the name of their trunk. Raises what safetensors raises."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, file.metadata()["backbone"]
