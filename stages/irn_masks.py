"""irn_masks — seeds + IRN → boundary-aware random walk → pseudo masks (IRN, CVPR 2019, section 5; BAS, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.config import Field
from stages.core.refinement import LabelCrf, Walk
from stages.core.stage import Context, Outputs
from stages.data.maskfiles import confidence_path, mask_path

if TYPE_CHECKING:
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.data.scoring import Scores
    from stages.nets.irn import Irn

NEEDS = ("seed_infer", "irn_train")
SHARED = ("refine.seed", "refine.power")
READS = ("train", "score")
MEMORY = "Set runtime.device=cpu, where photographs walk one at a time, and runtime.workers=1 where the CRF is on"
CONFIDENCE, CONFIDENT = "confidence.json", "confidence"  # of all images, and the name of the note in each one's picture


class Config(LabelCrf, Walk):
    """How seeds spread, where background begins, and a dense CRF after it; the defaults made the published numbers."""

    fixed: float = Field(
        0.22, description="Background threshold of the masks, on walked maps divided by their maximum.", gt=0, lt=1
    )
    crf: bool = Field(False, description="Refine the masks by a dense CRF after the walk, in worker processes.")


def run(config: Config, ctx: Context) -> Outputs:
    """Write one mask an image and how sure it is, then score them where true masks are there."""
    from stages.core.files import write_json
    from stages.nets import irn, storage

    net = ctx.runtime.place(irn.load(ctx.input("irn_train") / storage.FILE).eval(), config.channels_last)
    samples = ctx.dataset.split("train")
    scored = frozenset(sample.id for sample in ctx.dataset.split("score"))
    _walk_all(net, samples, scored, config, ctx)
    if config.crf:
        _smooth_all(samples, config, ctx)
    write_json(ctx.out / CONFIDENCE, {s.id: _confidence(confidence_path(ctx.out, s.id)) for s in samples})
    scores = score(config, ctx)
    _sheet(net, config, ctx, samples)
    files = {path for sample in samples for path in (*_walk_files(sample, scored, config), mask_path(Path(), sample.id))}
    notes = {"images": len(samples), "seed": ctx.shared["refine"].seed, "threshold": "fixed"}
    return Outputs([*files, Path(CONFIDENCE), Path("masks.png")], scores.metrics, scores.classes, notes)


def _walk_files(sample: Sample, scored: frozenset[str], config: Config) -> list[Path]:
    """What the walk writes of one image, in order; walked maps only of those that are SCORED."""
    kept = [walked_path(Path(), sample.id)] if sample.id in scored else []
    return [*kept, confidence_path(Path(), sample.id), walk_path(Path(), sample.id, config)]


def walk_path(folder: Path, image_id: str, config: Config) -> Path:
    """Where the mask of an image lies as the walk gives it, before the CRF if there is one."""
    return folder / "plain" / f"{image_id}.png" if config.crf else mask_path(folder, image_id)


def walked_path(folder: Path, image_id: str) -> Path:
    """Where the walked maps of an image that is scored lie, for thresholds other than the one used."""
    return folder / "walked" / f"{image_id}.npz"


def _walk_all(net: Irn, samples: Sequence[Sample], scored: frozenset[str], config: Config, ctx: Context) -> None:
    """Write what the walk makes of every image, as many at once as the device takes."""
    from stages.core import sharding

    def work(batch: Sequence[Sample]) -> None:
        for sample, walked in zip(batch, _walk(net, batch, config, ctx), strict=True):
            _mask(walked, sample, sample.id in scored, config, ctx)

    def target(sample: Sample) -> Path:
        return sharding.first_missing([ctx.out / path for path in _walk_files(sample, scored, config)])

    sharding.in_batches(samples, target, work, ctx.runtime.walks_at_once, "random walk", ctx)


def _smooth_all(samples: Sequence[Sample], config: Config, ctx: Context) -> None:
    """Refine the walk's masks by a dense CRF, in worker processes."""
    from stages.core import processes
    from stages.data import memory

    preload, smooth = ["stages.data.images", "stages.formulas.crf", __name__], Smooth(config, ctx.out)
    processes.each(samples, lambda s: mask_path(ctx.out, s.id), smooth, "dense CRF of masks", ctx, preload, memory.of_crf)


def _mask(walked: Tensor, sample: Sample, keep: bool, config: Config, ctx: Context) -> None:
    """Write the mask of one image from its walked maps (P,h,w), and before it those maps if they are to be scored."""
    import numpy as np
    import torch

    from stages.core.files import write_atomic
    from stages.data import seedfile, sources
    from stages.data.images import size, write_grey, write_mask
    from stages.formulas import confidence, seeds

    classes = seedfile.read(sources.seed_path(ctx.input("seed_infer"), sample.id)).classes
    rounded, extent = walked.half().cpu().numpy(), size(sample.image)
    if keep:
        arrays: dict[str, Any] = {"classes": classes, "maps": rounded, "size": np.array(extent)}
        write_atomic(walked_path(ctx.out, sample.id), lambda temporary: np.savez(temporary, **arrays))
    # the maps that are stored decide, so that scoring them again gives these masks
    stored = torch.from_numpy(rounded).float()
    maps = seeds.over_maximum(stored)
    sure = (255 * confidence.margins(maps, config.fixed)).round().byte().numpy()
    note = {CONFIDENT: f"{confidence.stability(maps, config.fixed):.4f}"}
    write_atomic(confidence_path(ctx.out, sample.id), lambda temporary: write_grey(temporary, sure, note))
    mask = seeds.label(seeds.upsample_walked(stored, extent), config.fixed, classes.tolist()).numpy()
    write_atomic(walk_path(ctx.out, sample.id, config), lambda temporary: write_mask(temporary, mask))


