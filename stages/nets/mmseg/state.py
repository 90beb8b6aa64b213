"""The resumable state of a training, written whole or not at all and read weights-only.

mmengine's own resume saves no random generators and replays the loader; this keeps everything that the next
step depends on, in plain tensors and numbers: network, optimizer, generators, step. (The loader needs the
step alone.)
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.core.manifest import STATE
from stages.core.runtime import generator_states, restore_generator_states
from stages.core.training import load_tensors, save_tensors


def generators() -> dict[str, Any]:
    """The state of every random generator of this process, without arrays that need a pickle."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": generator_states(),
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Put the generators back."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    restore_generator_states(state["cuda"])


def keep(folder: Path, net: nn.Module, optimizer: Any, step: int) -> None:
    """Write the state after STEP optimizer steps. OPTIMIZER is a torch optimizer or mmengine's wrapper."""
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "generators": generators(),
    }
    save_tensors(folder / STATE, state)


def read(folder: Path) -> dict[str, Any] | None:
    """The kept state on the CPU, or None. The file is replaced whole, so it is never half written."""
    path = folder / STATE
    return load_tensors(path, "cpu") if path.is_file() else None


def kept_step(folder: Path) -> int:
    """Optimizer steps that the kept state has behind it, 0 without one; the tensors stay on disk."""
    path = folder / STATE
    return load_tensors(path, "cpu", mmap=True)["step"] if path.is_file() else 0
