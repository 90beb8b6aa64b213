"""Seeds on disk: one `.npz` an image, half precision at feature resolution, one array a source and scale.

Arrays: `classes` (P,) present ids, 0-based; `size` (2,) H, W; `<map>_<k>` (P,h_k,w_k), the sum over an image and its
mirror at the k-th scale, of `agnostic` (1,h_k,w_k); `<map>_stride`, pixels of a view between two values of that map (16 where
it is not stated); `<map>_image` (P,h,w), an imported map, which covers the image exactly; `threshold_<source>` (P,)
image-specific thresholds, where they were searched. `stages.data.sources` names maps and sources.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.core.errors import StageError
from stages.core.files import write_atomic
from stages.data import sources
from stages.formulas import seeds

IMAGE = "image"  # in a scale's place: a map whose grid is laid over the image itself and not over a network's padded input
STRIDE = "stride"  # in a scale's place: the stride of all of the map's scales


@dataclass(frozen=True)
class Seed:
    """What is known of one image: present classes, its size, maps by name, thresholds by source."""

    classes: NDArray[np.int64]  # (P,)
    size: tuple[int, int]  # H, W
    maps: dict[str, list[NDArray[np.float16]]]  # name → per scale (P,h,w)
    thresholds: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # source → (P,)
    imported: dict[str, NDArray[np.float16]] = field(default_factory=dict)  # name → (P,h,w)
    strides: dict[str, int] = field(default_factory=dict)  # name of a map → its network's stride


def write(path: Path, seed: Seed) -> None:
    """Write a seed, whole or not at all."""
    arrays: dict[str, Any] = {"classes": seed.classes, "size": np.array(seed.size)}
    for name, scales in seed.maps.items():
        arrays |= {f"{name}_{k}": array for k, array in enumerate(scales)}
    arrays |= {f"{name}_{STRIDE}": np.array(stride) for name, stride in seed.strides.items()}
    arrays |= {f"{name}_{IMAGE}": array for name, array in seed.imported.items()}
    arrays |= {f"threshold_{source}": values for source, values in seed.thresholds.items()}
    write_atomic(path, lambda temporary: np.savez(temporary, **arrays))


def read(path: Path, remedy: str = "Run `bas seed infer` again with --force") -> Seed:
    """Read a seed. Raises StageError, with REMEDY as what to do, when the file is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        maps: dict[str, list[NDArray[np.float16]]] = {}
        thresholds = {k.removeprefix("threshold_"): arrays.pop(k) for k in list(arrays) if k.startswith("threshold_")}
        for key in sorted(k for k in arrays if k.rpartition("_")[2].isdigit()):
            maps.setdefault(key.rpartition("_")[0], []).append(arrays[key])
        height, width = (int(v) for v in arrays["size"])
        imported = {k.removesuffix(f"_{IMAGE}"): v for k, v in arrays.items() if k.endswith(f"_{IMAGE}")}
        strides = {k.removesuffix(f"_{STRIDE}"): int(v) for k, v in arrays.items() if k.endswith(f"_{STRIDE}")}
        return Seed(arrays["classes"], (height, width), maps, thresholds, imported, strides)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StageError(f"Cannot read seed {path}", (str(error).splitlines() or ["damaged"])[0], remedy) from error


def full_maps(seed: Seed, source: str, device: torch.device | None = None) -> Tensor:
    """Normalised maps (P,H,W) of a source. Raises StageError when the seed lacks one of its maps."""
    return full_maps_of(seed, (source,), device)[source]


def full_maps_of(seed: Seed, of: Sequence[str], device: torch.device | None = None) -> dict[str, Tensor]:
    """The same of several sources: a map that more than one of them adds is merged once. Not to be changed in place."""
    made: dict[str, Tensor] = {}

    def merge(maps: Sequence[Tensor], stride: int) -> Tensor:
        return seeds.merge_full(maps, seed.size, stride)

    return {name: _source(seed, name, merge, lambda maps: seeds.cover(maps, seed.size), device, made) for name in of}


def strided_maps(seed: Seed, source: str, device: torch.device | None = None) -> Tensor:
    """Normalised maps (P,H/4,W/4) of a source on the stride-4 grid that the random walk reads."""

    def merge(maps: Sequence[Tensor], _: int) -> Tensor:
        return seeds.merge_strided(maps, seed.size)

    return _source(seed, source, merge, lambda maps: seeds.cover_strided(maps, seed.size), device, {})


Merge = Callable[[Sequence[Tensor], int], Tensor]  # maps of several scales and their stride → their sum


def _source(
    seed: Seed,
    source: str,
    merge: Merge,
    cover: Callable[[Tensor], Tensor],
    device: torch.device | None,
    made: dict[str, Tensor],
) -> Tensor:
    """The normalised, weighted sum of a source's summands. MADE: normalised maps by name, those of earlier calls."""

    def normalised(name: str) -> Tensor:
        if name not in made:
            made[name] = seeds.normalise(merged(name))
        return made[name]

    def merged(name: str) -> Tensor:
        if name in seed.imported:
            return cover(torch.from_numpy(seed.imported[name]).to(device))
        if name not in seed.maps:
            raise _absent(seed, name)
        maps = [torch.from_numpy(array).to(device) for array in seed.maps[name]]
        return merge(maps, seed.strides.get(name, seeds.TRUNK_STRIDE))

    def summand(name: str) -> Tensor:
        if name in sources.FUSIONS:
            return seeds.fuse(normalised("bas"), normalised("agnostic"), name)
        return normalised(name).expand(len(seed.classes), -1, -1)  # the class-agnostic map counts for each class

    terms = sources.parse(source)
    if len(terms) == 1:
        return summand(terms[0].name)
    return seeds.add_seeds([summand(term.name) for term in terms], [term.weight for term in terms])


def _absent(seed: Seed, name: str) -> StageError:
    return StageError(
        f"No seeds of source '{name}'",
        f"this run holds {', '.join([*seed.maps, *seed.imported])} and their sums",
        "Name it in seed_infer.sources, or set refine.seed to one of them",
    )
