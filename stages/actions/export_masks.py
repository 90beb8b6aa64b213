"""Masks of a run for editors, to be corrected by hand; `bas masks import` takes them back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages import masks_import
from stages.actions.run import Run
from stages.core import inputs
from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.files import read_json, write_atomic
from stages.core.manifest import read_manifest

if TYPE_CHECKING:
    from stages.data.dataset import Sample
    from stages.data.drawings import Drawing
    from stages.data.images import Array

STAGES = ("mask_choice", "irn_masks")  # whose masks are given out: the first that is there
CONFIDENCE = "confidence.json"
OF_ALL = ("coco", "cvat")  # formats of one file for all images
WORST = "worst:"


@dataclass(frozen=True)
class Manner:
    """How masks are written: format, kind of shapes, tolerance of polygons in pixels, which images."""

    format: Literal["coco", "cvat", "labelme", "png"]
    shapes: Literal["polygons", "masks"] = "polygons"
    tolerance: float = 1.0
    only: str | None = None


@dataclass
class _Export:
    """One export: what it reads, where it writes, what it has given out."""

    run: Run
    source: Path
    folder: Path
    manner: Manner
    pixels: int = 0
    changed: int = 0  # pixels that polygons give another label
    shapes: int = 0

    def give(self, sample: Sample) -> tuple[Drawing | None, str]:
        """Draw the mask of one image and write it where a file is of one image. Returns the drawing and its mask's digest."""
        from stages.data import drawings, images

        mask = images.read_mask(self.source / "masks" / f"{sample.id}.png")
        if self.manner.format == "png":
            write_atomic(self.folder / f"{sample.id}.png", lambda temporary: images.write_mask(temporary, mask))
            self.pixels += mask.size
            return None, masks_import.mask_digest(mask)
        classes = self.run.dataset.classes
        shapes = drawings.draw(mask, classes, self.manner.shapes, self.manner.tolerance)
        drawing = drawings.Drawing(f"{sample.id}{sample.image.suffix}", mask.shape, shapes, self.folder)
        back = drawings.paint(drawing, images.size(sample.image), drawings.labels_of(classes))
        self._count(mask, back, len(shapes))
        if self.manner.format == "labelme":
            self._write_labelme(drawing, sample)
        return drawing, masks_import.mask_digest(back)

    def _write_labelme(self, drawing: Drawing, sample: Sample) -> None:
        from stages.data.editors import labelme

        target = (self.folder / f"{sample.id}.json").parent
        labelme.write(self.folder, drawing, sample.id, Path(os.path.relpath(sample.image, target)).as_posix())

    def _count(self, mask: Array, back: Array, shapes: int) -> None:
        self.pixels += mask.size
        self.changed += int((mask != back).sum())
        self.shapes += shapes

    def finish(self, given: Sequence[Drawing]) -> None:
        """Write what is one file for all images, or beside them."""
        from stages.data.editors import coco, cvat, labelme

        classes = self.run.dataset.classes
        if self.manner.format == "coco":
            coco.write(self.folder, given, classes)
        elif self.manner.format == "cvat":
            cvat.write(self.folder, given, classes)
        elif self.manner.format == "labelme":
            labelme.write_labels(self.folder, classes)


def export_masks(run: Run, folder: Path, manner: Manner, reporter: contract.Reporter, force: bool) -> dict[str, Any]:
    """Write the masks of RUN into FOLDER in the MANNER given and remember what was given out. Returns what was, in plain values.

    Raises StageError where the run has no masks or no confidences that were asked for, and, without FORCE, where a file is
    there already: it may have been corrected.
    """
    source = _source(run)
    samples = _chosen(run, source, manner.only)
    _require_new(folder, samples, manner.format, force)
    export, digests, given = _Export(run, source, folder, manner), {}, []
    with reporter.track("exporting", len(samples)) as meter:
        for sample in samples:
            drawing, digests[sample.id] = export.give(sample)
            given += [drawing] if drawing is not None and manner.format in OF_ALL else []
            meter.advance()
    export.finish(given)
    masks_import.note_exported(run.folder / inputs.CORRECTIONS, digests)
    counts = {"images": len(samples), "shapes": export.shapes, "changed": round(100 * export.changed / export.pixels, 4)}
    kind = "masks" if manner.format == "png" else manner.shapes
    return {"run": str(run.folder), "folder": str(folder), "from": source.name, "format": manner.format, "kind": kind, **counts}


def _source(run: Run) -> Path:
    """The folder of the stage whose masks are learnt from. Raises StageError where there is none; warns where it is stale."""
    name = next((name for name in STAGES if read_manifest(run.folder / name) is not None), None)
    if name is None:
        raise StageError(f"No masks in {run.folder}", f"{STAGES[-1]} is not complete", "Run `bas refine irn` first")
    report = next(row for row in run.reports() if row.name == name)
    if report.state != "done":
        run.on_warning(f"the masks are stale: {report.why}")
    return run.folder / name


def _chosen(run: Run, source: Path, only: str | None) -> Sequence[Sample]:
    """The training images whose masks are given out: all, or the N least confident ones, the worst first."""
    samples = run.dataset.split("train")
    if only is None:
        return samples
    count = only.removeprefix(WORST)
    if not only.startswith(WORST) or not count.isdecimal() or int(count) < 1:
        raise StageError(f"Cannot read --only {only}", "not of the form worst:N", "Write for example --only worst:50")
    files = (source / CONFIDENCE, *(run.folder / name / CONFIDENCE for name in STAGES))
    confidence = next((values for path in files if (values := read_json(path)) is not None), None)
    if confidence is None:
        raise StageError(f"Cannot tell the worst masks of {run.folder}", f"no {CONFIDENCE} there", "Run `bas refine irn` again")
    return sorted(samples, key=lambda sample: confidence.get(sample.id, 1.0))[: int(count)]


def _require_new(folder: Path, samples: Sequence[Sample], kind: str, force: bool) -> None:
    """Raise StageError where FOLDER holds such files already."""
    suffix = {"labelme": ".json", "png": ".png"}.get(kind)
    names = (
        [f"{sample.id}{suffix}" for sample in samples] if suffix else [{"coco": "annotations.json"}.get(kind, "annotations.xml")]
    )
    there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise StageError(
            f"{folder} holds such files already",
            f"{len(there)}, first '{there[0]}', and they may have been corrected",
            "Choose an empty folder, or write over them with --force",
        )
