"""self_masks — the segmentation network → its own masks of the training images, to learn from once more.

What the network learnt from all images together mends the mask of each. A class that an image does not carry by its label is
out of the question, which image-level supervision allows; masks corrected by hand stay as they are. Not part of the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.config import Field, Section
from stages.core.inputs import CORRECTIONS
from stages.core.stage import Context, Outputs
from stages.data import maskfiles
from stages.data.maskfiles import confidence_path, mask_path

if TYPE_CHECKING:
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.scoring import Scores
    from stages.formulas.crf import Kernels

CRF = ("crf_iterations", "smooth_width", "smooth_weight", "colour_width", "colour_range", "colour_weight")
NEEDS = ("mask_choice", "segment_train")
SHARED = tuple(f"segment_predict.{name}" for name in ("scales", "flip", "tile", *CRF))  # seen as the validation list is
READS = ("train", "score")
MEMORY = "Lower segment_predict.tile, leave the largest of segment_predict.scales out, or lower runtime.workers for the CRF"


class Config(Section):
    """How the network's predictions become masks; its scales and the CRF's kernels are those of segment_predict."""

    crf: bool = Field(True, description="Refine the masks by a dense CRF over the present classes, in worker processes.")


@dataclass(frozen=True)
class Refine:
    """What a worker process needs to refine one mask beside its image."""

    kernels: Kernels
    folder: Path

    def __call__(self, seen: tuple[Sample, Any]) -> None:
        """An image and its logits (P+1,h,w) → probabilities at its size → dense CRF → mask and confidence."""
        import torch

        from stages.data.images import read_image
        from stages.formulas import crf
        from stages.formulas.segmentation import probabilities_at

        sample, logits = seen
        image = read_image(sample.image)
        unary = probabilities_at(torch.from_numpy(logits), image.shape[:2]).numpy()
        _write(self.folder, sample, torch.from_numpy(crf.refine_probabilities(image, unary, self.kernels)))


def run(config: Config, ctx: Context) -> Outputs:
    """Write one mask an image and how sure the network is of it, then score them where true masks are there."""
    from stages.core import processes, sharding
    from stages.data import memory
    from stages.formulas.crf import Kernels
    from stages.nets.mmseg import network, runner

    samples, corrected = ctx.dataset.split("train"), _corrected(ctx)
    drawn, own = ([s for s in samples if (s.id in corrected) is by_hand] for by_hand in (True, False))
    sharding.each(drawn, lambda s: mask_path(ctx.out, s.id), lambda s: _take(s, ctx), "masks corrected by hand", ctx)
    net = network.load(ctx.input("segment_train") / runner.CHECKPOINT, ctx.runtime.fabric.device)
    if config.crf:
        settings = ctx.shared["segment_predict"]
        refine = Refine(Kernels.of(settings, settings.crf_iterations), ctx.out)
        preload = ["stages.data.images", "stages.formulas.crf", "stages.formulas.segmentation", __name__]
        look = partial(_packed, net, ctx)
        processes.stream(own, lambda s: mask_path(ctx.out, s.id), look, refine, "own masks", ctx, preload, memory.of_crf)
    else:
        sharding.each(own, lambda s: mask_path(ctx.out, s.id), lambda s: _soften(net, ctx, s), "own masks", ctx)
    scores = score(config, ctx)
    _sheet(ctx, samples)
    files = [*(mask_path(Path(), s.id) for s in samples), *(confidence_path(Path(), s.id) for s in own), Path("masks.png")]
    notes = {"images": len(samples), "corrected": len(drawn)}
    return Outputs(files, scores.metrics, scores.classes, notes)


def _corrected(ctx: Context) -> frozenset[str]:
    """The images whose mask a person drew."""
    return maskfiles.from_folder(ctx.input("mask_choice"), CORRECTIONS)


def _take(sample: Sample, ctx: Context) -> None:
    """Put the mask that a person drew in its place."""
    from stages.core.files import link, write_atomic

    chosen = mask_path(ctx.input("mask_choice"), sample.id)
    write_atomic(mask_path(ctx.out, sample.id), lambda temporary: link(chosen, temporary))


def _look(net: Any, ctx: Context, sample: Sample) -> Tensor:
    """The logits (P+1,h,w) of background and the classes that an image carries."""
    from stages.data.images import read_image
    from stages.nets.mmseg import inference

    image, view = read_image(sample.image), ctx.shared["segment_predict"]
    with ctx.runtime.fabric.autocast():
        logits = inference.tiled_logits(net, image, view.scales, view.flip, view.tile)
    return logits[[0, *(index + 1 for index in sample.labels)]]


def _packed(net: Any, ctx: Context, sample: Sample) -> tuple[Sample, Any]:
    """An image with its logits in half precision, on the way to the CRF."""
    return sample, _look(net, ctx, sample).half().cpu().numpy()


def _soften(net: Any, ctx: Context, sample: Sample) -> None:
    """The mask of an image from its logits alone."""
    from stages.data.images import size
    from stages.formulas.segmentation import probabilities_at

    _write(ctx.out, sample, probabilities_at(_look(net, ctx, sample), size(sample.image)).cpu())


def _write(folder: Path, sample: Sample, probabilities: Tensor) -> None:
    """Write the mask of an image from PROBABILITIES (P+1,H,W) of background and its classes, and before it how sure it is."""
    import numpy as np

    from stages.core.files import write_atomic
    from stages.data.images import write_grey, write_mask
    from stages.formulas import noise
    from stages.formulas.confidence import lead

    sure = noise.on_grid(lead(probabilities))
    write_atomic(confidence_path(folder, sample.id), lambda temporary: write_grey(temporary, sure, {}))
    ids = np.array([0, *(index + 1 for index in sample.labels)], np.uint8)
    mask = ids[probabilities.argmax(0).numpy()]
    write_atomic(mask_path(folder, sample.id), lambda temporary: write_mask(temporary, mask))


def score(config: Config, ctx: Context) -> Scores:
    """mIoU of the network's own masks; nothing without true masks."""
    import numpy as np

    from stages.data import scoring
    from stages.data.images import read_mask
    from stages.formulas import metrics

    scores = scoring.Scores()
    pairs = scoring.with_truth(ctx.dataset, "score", ctx.log)
    if pairs is None:
        return scores
    names = ctx.dataset.classes
    matrix = np.zeros((len(names) + 1,) * 2, dtype=np.int64)
    with ctx.track("scoring masks", len(pairs)) as meter:
        for sample, truth in pairs:
            matrix += metrics.confusion(truth, read_mask(mask_path(ctx.out, sample.id)), len(matrix))
            meter.advance()
    scores.add(f"train/self/{'crf' if config.crf else 'plain'}", matrix, names, ctx.shared["eval"].subset or {})
    return scores


def _sheet(ctx: Context, samples: Sequence[Sample]) -> None:
    """A contact sheet: image, the mask that was learnt from, the network's own."""
    from stages.data import sheets
    from stages.data.images import overlay, read_image, read_mask

    folders, rows = (ctx.input("mask_choice"), ctx.out), []
    for sample in sheets.shown(samples):
        image = read_image(sample.image)
        rows.append([image, *(overlay(image, read_mask(mask_path(folder, sample.id))) for folder in folders)])
    sheets.write_sheet(ctx.out / "masks.png", ["image", "learnt from", "its own"], rows)
