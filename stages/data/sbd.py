"""The Semantic Boundaries Dataset (Hariharan et al., ICCV 2011): masks of 11,355 photographs of VOC, in MATLAB's files.

`benchmark.tgz` is read as it is, one pass from its beginning to its end; so is its unpacked folder `dataset`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath

import numpy as np

from stages.core.errors import StageError
from stages.core.files import write_atomic
from stages.data.archives import Member, Published, Readable, opened
from stages.data.images import Array, write_mask

ARCHIVE = Published(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
    1_419_539_633,
)
FOLDERS = (".", "dataset", "benchmark_RELEASE/dataset", "sbd", "SBD", "benchmark/benchmark_RELEASE/dataset")
LISTS = ("train.txt", "val.txt")
MASKS = "cls"
CLASSES = 20


class Unpacked:
    """The folder that holds cls/ and the lists: walked through like an archive, a block being a file."""

    def __init__(self, folder: Path) -> None:
        paths = [*(folder / name for name in LISTS), *sorted((folder / MASKS).glob("*.mat"))]
        self._paths, self._folder, self.passed = paths, folder, 0

    @property
    def blocks(self) -> int:
        """Files there."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Member]:
        for path in self._paths:
            self.passed += 1
            name = PurePosixPath(path.relative_to(self._folder).as_posix())
            yield Member(name, path.stat().st_size, lambda path=path: path.open("rb"))


def unpacked(folder: Path) -> Path | None:
    """FOLDER, or the folder in it, that holds an unpacked SBD; None where there is none."""
    for candidate in (folder / inner for inner in FOLDERS):
        if (candidate / MASKS).is_dir() and all((candidate / name).is_file() for name in LISTS):
            return candidate
    return None


def source(path: Path) -> AbstractContextManager[Readable]:
    """SBD in PATH, an archive or a folder, to walk through."""
    return nullcontext(Unpacked(path)) if path.is_dir() else opened(path)


def mask_id(member: Member) -> str | None:
    """The image whose mask MEMBER is; None for other files."""
    return member.name.stem if member.name.suffix == ".mat" and member.name.parent.name == MASKS else None


def is_list(member: Member) -> bool:
    """Whether MEMBER is the list of SBD's own training or validation images."""
    return member.name.name in LISTS and member.name.parent.name in ("", "dataset")


def draw(job: tuple[bytes, Path]) -> None:
    """Write the mask of a .mat file's bytes as an index PNG; it has no void. Raises StageError."""
    content, target = job
    write_atomic(target, lambda temporary: write_mask(temporary, decode(content, target.stem)))


def decode(content: bytes, image_id: str) -> Array:
    """GTcls.Segmentation of a .mat file: class ids (H,W), 0 = background. Raises StageError."""
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
        mask = np.asarray(found)
        if mask.ndim != 2 or mask.dtype.kind not in "iu" or mask.size == 0 or mask.min() < 0 or mask.max() > CLASSES:
            raise ValueError(f"{mask.dtype} of shape {mask.shape}, not ids from 0 to {CLASSES}")
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        why = f"its GTcls.Segmentation cannot be read: {error}"
        raise StageError(f"Cannot use the SBD mask of '{image_id}'", why, "Fetch SBD again") from error
    return mask.astype(np.uint8)