def _confidence(path: Path) -> float:
    """How sure the mask of an image is, as `_mask` noted it."""
    from stages.data.images import read_note

    return float(read_note(path, CONFIDENT))


@dataclass(frozen=True)
class Smooth:
    """What a worker process needs to refine the mask of an image by a dense CRF."""

    config: Config
    out: Path

    def __call__(self, sample: Sample) -> None:
        """The walk's mask → dense CRF → the mask."""
        from stages.core.files import write_atomic
        from stages.data.images import read_image, read_mask, write_mask
        from stages.formulas import crf

        plain = read_mask(walk_path(self.out, sample.id, self.config))
        kernels = crf.Kernels.of(self.config, self.config.iterations)
        mask = crf.refine_masks(read_image(sample.image), [plain], sample.labels, kernels, self.config.certainty)[0]
        write_atomic(mask_path(self.out, sample.id), lambda temporary: write_mask(temporary, mask))


def _walk(net: Irn, samples: Sequence[Sample], config: Config, ctx: Context) -> list[Tensor]:
    """Walked maps (P,h,w) of the present classes, of every image."""
    import torch

    from stages.data import seedfile, sources
    from stages.data.images import read_image
    from stages.formulas import seeds, walk

    refine, device = ctx.shared["refine"], ctx.runtime.device
    with torch.inference_mode():
        stored = [seedfile.read(sources.seed_path(ctx.input("seed_infer"), sample.id)) for sample in samples]
        maps = [seeds.power(seedfile.strided_maps(seed, refine.seed, device), refine.power) for seed in stored]
        edges = [_edge(net, read_image(sample.image), config, ctx) for sample in samples]
        return walk.random_walk_batch(maps, edges, config.radius, config.beta, config.exp_times, config.method)


def _edge(net: Irn, image: Array, config: Config, ctx: Context) -> Tensor:
    """Boundary probability (h,w) on the stride-4 grid, of the image and its mirror image."""
    from stages.nets import irn_inference

    return irn_inference.boundaries(net, image, ctx.runtime, config.pad, config.channels_last)


def score(config: Config, ctx: Context) -> Scores:
    """mIoU of the masks with the oracle and the fixed background threshold, and after the CRF; nothing without true masks."""
    import numpy as np
    import torch

    from stages.data import scoring
    from stages.data.images import read_mask
    from stages.formulas import metrics, seeds

    scores = scoring.Scores()
    pairs = scoring.with_truth(ctx.dataset, "score", ctx.log)
    if pairs is None:
        return scores
    count = scoring.MapScores(ctx.dataset, ctx.shared["eval"].subset or {}, config.fixed)
    smooth = np.zeros((len(ctx.dataset.classes) + 1,) * 2, dtype=np.int64)
    with ctx.track("scoring masks", len(pairs)) as meter:
        for sample, truth in pairs:
            with np.load(walked_path(ctx.out, sample.id), allow_pickle=False) as stored:
                maps, classes = torch.from_numpy(stored["maps"]).float(), stored["classes"].tolist()
            count.add(sample.id, truth, seeds.upsample_walked(maps, truth.shape).numpy(), classes, None)
            if config.crf:
                smooth += metrics.confusion(truth, read_mask(mask_path(ctx.out, sample.id)), len(smooth))
            meter.advance()
    count.enter(scores, "train/masks")
    if config.crf:
        scores.add("train/masks/crf", smooth, ctx.dataset.classes, ctx.shared["eval"].subset or {})
    scoring.keep(ctx.out, "train", {"masks": count})
    return scores


def _sheet(net: Irn, config: Config, ctx: Context, samples: tuple[Sample, ...]) -> None:
    """A contact sheet: image, seed, boundaries, the mask that was written."""
    import torch

    from stages.data import seedfile, sheets, sources
    from stages.data.images import overlay, read_image, read_mask

    rows = []
    for sample in sheets.shown(samples):
        image = read_image(sample.image)
        seed = seedfile.read(sources.seed_path(ctx.input("seed_infer"), sample.id))
        with torch.inference_mode():
            edge = sheets.enlarged(_edge(net, image, config, ctx).cpu().numpy(), image)
        strongest = seedfile.full_maps(seed, ctx.shared["refine"].seed).amax(0).numpy()
        pictures = [sheets.heat(image, heat) for heat in (strongest, edge)]
        rows.append([image, *pictures, overlay(image, read_mask(mask_path(ctx.out, sample.id)))])
    sheets.write_sheet(ctx.out / "masks.png", ["image", "seed", "boundaries", "mask"], rows)
