"""segment_retrain — the network's own masks → the segmentation network again, by the same recipe from the same first weights.

The second half of a round of self-training. Not part of the pipeline; `segment_predict.trained_by` puts its network in use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stages.core import networks
from stages.core.config import Field, Section
from stages.core.manifest import read_manifest
from stages.core.stage import Context, Outputs
from stages.data.maskfiles import confidence_path, mask_path

if TYPE_CHECKING:
    from stages.data.dataset import Sample

NEEDS = ("mask_choice", "segment_train", "self_masks")
SHARED = ("segment_train", networks.SETTING)
READS = ("train", "negatives")
MEMORY = "Raise segment_train.accumulate (the same batch in more passes), or lower segment_train.batch or segment_train.crop"


class Config(Section):
    """What differs from the first training: which pixels of its own masks are left out."""

    void: float = Field(
        0.0,
        description="Share of each class's pixels, those that the network is least sure of, that is left out of the loss.",
        ge=0,
        lt=1,
    )
    agreed: bool = Field(
        False, description="Learn only from pixels of which its own mask and the one that was learnt from first say the same."
    )


def run(config: Config, ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final losses."""
    from stages.nets.mmseg.learn import learn
    from stages.nets.mmseg.pairs import Pair, background

    masks, first = ctx.input("self_masks"), ctx.input("mask_choice")

    def pair(sample: Sample) -> Pair:
        own, sure = mask_path(masks, sample.id), confidence_path(masks, sample.id)
        return Pair(sample, own, sure if sure.exists() else None, mask_path(first, sample.id) if config.agreed else None)

    pairs = [pair(sample) for sample in ctx.dataset.split("train")]
    made = learn(replace(ctx.shared["segment_train"], void=config.void), [*pairs, *background(ctx)], ctx)
    before = (read_manifest(ctx.input("segment_train")) or {}).get("notes", {}).get("supervision", "pseudo")
    return replace(made, notes={**made.notes, "supervision": before, "masks": _masks(config)})


def _masks(config: Config) -> str:
    """What was learnt from, in words."""
    return "its own after segment_train" + (", where they agree with those that it had learnt from" if config.agreed else "")
