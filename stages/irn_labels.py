"""irn_labels — seeds + dense CRF → affinity labels (IRN, CVPR 2019, section 4.2; BAS, IJCV 2023, section 5.1).

Two dense CRFs an image, one from labels that are confident of the foreground, one of the background. A pixel keeps its
class (id + 1) where the first says so, is 0 where the second says background, and void (255) where they disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core.config import Field
from stages.core.refinement import LabelCrf
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.seedfile import Seed

NEEDS = ("seed_infer",)
SHARED = ("refine.seed",)
READS = ("train",)
MEMORY = "Lower runtime.workers: every process of the CRF takes memory of its own"


class Config(LabelCrf):
    """Where a seed is confident, and the dense CRF."""

    levels: Literal["fixed", "image-specific"] = Field(
        "fixed", description="fixed: the two thresholds below; image-specific: offsets from each image's own thresholds."
    )
    fg: float = Field(0.30, description="Above it a map is confident foreground.", gt=0, lt=1)
    bg: float = Field(0.17, description="Where no map exceeds it, an image is confident background.", gt=0, lt=1)
    fg_offset: float = Field(0.05, description="image-specific: added to the threshold for confident foreground.", ge=0)
    bg_offset: float = Field(0.10, description="image-specific: taken from the threshold for confident background.", ge=0)


@dataclass(frozen=True)
class Job:
    """Everything that a worker process needs beside the image."""

    config: Config
    source: str
    seeds: Path
    labels: Path

    def __call__(self, sample: Sample) -> None:
        """Make and write the affinity label of one image."""
        from stages.core.files import write_atomic
        from stages.data.images import read_image, write_mask
        from stages.formulas import crf

        seed = self.seed(sample)
        hard = [labels.numpy() for labels in self.hard(seed)]
        kernels = crf.Kernels.of(self.config, self.config.iterations)
        image = read_image(sample.image)
        posteriors = crf.refine_labels(image, hard, len(seed.classes) + 1, kernels, self.config.certainty)
        fg, bg = (posterior.argmax(0) for posterior in posteriors)
        labels = crf.combine(fg, bg, seed.classes)
        write_atomic(label_path(self.labels, sample.id), lambda temporary: write_mask(temporary, labels))

    def seed(self, sample: Sample) -> Seed:
        """The stored seed of an image."""
        from stages.data import seedfile

        return seedfile.read(self.seeds / f"{sample.id}.npz")

    def hard(self, seed: Seed) -> list[Tensor]:
        """Confident-foreground and confident-background labels (H,W): 0, or 1 + the place among the present classes."""
        from stages.data import seedfile
        from stages.formulas import seeds

        maps = seedfile.full_maps(seed, self.source)
        return [seeds.label(maps, level.tolist(), range(len(seed.classes))) for level in self._levels(seed)]

    def _levels(self, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
        """One threshold a class for confident foreground and for confident background."""
        import numpy as np

        if self.config.levels == "fixed":
            return np.full(len(seed.classes), self.config.fg), np.full(len(seed.classes), self.config.bg)
        own = seed.thresholds[self.source]
        return np.clip(own + self.config.fg_offset, 0.01, 0.99), np.clip(own - self.config.bg_offset, 0.01, 0.99)


def run(config: Config, ctx: Context) -> Outputs:
    """Write one label map an image, in worker processes; report the shares of labels."""
    from stages.core import processes
    from stages.data import memory

    samples = ctx.dataset.split("train")
    job = Job(config, ctx.shared["refine"].seed, ctx.input("seed_infer") / "seeds", ctx.out)
    if config.levels == "image-specific":
        _require_thresholds(job, samples)
    preload = ["stages.data.seedfile", "stages.data.images", "stages.formulas.crf", __name__]
    processes.each(samples, lambda s: label_path(ctx.out, s.id), job, "dense CRF", ctx, preload, memory.of_crf)
    outputs = _shares(samples, ctx)
    _sheet(job, ctx, samples)
    return replace(outputs, files=[*outputs.files, Path("labels.png")])


def _require_thresholds(job: Job, samples: tuple[Sample, ...]) -> None:
    """Raise StageError where a seed has no thresholds of its own to offset."""
    from stages.core.errors import StageError

    without = [sample.id for sample in samples if job.source not in job.seed(sample).thresholds]
    if without:
        raise StageError(
            "irn_labels.levels=image-specific needs thresholds of every image",
            f"{len(without)} of {len(samples)} seeds have none, first '{without[0]}'",
            "Set seed_infer.search=train, or irn_labels.levels=fixed",
        )


def label_path(folder: Path, image_id: str) -> Path:
    """Where the affinity label of an image lies."""
    return folder / "labels" / f"{image_id}.png"


def _shares(samples: tuple[Sample, ...], ctx: Context) -> Outputs:
    """Percent of pixels that are background, class and void, in all and for every class; warns of classes that have none."""
    counts, by_class = _counted(samples, ctx)
    names = ctx.dataset.classes
    present = [index for index in range(len(names)) if by_class[index, 2]]
    empty = [names[index] for index in present if not by_class[index, 0]]
    if empty:
        ctx.log.warning(
            "irn_labels: no confident pixel of %s in any image; lower irn_labels.fg or look at the seeds", ", ".join(empty)
        )
    kinds = {"background": counts[0], "class": counts[1:-1].sum(), "void": counts[-1]}
    metrics = {f"train/labels/{kind}/share": _share(pixels, counts.sum()) for kind, pixels in kinds.items()}
    notes = {"images": len(samples), "seed": ctx.shared["refine"].seed, "classes_without_confident_pixels": empty}
    notes["shares_by_class"] = {
        names[index]: {kind: _share(by_class[index, column], by_class[index, 2]) for column, kind in enumerate(("own", "void"))}
        for index in present
    }
    return Outputs([label_path(Path(), sample.id) for sample in samples], metrics, notes=notes)


def _counted(samples: tuple[Sample, ...], ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    """Pixels by label (256,), void the last; and of the images that carry a class its own, the void and all pixels (C,3)."""
    import numpy as np

    from stages.data.images import VOID, read_mask

    counts, by_class = np.zeros(256, np.int64), np.zeros((len(ctx.dataset.classes), 3), np.int64)
    with ctx.track("counting labels", len(samples)) as meter:
        for sample in samples:
            found = np.bincount(read_mask(label_path(ctx.out, sample.id)).ravel(), minlength=256)
            counts += found
            for index in sample.labels:
                by_class[index] += found[index + 1], found[VOID], found.sum()
            meter.advance()
    return counts, by_class


def _share(pixels: np.integer, of: np.integer) -> float:
    """Percent, two digits."""
    return round(100 * int(pixels) / max(int(of), 1), 2)


def _sheet(job: Job, ctx: Context, samples: tuple[Sample, ...]) -> None:
    """A contact sheet: image, confident foreground, what is not confident background, and the label (void is grey)."""
    import numpy as np

    from stages.data import sheets
    from stages.data.images import overlay, read_image, read_mask

    rows = []
    for sample in sheets.shown(samples):
        image, seed = read_image(sample.image), job.seed(sample)
        ids = np.array([0, *(seed.classes + 1)], dtype=np.uint8)
        hard = [overlay(image, ids[labels.numpy()]) for labels in job.hard(seed)]
        rows.append([image, *hard, overlay(image, read_mask(label_path(ctx.out, sample.id)))])
    sheets.write_sheet(ctx.out / "labels.png", ["image", "seed, confident", "seed, possible", "label after CRF"], rows)
