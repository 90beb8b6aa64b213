"""segment_predict — segmentation network → predictions, with and without dense CRF (BAS, section 5.1).

Of the validation split, or of another list of the dataset's that the stage was asked for (`segment_predict@test`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core.config import Field, Section
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    from stages.data.dataset import Sample
    from stages.data.scoring import Scores

NEEDS = ("segment_train",)
SHARED = ()
READS = ("val",)
MEMORY = "Lower segment_predict.tile, leave the largest of segment_predict.scales out, or lower runtime.workers for the CRF"
NAMES = {"segment_train": "network", "segment_retrain": "retrained"}  # of the networks, in the keys of scores


class Config(Section):
    """How the network is tested; the defaults are the public recipe's, the CRF's kernels DeepLab's."""

    trained_by: Literal["segment_train", "segment_retrain"] = Field(
        "segment_train",
        description="Whose network: segment_train's, or after self-training segment_retrain's; bas predict takes the same.",
        later=True,
    )
    scales: tuple[float, ...] = Field(
        (1.0, 0.5, 0.75),
        description="Image scales; DeepLabV2 takes their maximum, another network the mean of their probabilities.",
        min_length=1,
        gt=0,
    )
    flip: bool = Field(True, description="Also run the mirror image and take the mean of both; the public recipe does not.")
    tile: int = Field(
        1024, description="Images with a longer side are seen in overlapping squares of this one; 0: always whole.", ge=0
    )
    crf: bool = Field(True, description="Refine the predictions by a dense CRF, in worker processes.")
    crf_iterations: int = Field(10, description="Mean-field iterations of the CRF.", ge=1)
    crf_least: float = Field(
        0.01, description="Classes that are less likely than this at every pixel stay out of the CRF; 0: none does.", ge=0, le=1
    )
    smooth_width: float = Field(1.0, description="Width of the smoothness kernel, in pixels.", gt=0)
    smooth_weight: float = Field(3.0, description="Weight of the smoothness kernel.", ge=0)
    colour_width: float = Field(67.0, description="Width of the colour kernel, in pixels.", gt=0)
    colour_range: float = Field(3.0, description="Width of the colour kernel, in grey levels (RGB).", gt=0)
    colour_weight: float = Field(4.0, description="Weight of the colour kernel.", ge=0)


def more_needs(config: Config) -> tuple[str, ...]:
    """The stage that trained the network once more, if it is that one's."""
    return () if config.trained_by in NEEDS else (config.trained_by,)


@dataclass(frozen=True)
class Seen:
    """An image that the network has seen, on its way to the CRF: its logits (C,h,w) in half precision."""

    sample: Sample
    logits: Any


@dataclass(frozen=True)
class Refine:
    """What a worker process needs to refine one prediction beside its image."""

    config: Config
    folder: Path

    def __call__(self, seen: Seen) -> None:
        """Logits → probabilities at the image's size → dense CRF → index PNG."""
        import torch

        from stages.core.files import write_atomic
        from stages.data.images import read_image, write_mask
        from stages.formulas import crf
        from stages.formulas.segmentation import probabilities_at

        image = read_image(seen.sample.image)
        unary = probabilities_at(torch.from_numpy(seen.logits), image.shape[:2]).numpy()
        kernels = crf.Kernels.of(self.config, self.config.crf_iterations)
        posterior = crf.refine_probabilities(image, unary, kernels, self.config.crf_least)
        labels = posterior.argmax(0).astype("uint8")
        write_atomic(prediction_path(self.folder, "crf", seen.sample.id), lambda temporary: write_mask(temporary, labels))


