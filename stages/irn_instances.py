"""irn_instances — seeds + IRN → instance masks (IRN, CVPR 2019, section 5). Not part of the pipeline: `bas refine instances`.

Per image: displacements → centres → groups of pixels that end at one centre; class maps cut to the groups, walked together,
and each pixel to the strongest. `instances.json` is COCO's document, its annotations with scores: pycocotools reads it.

Centres part animals of one class that touch: on generated herds AP50 rose from 32 (connected pieces of each class) to 44. Where
an image has one of each class they cost 2. `reach` and IRN's radius are lengths on the stride-4 grid: small images want less.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core.config import Field
from stages.core.refinement import Walk
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.detections import Record
    from stages.data.images import Array
    from stages.data.scoring import Scores
    from stages.formulas.instances import Instance
    from stages.nets.irn import Irn

NEEDS = ("seed_infer", "irn_train")
SHARED = ("refine.seed", "refine.power")
READS = ("train",)
MEMORY = "Set runtime.device=cpu, or make the largest photographs smaller"


class Config(Walk):
    """What a centre is, how class maps spread, and which masks are kept; the defaults are those of IRN's public code."""

    reach: float = Field(
        2.5,
        description="Pixels displaced by less than this, in steps of the stride-4 grid, are centres; 0: none are.",
        ge=0,
    )
    steps: int = Field(300, description="Steps for which a pixel follows the displacements, at most.", ge=0)
    fixed: float = Field(0.25, description="Background threshold, on walked maps divided by their maximum.", gt=0, lt=1)
    score: Literal["max", "mean"] = Field("max", description="An instance's score: of its walked values the max or the mean.")
    least_area: float = Field(0.01, description="Share of the image that an instance has at least.", ge=0, lt=1)


def run(config: Config, ctx: Context) -> Outputs:
    """Write one small file an image, then COCO's document of all; score it where true instances are there."""
    import json

    from stages.core import sharding
    from stages.core.files import write_text
    from stages.data import detections
    from stages.nets import irn, storage

    net = ctx.runtime.place(irn.load(ctx.input("irn_train") / storage.FILE).eval(), config.channels_last)
    samples = ctx.dataset.split("train")
    sharding.each(samples, lambda s: record_path(ctx.out, s.id), lambda s: _write(net, s, config, ctx), "instances", ctx)
    document = detections.document(_records(samples, ctx), ctx.dataset.classes)
    write_text(ctx.out / "instances.json", json.dumps(document, ensure_ascii=False) + "\n")
    scores = score(config, ctx)
    _sheet(net, config, ctx, samples)
    files = [record_path(Path(), sample.id) for sample in samples]
    notes = {"images": len(samples), "instances": len(document["annotations"]), "seed": ctx.shared["refine"].seed}
    return Outputs([*files, Path("instances.json"), Path("instances.png")], scores.metrics, scores.classes, notes)


def record_path(folder: Path, image_id: str) -> Path:
    """Where the record of an image lies (`stages.data.detections`)."""
    return folder / "images" / f"{image_id}.json"


def _records(samples: tuple[Sample, ...], ctx: Context) -> list[Record]:
    import json

    return [json.loads(record_path(ctx.out, sample.id).read_text(encoding="utf-8")) for sample in samples]


def _write(net: Irn, sample: Sample, config: Config, ctx: Context) -> None:
    """Find the instances of one image and write its record."""
    import json

    from stages.core.files import write_text
    from stages.data import detections
    from stages.data.images import read_image

    image = read_image(sample.image)
    height, width = image.shape[:2]
    found = [
        detections.annotation(one.mask, one.label + 1, score=round(one.score, 4))
        for one in _instances(net, image, sample, config, ctx)[0]
    ]
    record = {"file_name": sample.image.name, "width": width, "height": height, "annotations": found}
    write_text(record_path(ctx.out, sample.id), json.dumps(record) + "\n")


def _instances(net: Irn, image: Array, sample: Sample, config: Config, ctx: Context) -> tuple[list[Instance], Tensor]:
    """The instances of one image, and the field (2,h,w) that told them apart."""
    import torch

    from stages.data import seedfile, sources
    from stages.formulas import instances, seeds, walk
    from stages.nets import irn_inference

    seed = seedfile.read(sources.seed_path(ctx.input("seed_infer"), sample.id))
    refine, size, method = ctx.shared["refine"], image.shape[:2], config.method
    with torch.inference_mode():
        maps = seeds.power(seedfile.strided_maps(seed, refine.seed, ctx.runtime.device), refine.power)
        edge, field = irn_inference.boundaries_and_field(net, image, ctx.runtime, config.pad, config.channels_last)
        channels, rows = instances.split(maps, instances.groups(field, config.reach, config.steps))
        walked = walk.random_walk(channels, edge, config.radius, config.beta, config.exp_times, method)
        result = instances.contest(walked, size, config.fixed)
    labels = [int(seed.classes[row]) for row in rows]
    return instances.instances(result, labels, config.least_area * size[0] * size[1], config.score), field


def score(config: Config, ctx: Context) -> Scores:
    """Average precision of the masks on the scored list, in percent; nothing without true instances."""
    from stages.data import detections, true_instances
    from stages.data.scoring import Scores

    truth = true_instances.find(ctx.dataset, "score", ctx.log)
    scores, true = Scores(), []
    if truth is None:
        return scores
    with ctx.track("scoring instances", len(truth)) as meter:
        for record in truth:
            true.append(record)
            meter.advance()
    tables = detections.average_precision(true, _records(truth.samples, ctx), ctx.dataset.classes)
    for name, table in tables.items():
        scores.add_mean(f"train/instances/{name}", table)
    return scores


def _sheet(net: Irn, config: Config, ctx: Context, samples: tuple[Sample, ...]) -> None:
    """A contact sheet: image, displacements, the groups of pixels that end at one centre, the instances."""
    from stages.data import sheets
    from stages.data.images import read_image
    from stages.formulas import instances

    rows = []
    for sample in sheets.shown(samples):
        image = read_image(sample.image)
        found, field = _instances(net, image, sample, config, ctx)
        grouped = sheets.enlarged(instances.groups(field, config.reach, config.steps), image)
        pictures = [sheets.directions(field.cpu().numpy(), image), sheets.numbered(image, grouped)]
        rows.append([image, *pictures, sheets.outlined(image, [one.mask for one in found])])
    sheets.write_sheet(ctx.out / "instances.png", ["image", "displacements", "groups", "instances"], rows)
