"""seed_import — maps that another tool made → a source of seeds (BAS, IJCV 2023, 5.3, Table 9). Not part of the pipeline.

Every map of an image's present classes is brought onto a grid laid over the image, divided by its maximum and kept in half
precision. Means over 4 x 4 pixels are kept: on photographs of 384 px, .4 % of the pixels of a BAS map or CAM changed sides
of a threshold of .30 by that. Stride 1 keeps all there is, in sixteen times the space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.config import Field, Section
from stages.core.errors import StageError, raise_first
from stages.core.stage import Context, Outputs
from stages.data import sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.data.dataset import Sample
    from stages.data.mapfiles import MapFile

NEEDS = ()
SHARED = ()
READS = ("train",)
MISSING = "Add what is missing, or take it as maps of zero with --allow-missing"
COUNTED = {  # what is warned of
    "images_missing": "images have no maps: theirs are zero",
    "maps_missing": "maps of present classes are missing: they are zero",
    "maps_negative": "maps hold values below zero: these count as zero",
    "maps_zero": "maps are zero everywhere",
}


class Config(Section):
    """Where the maps lie and how they are taken."""

    folder: str = Field("", description="The folder of the maps.")
    stride: int = Field(4, description="Pixels a value, in both directions; 1 keeps maps of full size as they are.", ge=1)
    allow_missing: bool = Field(False, description="Take missing images and classes as maps of zero.")


@dataclass(frozen=True)
class _Import:
    """One import: where maps come from, how they are taken, what was noticed."""

    config: Config
    name: str
    out: Path
    classes: Sequence[str]
    noticed: Counter[str]

    def take(self, sample: Sample, files: Sequence[MapFile]) -> None:
        """Read, check and write the maps of one image. Raises StageError that names its file."""
        import numpy as np
        import torch

        from stages.data import images, mapfiles, seedfile
        from stages.formulas import seeds

        size, folder = images.size(sample.image), Path(self.config.folder)
        found = mapfiles.read(folder, files, len(self.classes))
        where = f"Cannot use maps {folder / files[0].name if files else f'of {sample.id}'}"
        grid = _grid(found, size, where) or seeds.strided_size(*size, self.config.stride)
        own = np.stack([found.get(index, np.zeros(grid)).astype(np.float32) for index in sample.labels])
        self._check(sample, found, own, where)
        maps = seeds.thin(torch.from_numpy(own.clip(min=0)), size, self.config.stride)
        tops = maps.amax((-2, -1), keepdim=True)
        kept = torch.where(tops > 0, maps / tops, 0).half().numpy()
        seed = seedfile.Seed(np.array(sample.labels), size, {}, imported={self.name: kept})
        seedfile.write(sources.seed_path(self.out, sample.id), seed)

    def _check(self, sample: Sample, found: dict[int, NDArray[Any]], maps: NDArray[np.float32], where: str) -> None:
        """Count what is worth telling of MAPS (P,h,w). Raises StageError on what cannot be taken."""
        import numpy as np

        absent = [index for index in sample.labels if index not in found]
        if absent and not self.config.allow_missing:
            why = f"no map of class '{self.classes[absent[0]]}', which the labels of '{sample.id}' name"
            raise StageError(where, why, MISSING)
        if not np.isfinite(maps).all():
            raise StageError(where, "values that are not finite", "Make the file again")
        self.noticed["images_missing" if not found else "maps_missing"] += len(absent) if found else 1
        self.noticed["maps_negative"] += int((maps.min((-2, -1)) < 0).sum())
        self.noticed["maps_zero"] += int((maps.max((-2, -1)) <= 0).sum()) - len(absent)
        self.noticed["maps_dropped"] += len(set(found) - set(sample.labels))
        self.noticed["maps"] += len(maps)


def _grid(found: dict[int, NDArray[Any]], size: tuple[int, int], where: str) -> tuple[int, int] | None:
    """The one shape of the maps. Raises StageError where it does not lie over an image of SIZE (H,W) with some stride."""
    shapes = {array.shape for array in found.values()}
    for height, width in sorted(shapes):
        if len(shapes) > 1 or not _fits((height, width), size):
            raise StageError(
                where,
                f"they are {' and '.join(f'{h} x {w}' for h, w in sorted(shapes))}, the image is {size[0]} x {size[1]} (H x W)",
                "Give maps of the image's own proportions, of any stride",
            )
    return next(iter(shapes), None)


def _fits(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether some stride, one for both sides, makes the grid of the size, each side by one cell more or less."""
    least = max(side / (cells + 1) for cells, side in zip(grid, size, strict=True))
    most = min(side / (cells - 1) if cells > 1 else float("inf") for cells, side in zip(grid, size, strict=True))
    return min(grid) > 0 and least <= most


def run(config: Config, ctx: Context) -> Outputs:
    """Write one seed file an image, from the first one on; every file is looked at before the first fault is told."""
    from stages.data import mapfiles

    samples = ctx.dataset.split("train")
    files = mapfiles.find(Path(config.folder), samples, ctx.dataset.classes)
    require_files(files, config)
    taking = _Import(config, Path(ctx.name).name, ctx.out, ctx.dataset.classes, Counter())
    faults: list[StageError] = []
    with ctx.track("importing", len(samples)) as meter:
        for sample in samples:
            try:
                taking.take(sample, files[sample.id])
            except StageError as fault:
                faults.append(fault)
            meter.advance()
    raise_first(faults, len(samples))
    for key, meaning in COUNTED.items():
        if taking.noticed[key]:
            ctx.log.warning("%s: %d %s", ctx.name, taking.noticed[key], meaning)
    counts = {key: taking.noticed[key] for key in ("maps", "maps_dropped", *COUNTED)}
    return Outputs([sources.seed_path(Path(), s.id) for s in samples], notes={"images": len(samples), **counts})


def require_files(files: dict[str, tuple[MapFile, ...]], config: Config) -> None:
    """Raise StageError where images have no maps and may not."""
    absent = [image_id for image_id, found in files.items() if not found]
    if absent and not config.allow_missing:
        count = f"{len(absent)} of {len(files)} images have none, first '{absent[0]}'"
        raise StageError(f"Images without maps in {config.folder}", count, MISSING)
