"""Judging the masks of images without a true mask: by the frozen seed network (Eq. 3 and 4) and by the dense CRF.

Two folders of masks are compared, those of the seeds and the refined ones. Numbers of an image wait in a file until all
images have theirs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core import processes, sharding
from stages.core.files import read_json, write_json
from stages.core.refinement import LabelCrf
from stages.core.runtime import Runtime
from stages.core.stage import Context
from stages.data import memory
from stages.data.comparison import Comparison, plain
from stages.data.dataset import Sample
from stages.data.images import Array, read_image, read_mask, resize
from stages.data.transforms import normalise
from stages.formulas import crf, seeds, signs
from stages.nets import bas
from stages.nets.hoisted import Evaluator

LOSSES, AGREEMENTS = "losses", "agreements"  # folders of waiting numbers


def of_image(net: bas.BasNet, image: Array, scale: float, runtime: Runtime) -> Evaluator:
    """F2 of NET, in evaluation mode, on the features of an image (H,W,3) resized by SCALE; call it without gradients."""
    view = resize(image, *seeds.scaled_size(image.shape[0], image.shape[1], scale))
    return Evaluator(net.evaluator, net.extractor(runtime.place(normalise(view)[None], channels_last=True)))


@dataclass(frozen=True)
class Pairs:
    """The two masks of every image, and the folder in which numbers wait."""

    seeds: Path
    refined: Path
    waiting: Path

    def read(self, sample: Sample) -> list[Array]:
        """Both masks (H,W) of an image, the seed's first."""
        return [read_mask(folder / f"{sample.id}.png") for folder in (self.seeds, self.refined)]

    def numbers(self, kind: str, sample: Sample) -> Path:
        """Where numbers of an image wait."""
        return self.waiting / kind / f"{sample.id}.json"

    def comparison(self, sample: Sample) -> Comparison:
        """What was found of an image."""
        values: dict[str, Any] = {"classes": sample.labels}
        for kind in (LOSSES, AGREEMENTS):
            values |= read_json(self.numbers(kind, sample)) or {}
        return Comparison.of(values)

    def forget(self) -> None:
        """Remove the numbers that waited."""
        for kind in (LOSSES, AGREEMENTS):
            shutil.rmtree(self.waiting / kind, ignore_errors=True)


@dataclass(frozen=True)
class Agree:
    """What a worker process needs to compare the masks of an image with their own dense CRF."""

    pairs: Pairs
    kernels: crf.Kernels
    certainty: float

    def __call__(self, sample: Sample) -> None:
        """Keep agreement and area (2,P)."""
        masks = self.pairs.read(sample)
        smooth = crf.refine_masks(read_image(sample.image), masks, sample.labels, self.kernels, self.certainty)
        agreement = [signs.agreement(mask, after, sample.labels) for mask, after in zip(masks, smooth, strict=True)]
        area = [signs.areas(mask, sample.labels) for mask in masks]
        values = {"agreement": plain(np.stack(agreement)), "area": plain(np.stack(area))}
        write_json(self.pairs.numbers(AGREEMENTS, sample), values)


def compare(
    samples: Sequence[Sample], pairs: Pairs, network: Path, scale: float, field: LabelCrf, ctx: Context
) -> dict[str, Comparison]:
    """Seed and refined mask of every image, by its id: losses by the seed NETWORK, then the CRF in worker processes."""
    net = ctx.runtime.place(bas.load(network)[0].eval(), channels_last=True)

    def judge(sample: Sample) -> None:
        with torch.inference_mode(), ctx.runtime.fabric.autocast():
            judge = of_image(net, read_image(sample.image), scale, ctx.runtime)
            losses = signs.losses(pairs.read(sample), sample.labels, judge.size, judge.logits, judge)
        write_json(pairs.numbers(LOSSES, sample), {"loss": plain(losses)})

    sharding.each(samples, lambda s: pairs.numbers(LOSSES, s), judge, "losses of masks", ctx)
    agree = Agree(pairs, crf.Kernels.of(field, field.iterations), field.certainty)
    processes.each(samples, lambda s: pairs.numbers(AGREEMENTS, s), agree, "dense CRF of masks", ctx, [__name__], memory.of_crf)
    return {sample.id: pairs.comparison(sample) for sample in samples}
