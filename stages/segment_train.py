"""segment_train — pseudo masks → DeepLabV2, trained by mmsegmentation's Runner (BAS, IJCV 2023, section 5.1).

`segment.network` puts any network of mmsegmentation in its place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core import networks
from stages.core.config import Field
from stages.core.manifest import read_manifest
from stages.core.recipe import Recipe
from stages.core.stage import Context, Outputs
from stages.data import maskfiles

if TYPE_CHECKING:
    from stages.data.dataset import Sample

NEEDS = ("mask_choice",)
SHARED = (networks.SETTING,)
READS = ("train", "negatives")
MEMORY = "Raise segment_train.accumulate (the same batch in more passes), or lower segment_train.batch or segment_train.crop"


class Config(Recipe):
    """The recipe, and what is learnt from."""

    supervision: Literal["pseudo", "full"] = Field(
        "pseudo", description="Masks to learn from: pseudo, or the true ones (full) for an upper bound, which every report names."
    )


def more_needs(config: Config) -> tuple[str, ...]:
    """The stage that knows how sure masks are, where the least confident pixels are left out."""
    return ("irn_masks",) if config.void and config.supervision == "pseudo" else ()


def run(config: Config, ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final losses."""
    from stages.nets.mmseg.learn import learn
    from stages.nets.mmseg.pairs import Pair, background

    refined = maskfiles.from_folder(ctx.input("mask_choice"), maskfiles.REFINED) if more_needs(config) else ()
    sure = {image_id: maskfiles.confidence_path(ctx.input("irn_masks"), image_id) for image_id in refined}
    pairs = [Pair(sample, _mask(sample, config, ctx), sure.get(sample.id)) for sample in ctx.dataset.split("train")]
    negatives = background(ctx)
    made = learn(config, [*pairs, *negatives], ctx)
    notes = {**made.notes, "supervision": _supervision(config, ctx)}
    return replace(made, notes=notes | ({"negatives": len(negatives)} if negatives else {}))


def _supervision(config: Config, ctx: Context) -> str:
    """What the masks that are learnt from were made of, in words: corrections by hand are more than image-level labels."""
    notes = (read_manifest(ctx.input("mask_choice")) or {}).get("notes", {})
    if config.supervision == "full" or not notes.get("corrected"):
        return config.supervision
    return f"pseudo, {notes['corrected']} of {notes['images']} corrected by hand"


def _mask(sample: Sample, config: Config, ctx: Context) -> Path:
    """The mask that SAMPLE is learnt from: its pseudo mask, or the true one where that was asked for."""
    from stages.core.errors import StageError

    if config.supervision == "pseudo":
        return maskfiles.mask_path(ctx.input("mask_choice"), sample.id)
    path = ctx.dataset.mask(sample)
    if path is None:
        raise StageError(
            f"No true mask of {sample.id}", "full supervision needs one an image", "Set segment_train.supervision=pseudo"
        )
    return path
