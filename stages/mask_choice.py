"""mask_choice — refined masks, seeds, corrections by hand → the masks to learn from, chosen image by image.

Of each image one file in `masks/`, and in `choice.json` where it comes from. A mask that is taken over as it is, is a link
to its file; one that was corrected by hand goes before all others. Seeds and refined masks are compared by signs that need
no true mask (`stages.formulas.signs`), of a sample of images, or of all where the better one is to be kept; `signs.json`
holds what they say. On 120 photographs (175 cases of a class in an image) they preferred what the true IoU prefers in 74 %
(82 % weighted by the difference): agreement with the CRF alone in 75 %, the loss alone in 43 %, which still sees masks that
spread over everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.config import Field
from stages.core.inputs import CORRECTIONS
from stages.core.refinement import LabelCrf
from stages.core.stage import Context, Outputs
from stages.data.maskfiles import CHOICE, MIXED, REFINED, SEED, mask_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stages.data.comparison import Comparison
    from stages.data.dataset import Sample
    from stages.data.scoring import Scores
    from stages.nets.judge import Pairs

NEEDS = ("seed_train", "seed_infer", "irn_masks")
SHARED = ("refine.keep", "refine.seed")
READS = ("train", "score")
MEMORY = "Lower mask_choice.judge_scale or runtime.workers"
SIGNS = "signs.json"


class Config(LabelCrf):
    """How seeds and refined masks are compared: the seed's threshold, the images, the network's view, the CRF."""

    fixed: float = Field(0.30, description="Threshold of the seed's masks.", gt=0, lt=1)
    images: int = Field(
        200, description="Training images, evenly spaced, whose seed and mask are compared; all if the better is kept.", ge=0
    )
    judge_scale: float = Field(1.0, description="Image scale at which the network judges masks; that of training fits.", gt=0)
    corrected: tuple[str, ...] = Field(
        (), description="Corrections by hand whose masks go before all others, the last named first; bas masks import sets it."
    )


def more_needs(config: Config) -> tuple[str, ...]:
    """The corrections that the configuration names."""
    return tuple(f"{CORRECTIONS}/{name}" for name in config.corrected)


def run(config: Config, ctx: Context) -> Outputs:
    """Compare seeds with refined masks, write one mask an image and where each comes from, score where true masks are there."""
    from stages.core import sharding
    from stages.core.files import write_json

    samples, keep = ctx.dataset.split("train"), ctx.shared["refine"].keep
    compared = samples if keep == "better" else _spaced(samples, config.images)
    wanted = compared if keep == "masks" else samples
    sharding.each(wanted, lambda s: seed_path(ctx.out, s.id), lambda s: _write_seed(s, config, ctx), "seeds as masks", ctx)
    table = _comparisons(compared, config, ctx)
    worse = _looks_worse(table, ctx)
    origins = {sample.id: _origin(sample, table, config, ctx) for sample in samples}
    write_json(ctx.out / CHOICE, origins)
    sharding.each(samples, lambda s: mask_path(ctx.out, s.id), lambda s: _take(s, origins[s.id], table, ctx), "choosing", ctx)
    scores = score(config, ctx)
    _pairs(ctx).forget()
    files = [*(mask_path(Path(), s.id) for s in samples), *(seed_path(Path(), s.id) for s in wanted), Path(CHOICE), Path(SIGNS)]
    counts = {origin: list(origins.values()).count(origin) for origin in dict.fromkeys(origins.values())}
    corrected = sum(count for origin, count in counts.items() if origin.startswith(CORRECTIONS))
    notes = {"images": len(samples), "corrected": corrected, "keep": keep, "from": counts}
    notes |= {"compared": len(table), "refinement_looks_worse": worse}
    return Outputs(files, scores.metrics, scores.classes, notes)


def seed_path(folder: Path, image_id: str) -> Path:
    """Where the seed of an image lies as a mask, if it was wanted."""
    return folder / "seeds" / f"{image_id}.png"


def _spaced(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """COUNT of the samples, evenly spaced, or all if there are fewer."""
    count = min(count, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def _pairs(ctx: Context) -> Pairs:
    """The two masks of every image."""
    from stages.nets.judge import Pairs

    return Pairs(ctx.out / "seeds", ctx.input("irn_masks") / "masks", ctx.out)


def _comparisons(samples: Sequence[Sample], config: Config, ctx: Context) -> dict[str, Comparison]:
    """What the signs say of SAMPLES, by image; kept in one file."""
    from stages.data import comparison

    found = comparison.read(ctx.out / SIGNS)
    if found is None and samples:
        from stages.nets import judge, storage

        network = ctx.input("seed_train") / storage.FILE
        found = judge.compare(samples, _pairs(ctx), network, config.judge_scale, config, ctx)
    comparison.write(ctx.out / SIGNS, found or {})
    return found or {}


def _looks_worse(table: Mapping[str, Comparison], ctx: Context) -> list[str]:
    """The classes for which refinement looks worse than the seed, of which the log warns."""
    from stages.data import comparison

    votes = comparison.by_class(table)
    worse = [ctx.dataset.classes[index] for index, vote in votes.items() if vote < 0]
    if worse:
        advice = ", or set refine.keep to better or seeds" if ctx.shared["refine"].keep == "masks" else ""
        ctx.log.warning(
            "mask_choice: refinement looks worse than the seed for %s (%d of %d classes in %d images) and better in %.0f %% of "
            "all cases; look at irn_masks/masks.png%s",
            *(", ".join(worse), len(worse), len(votes), len(table), comparison.summary(table)[comparison.LOOK_BETTER], advice),
        )
    return worse


def _write_seed(sample: Sample, config: Config, ctx: Context) -> None:
    """Write the label map (H,W) of the seed that IRN reads, at the fixed threshold."""
    from stages.core.files import write_atomic
    from stages.data import seedfile, sources
    from stages.data.images import write_mask
    from stages.formulas import seeds

    seed = seedfile.read(sources.seed_path(ctx.input("seed_infer"), sample.id))
    maps = seedfile.full_maps(seed, ctx.shared["refine"].seed)
    mask = seeds.label(maps, config.fixed, seed.classes.tolist()).numpy()
    write_atomic(seed_path(ctx.out, sample.id), lambda temporary: write_mask(temporary, mask))


def _origin(sample: Sample, table: Mapping[str, Comparison], config: Config, ctx: Context) -> str:
    """Where the mask of SAMPLE is to come from."""
    corrections = (folder for folder in reversed(more_needs(config)) if mask_path(ctx.input(folder), sample.id).exists())
    found = next(corrections, None)
    if found is not None:
        return found
    keep = ctx.shared["refine"].keep
    if keep != "better":
        return SEED if keep == "seeds" else REFINED
    taken = table[sample.id].from_seed
    return REFINED if not taken else SEED if len(taken) == len(sample.labels) else MIXED


def _take(sample: Sample, origin: str, table: Mapping[str, Comparison], ctx: Context) -> None:
    """Put the mask of one image in its place, from where it was chosen to come."""
    from stages.core.files import link, write_atomic
    from stages.data.images import write_mask
    from stages.formulas import signs

    target = mask_path(ctx.out, sample.id)
    if origin == MIXED:
        seed, refined = _pairs(ctx).read(sample)
        mask = signs.mixed(seed, refined, table[sample.id].from_seed)
        write_atomic(target, lambda temporary: write_mask(temporary, mask))
        return
    folder = ctx.input("irn_masks" if origin == REFINED else origin)
    source = seed_path(ctx.out, sample.id) if origin == SEED else mask_path(folder, sample.id)
    write_atomic(target, lambda temporary: link(source, temporary))


def score(config: Config, ctx: Context) -> Scores:
    """What the signs say; with true masks also the mIoU of what was chosen, and how often the signs are right."""
    import numpy as np

    from stages.data import comparison, scoring
    from stages.data.images import read_mask
    from stages.formulas import metrics

    table = comparison.read(ctx.out / SIGNS) or {}
    scores = scoring.Scores(comparison.summary(table))
    pairs = scoring.with_truth(ctx.dataset, "score", ctx.log)
    if pairs is None:
        return scores
    names, subsets = ctx.dataset.classes, ctx.shared["eval"].subset or {}
    matrix, proof = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64), comparison.Proof(names, subsets)
    with ctx.track("scoring masks", len(pairs)) as meter:
        for sample, truth in pairs:
            matrix += metrics.confusion(truth, read_mask(mask_path(ctx.out, sample.id)), len(names) + 1)
            if sample.id in table:
                proof.add(table[sample.id], truth, *_pairs(ctx).read(sample))
            meter.advance()
    proof.enter(scores)
    scores.add(f"train/choice/{ctx.shared['refine'].keep}", matrix, names, subsets)
    return scores
