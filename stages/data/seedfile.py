"""Seeds on disk: one `.npz` an image, half precision at feature resolution, one array a source and scale.

Arrays: `classes` (P,) present ids, 0-based; `size` (2,) H, W; `<source>_<k>` (P,h_k,w_k), the sum over an image and its
mirror at the k-th scale; `threshold_<source>` (P,) image-specific thresholds, where they were searched.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.core.errors import StageError
from stages.core.files import write_atomic
from stages.formulas import seeds

SOURCES = ("bas", "cam", "sum")


@dataclass(frozen=True)
class Seed:
    """What is known of one image: present classes, its size, maps by source and scale, thresholds by source."""

    classes: NDArray[np.int64]  # (P,)
    size: tuple[int, int]  # H, W
    maps: dict[str, list[NDArray[np.float16]]]  # source → per scale (P,h,w)
    thresholds: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # source → (P,)


def write(path: Path, seed: Seed) -> None:
    """Write a seed, whole or not at all."""
    arrays: dict[str, Any] = {"classes": seed.classes, "size": np.array(seed.size)}
    for source, scales in seed.maps.items():
        arrays |= {f"{source}_{k}": array for k, array in enumerate(scales)}
    arrays |= {f"threshold_{source}": values for source, values in seed.thresholds.items()}
    write_atomic(path, lambda temporary: np.savez(temporary, **arrays))


def read(path: Path) -> Seed:
    """Read a seed. Raises StageError when the file is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        maps: dict[str, list[NDArray[np.float16]]] = {}
        for key in sorted(k for k in arrays if k.rpartition("_")[2].isdigit()):
            maps.setdefault(key.rpartition("_")[0], []).append(arrays[key])
        height, width = (int(v) for v in arrays["size"])
        thresholds = {k.removeprefix("threshold_"): v for k, v in arrays.items() if k.startswith("threshold_")}
        return Seed(arrays["classes"], (height, width), maps, thresholds)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StageError(
            f"Cannot read seed {path}", (str(error).splitlines() or ["damaged"])[0], "Run `bas seed infer` again with --force"
        ) from error


def full_maps(seed: Seed, source: str, device: torch.device | None = None) -> Tensor:
    """Normalised maps (P,H,W) of a source; "sum" is the normalised sum of BAS maps and CAM (Table 9)."""
    if source == "sum":
        return seeds.add_seeds(full_maps(seed, "bas", device), full_maps(seed, "cam", device))
    return seeds.normalise(seeds.merge_full(_tensors(seed, source, device), seed.size))


def strided_maps(seed: Seed, source: str, device: torch.device | None = None) -> Tensor:
    """Normalised maps (P,H/4,W/4) of a source on the stride-4 grid that the random walk reads."""
    if source == "sum":
        return seeds.add_seeds(strided_maps(seed, "bas", device), strided_maps(seed, "cam", device))
    return seeds.normalise(seeds.merge_strided(_tensors(seed, source, device), seed.size))


def _tensors(seed: Seed, source: str, device: torch.device | None) -> list[Tensor]:
    if source not in seed.maps:
        raise StageError(
            f"No seeds of source '{source}'",
            f"this run holds {', '.join(seed.maps)} and their sum",
            "Set refine.seed to one of them",
        )
    return [torch.from_numpy(array).to(device) for array in seed.maps[source]]
