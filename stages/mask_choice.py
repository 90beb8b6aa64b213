"""mask_choice — refined masks and seeds → the masks that the segmentation network learns from, chosen image by image.

Of each image one file in `masks/`, and in `choice.json` where it comes from. A mask that is taken over as it is, is a link
to its file; nothing is computed for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.config import Field, Section
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.data.scoring import Scores

NEEDS = ("seed_train", "seed_infer", "irn_masks")
SHARED = ("refine.keep", "refine.seed")
READS = ("train", "score")
CHOICE = "choice.json"
REFINED, SEED = "refined", "seed"  # where a mask comes from


class Config(Section):
    """How the seed's own masks are cut, which the refined ones stand against."""

    fixed: float = Field(0.30, description="Threshold of the seed's masks.", gt=0, lt=1)


def run(config: Config, ctx: Context) -> Outputs:
    """Write one mask an image and say where each comes from, then score them where true masks are there."""
    from stages.core import sharding
    from stages.core.files import write_json

    samples = ctx.dataset.split("train")
    origins = {sample.id: _origin(sample, ctx) for sample in samples}
    sharding.each(samples, lambda s: mask_path(ctx.out, s.id), lambda s: _take(s, origins[s.id], config, ctx), "choosing", ctx)
    write_json(ctx.out / CHOICE, origins)
    scores = score(config, ctx)
    counts = {origin: list(origins.values()).count(origin) for origin in dict.fromkeys(origins.values())}
    files = [mask_path(Path(), sample.id) for sample in samples]
    notes = {"images": len(samples), "keep": ctx.shared["refine"].keep, "from": counts}
    return Outputs([*files, Path(CHOICE)], scores.metrics, scores.classes, notes)


def mask_path(folder: Path, image_id: str) -> Path:
    """Where the mask of an image lies, in this stage's folder or in that of the refined ones."""
    return folder / "masks" / f"{image_id}.png"


def _origin(sample: Sample, ctx: Context) -> str:
    """Where the mask of SAMPLE is to come from."""
    return SEED if ctx.shared["refine"].keep == "seeds" else REFINED


def _take(sample: Sample, origin: str, config: Config, ctx: Context) -> None:
    """Put the mask of one image in its place, from where it was chosen to come."""
    from stages.core.files import link, write_atomic
    from stages.data.images import write_mask

    target = mask_path(ctx.out, sample.id)
    if origin == SEED:
        write_atomic(target, lambda temporary: write_mask(temporary, _seed_mask(sample, config, ctx)))
    else:
        write_atomic(target, lambda temporary: link(mask_path(ctx.input("irn_masks"), sample.id), temporary))


def _seed_mask(sample: Sample, config: Config, ctx: Context) -> Array:
    """The label map (H,W) of the seed that IRN reads, at the fixed threshold."""
    from stages.data import seedfile, sources
    from stages.formulas import seeds

    seed = seedfile.read(sources.seed_path(ctx.input("seed_infer"), sample.id))
    return seeds.label(seedfile.full_maps(seed, ctx.shared["refine"].seed), config.fixed, seed.classes.tolist()).numpy()


def score(config: Config, ctx: Context) -> Scores:
    """mIoU of the masks that were chosen, on the scored list; nothing without true masks."""
    import numpy as np

    from stages.data import scoring
    from stages.data.images import read_mask
    from stages.formulas import metrics

    scores = scoring.Scores()
    pairs = scoring.with_truth(ctx.dataset, "score", ctx.log)
    if pairs is None:
        return scores
    count = len(ctx.dataset.classes) + 1
    matrix = np.zeros((count, count), dtype=np.int64)
    with ctx.track("scoring masks", len(pairs)) as meter:
        for sample, truth in pairs:
            matrix += metrics.confusion(truth, read_mask(mask_path(ctx.out, sample.id)), count)
            meter.advance()
    scores.add(f"train/choice/{ctx.shared['refine'].keep}", matrix, ctx.dataset.classes, ctx.shared["eval"].subset or {})
    return scores
