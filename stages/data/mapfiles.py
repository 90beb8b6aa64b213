"""Class maps as other tools keep them: one dictionary an image, or one grey PNG per class and image.

In a folder lie either `<id>.npy` (a pickled dictionary, IRN's way) or `<id>.npz`, with `keys` or `classes` (0-based ids, (P,))
and `high_res`, `attn_highres`, `highres`, `maps` or `cam` ((P,h,w), the first of them that is there); or a dictionary of maps
(h,w) by class id; or PNGs `<id>_<class>.png` or `<class>/<id>.png` of 8 or 16 bits, <class> a name or a 0-based id.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.data.images import read_grey
from stages.data.pickled import load_npy, save_npy

if TYPE_CHECKING:
    from stages.data.dataset import Sample

DICTIONARIES = (".npy", ".npz")
ZIP = b"PK"  # an `.npz` begins with it
IDS = ("keys", "classes")
MAPS = ("high_res", "attn_highres", "highres", "maps", "cam")  # the finest first; `cam` is on IRN's grid of stride 4
WAYS = "<id>.npy, <id>.npz, <id>_<class>.png or <class>/<id>.png"
REDO = "Make the file again, or see docs/guide.md for what is read"


class MapFile(NamedTuple):
    """A file of maps, relative to its folder; of one class, or of those that it names itself."""

    name: str
    class_id: int | None


def find(folder: Path, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, tuple[MapFile, ...]]:
    """The files of each image by its id, none where there are none. Raises StageError when the folder holds no image's."""
    names = _listing(folder, classes)
    found = {sample.id: _files(sample, names, classes) for sample in samples}
    if not any(found.values()):
        raise StageError(
            f"No maps in {folder}",
            f"none of the {len(found)} images has a file there, first '{samples[0].id}'",
            f"Put {WAYS} there",
        )
    return found


def _listing(folder: Path, classes: Sequence[str]) -> set[str]:
    """The names of all files in FOLDER and in its folders of classes, relative to it."""
    if not folder.is_dir():
        raise StageError(f"Cannot read maps from {folder}", "no such folder", "Check the path")
    own = _names(folder)
    inner = own & {name for index, known in enumerate(classes) for name in (known, str(index))}
    return own | {f"{name}/{file}" for name in inner if (folder / name).is_dir() for file in _names(folder / name)}


def _names(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def _files(sample: Sample, names: set[str], classes: Sequence[str]) -> tuple[MapFile, ...]:
    """The dictionary of an image, else the PNGs of its present classes."""
    for suffix in DICTIONARIES:
        if f"{sample.id}{suffix}" in names:
            return (MapFile(f"{sample.id}{suffix}", None),)
    ways = ((i, way) for i in sample.labels for n in (classes[i], i) for way in (f"{sample.id}_{n}.png", f"{n}/{sample.id}.png"))
    return tuple(MapFile(name, index) for index, name in {i: way for i, way in ways if way in names}.items())


def read(folder: Path, files: Sequence[MapFile], classes: int) -> dict[int, NDArray[Any]]:
    """The maps (h,w) of one image by class id, as they are in its files. Raises StageError that names the file."""
    if files and files[0].class_id is None:
        return _of_table(folder / files[0].name, classes)
    return {file.class_id: read_grey(folder / file.name) for file in files if file.class_id is not None}


def _of_table(path: Path, classes: int) -> dict[int, NDArray[Any]]:
    """The maps of a dictionary by class id."""
    try:
        maps = _by_class(_table(path))
        strange = [index for index in maps if not 0 <= index < classes]
        if strange:
            raise ValueError(f"it holds class {strange[0]} in a dataset of {classes} classes")
        if any(array.ndim != 2 or array.dtype.kind not in "biuf" for array in maps.values()):
            raise ValueError("its maps are not numbers of shape (h, w), one map a class")
    except (ValueError, TypeError, IndexError) as error:
        raise StageError(f"Cannot use maps {path}", str(error), REDO) from error
    return maps


def _table(path: Path) -> Mapping[Any, Any]:
    """The dictionary in a file, `.npz` or pickled `.npy` by its first bytes."""
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP)) == ZIP
        if zipped:
            with np.load(path, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError((str(error).splitlines() or ["damaged"])[0]) from error
    table = load_npy(path)
    if not isinstance(table, Mapping):
        raise ValueError("it holds no dictionary")
    return table


def _by_class(table: Mapping[Any, Any]) -> dict[int, NDArray[Any]]:
    """Maps by class id from a dictionary of either kind. Raises ValueError in words."""
    if table and all(isinstance(key, (int, np.integer)) for key in table):
        return {int(key): np.asarray(value) for key, value in table.items()}
    ids, maps = (next((np.asarray(table[name]) for name in names if name in table), None) for names in (IDS, MAPS))
    if ids is None or maps is None:
        wanted = "class ids (keys)" if ids is None else "maps (high_res or cam)"
        raise ValueError(f"it holds {', '.join(map(str, table)) or 'nothing'}, and no {wanted}")
    ids = _zero_based(ids, len(maps) if maps.ndim else 0)
    if len(set(ids)) < len(ids):
        raise ValueError("it holds a class twice")
    return dict(zip(ids, maps, strict=True))


def _zero_based(ids: NDArray[Any], maps: int) -> list[int]:
    """0-based ids of MAPS maps; ids that are padded with the background, 0, count from 1 then."""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError("its class ids are not a list of whole numbers")
    if len(ids) == maps + 1 and ids[0] == 0:
        ids = ids[1:].astype(np.int64) - 1
    if len(ids) != maps:
        raise ValueError(f"it holds {len(ids)} class ids and {maps} maps")
    return ids.tolist()


def write(path: Path, classes: NDArray[np.int64], strided: Any, full: NDArray[np.float32]) -> None:
    """Write one image's maps as IRN does: `keys` (P,) and `cam` (P,H/4,W/4) as tensors, `high_res` (P,H,W) as an array."""
    import torch

    save_npy(path, {"keys": torch.from_numpy(classes), "cam": strided, "high_res": full})
