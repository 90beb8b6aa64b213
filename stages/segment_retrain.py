"""segment_retrain — the network's own masks → the segmentation network again, by the same recipe from the same first weights.

The second half of a round of self-training. Not part of the pipeline; `segment_predict.trained_by` puts its network in use.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stages.core.config import Field, Section
from stages.core.stage import Context, Outputs, read_manifest
from stages.data.maskfiles import confidence_path, mask_path

NEEDS = ("segment_train", "self_masks")
SHARED = ("segment_train",)
READS = ("train",)


class Config(Section):
    """What differs from the first training: which pixels are left out."""

    void: float = Field(
        0.0,
        description="Share of each class's pixels, those that the network is least sure of, that is left out of the loss.",
        ge=0,
        lt=1,
    )


def run(config: Config, ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final losses."""
    from stages.nets.mmseg.learn import learn
    from stages.nets.mmseg.pairs import Pair

    masks = ctx.input("self_masks")

    def sure(image_id: str) -> Path | None:
        path = confidence_path(masks, image_id)
        return path if path.exists() else None  # a person is

    pairs = [Pair(sample, mask_path(masks, sample.id), sure(sample.id)) for sample in ctx.dataset.split("train")]
    made = learn(replace(ctx.shared["segment_train"], void=config.void), pairs, ctx)
    before = (read_manifest(ctx.input("segment_train")) or {}).get("notes", {}).get("supervision", "pseudo")
    return replace(made, notes={**made.notes, "supervision": before, "masks": "its own after segment_train"})