def run(config: Config, ctx: Context) -> Outputs:
    """Write one prediction an image, and one after the CRF, then score both where true masks are there."""
    from stages.core import processes, sharding
    from stages.data import memory
    from stages.nets.mmseg import network, runner

    samples, made = ctx.dataset.split(ctx.asked or READS[0]), kinds(config)
    net = network.load(ctx.input(config.trained_by) / runner.CHECKPOINT, ctx.runtime.fabric.device)
    look = partial(_look, net, config, ctx)

    def missing(sample: Sample) -> Path:
        return sharding.first_missing([prediction_path(ctx.out, kind, sample.id) for kind in made])

    if config.crf:
        preload = ["stages.data.images", "stages.formulas.crf", "stages.formulas.segmentation", __name__]
        size = partial(memory.of_full_crf, classes=len(ctx.dataset.classes))
        processes.stream(samples, missing, look, Refine(config, ctx.out), "predictions", ctx, preload, size)
    else:
        sharding.each(samples, missing, look, "predictions", ctx)
    scores = score(config, ctx)
    _sheet(made, ctx, samples)
    files = [prediction_path(Path(), kind, sample.id) for kind in made for sample in samples]
    notes = {"images": len(samples), "scales": list(config.scales), "flip": config.flip}
    return Outputs([*files, Path("predictions.png")], scores.metrics, scores.classes, notes)


def kinds(config: Config) -> tuple[str, ...]:
    """The kinds of predictions that there are of an image."""
    return ("plain", "crf") if config.crf else ("plain",)


def prediction_path(folder: Path, kind: str, image_id: str) -> Path:
    """Where the prediction of an image lies; KIND is "plain" or "crf"."""
    return folder / kind / f"{image_id}.png"


def _look(net: Any, config: Config, ctx: Context, sample: Sample) -> Seen:
    """Logits of one image; their argmax at its size is its plain prediction, an index PNG."""
    from stages.core.files import write_atomic
    from stages.core.finite import require_numbers
    from stages.data.images import read_image, write_mask
    from stages.formulas.segmentation import labels_at
    from stages.nets.mmseg import inference

    image = read_image(sample.image)
    with ctx.runtime.fabric.autocast():
        logits = require_numbers(inference.tiled_logits(net, image, config.scales, config.flip, config.tile))
    labels = labels_at(logits, image.shape[:2]).cpu().numpy()
    write_atomic(prediction_path(ctx.out, "plain", sample.id), lambda temporary: write_mask(temporary, labels))
    return Seen(sample, logits.half().cpu().numpy())


def score(config: Config, ctx: Context) -> Scores:
    """Mean IoU and boundary F-score of the predictions, plain and after the CRF; nothing where true masks are missing.

    Also writes the confusion matrices beside the predictions.
    """
    from stages.data import confusions, scoring
    from stages.data.images import read_mask

    scores, made, role = scoring.Scores(), kinds(config), ctx.asked or READS[0]
    pairs = scoring.with_truth(ctx.dataset, role, ctx.log)
    if pairs is None:
        return scores
    tallies = {kind: confusions.Tally(ctx.dataset.classes) for kind in made}
    with ctx.track("scoring predictions", len(made) * len(pairs)) as meter:
        for sample, truth in pairs:
            for kind, tally in tallies.items():
                tally.add(truth, read_mask(prediction_path(ctx.out, kind, sample.id)))
                meter.advance()
    for kind, tally in tallies.items():
        tally.enter(scores, f"{role}/{NAMES[config.trained_by]}/{kind}", ctx.shared["eval"].subset or {})
    confusions.keep(ctx.out, role, tallies)
    return scores


def _sheet(kinds: tuple[str, ...], ctx: Context, samples: tuple[Sample, ...]) -> None:
    """A contact sheet: image and predictions."""
    from stages.data import sheets
    from stages.data.images import overlay, read_image, read_mask

    rows = []
    for sample in sheets.shown(samples):
        image = read_image(sample.image)
        rows.append([image, *(overlay(image, read_mask(prediction_path(ctx.out, kind, sample.id))) for kind in kinds)])
    captions = {"plain": "network", "crf": "network + CRF"}
    sheets.write_sheet(ctx.out / "predictions.png", ["image", *(captions[kind] for kind in kinds)], rows)
