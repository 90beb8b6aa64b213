"""seed_infer — BAS network → localization maps, seeds and image-specific thresholds (BAS, IJCV 2023, 5.1 and 5.5)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core.config import Field, Section
from stages.core.errors import StageError
from stages.core.inputs import IMPORTS
from stages.core.stage import Context, Outputs
from stages.data import sources

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.data.scoring import Scores
    from stages.data.seedfile import Seed
    from stages.nets.bas import BasNet
    from stages.nets.localize import Networks

NEEDS = ("seed_train",)
SHARED = ()
READS = ("train", "score")
MEMORY = "Leave the largest of seed_infer.scales out, or lower seed_infer.thresholds"


class Config(Section):
    """How maps are made and thresholds are found."""

    sources: tuple[str, ...] = Field(
        ("bas", "cam", "sum"),
        min_length=1,
        description="Sources that are scored and may be refined: bas, cam, replace, average, irn, imports, sums as bas+irn.",
    )
    images: Literal["train", "score"] = Field(
        "train", description="Images that seeds are made for: train (all, as IRN needs) or score (the scored list alone)."
    )
    scales: tuple[float, ...] = Field(
        (1.0, 0.5, 1.5, 2.0), min_length=1, gt=0, description="Image scales; each is run with its mirror image and summed."
    )
    closer_below: float = Field(
        0.0,
        description="Objects whose map covers less of the image are cropped, enlarged and looked at again; 0 = none.",
        ge=0,
        le=1,
    )
    thresholds: int = Field(20, description="K, candidates of the image-specific threshold.", ge=2)
    judge_scale: float = Field(
        1.0, description="Image scale at which the network judges thresholds; that of training fits.", gt=0
    )
    temperature: float = Field(
        0.0, description="0: the threshold of the lowest score; above, thresholds averaged by exp(-score / temperature).", ge=0
    )
    search: Literal["score", "train", "none"] = Field(
        "score", description="Images whose thresholds are searched: score (the scored list), train (all) or none."
    )
    fixed: float = Field(0.30, description="The fixed threshold, for every source; also where nothing can be judged.", gt=0, lt=1)


def more_needs(config: Config) -> tuple[str, ...]:
    """What the configured sources need beside the seed network: the CAM network, imported maps."""
    second = ("cam_train",) if "irn" in sources.maps_of(config.sources) else ()
    return (*second, *(f"{IMPORTS}/{name}" for name in sources.imported(config.sources)))


def run(config: Config, ctx: Context) -> Outputs:
    """Write one seed file an image, then score them where true masks are there."""
    from stages.core import sharding

    nets = _load(config, ctx)
    samples = ctx.dataset.split(config.images)
    searched = {s.id for s in ctx.dataset.split(config.search)} if config.search != "none" else set()

    def infer(sample: Sample) -> None:
        _infer(nets, sample, sample.id in searched, config, ctx)

    sharding.each(samples, lambda s: sources.seed_path(ctx.out, s.id), infer, "maps", ctx)
    scores = score(config, ctx)
    _sheet(config, ctx, samples)
    files = [sources.seed_path(Path(), s.id) for s in samples]
    return Outputs([*files, Path("seeds.png")], scores.metrics, scores.classes, {"images": len(samples)})


def _load(config: Config, ctx: Context) -> Networks:
    """Read the networks, in evaluation mode. Raises StageError where a source needs a map that they do not make."""
    from stages.nets import bas, cam, storage
    from stages.nets.localize import Networks

    net = bas.load(ctx.input("seed_train") / storage.FILE)[0].eval()
    if "agnostic" in sources.maps_of(config.sources) and net.agnostic is None:
        raise StageError(
            f"Cannot make the sources {', '.join(config.sources)}",
            "replace and average take the class-agnostic foreground map, and the seed network makes none",
            "Train it with --set seed_train.agnostic=detached",
        )
    second = cam.load(ctx.input("cam_train") / storage.FILE).eval() if "cam_train" in more_needs(config) else None
    placed = None if second is None else ctx.runtime.place(second, channels_last=True)
    return Networks(ctx.runtime.place(net, channels_last=True), placed, ctx.runtime)


def _infer(nets: Networks, sample: Sample, search: bool, config: Config, ctx: Context) -> None:
    """Maps of one image at every scale, its thresholds if asked for, and its seed file."""
    import numpy as np
    import torch

    from stages.data import seedfile
    from stages.data.images import read_image

    image = read_image(sample.image)
    with torch.inference_mode(), ctx.runtime.fabric.autocast():
        maps = {name: [one.half().cpu().numpy() for one in kept] for name, kept in _maps(nets, image, sample, config).items()}
        imported = _imported(sample, config, ctx)
        seed = seedfile.Seed(np.array(sample.labels), image.shape[:2], maps, imported=imported, strides=nets.strides)
        thresholds = _thresholds(nets.bas, image, seed, config, ctx) if search else {}
    seedfile.write(sources.seed_path(ctx.out, sample.id), replace(seed, thresholds=thresholds))


def _imported(sample: Sample, config: Config, ctx: Context) -> dict[str, np.ndarray]:
    """The imported maps of one image that the sources name. Raises StageError where they are of other images or labels."""
    from stages.data import seedfile

    maps = {}
    for name in sources.imported(config.sources):
        path = sources.seed_path(ctx.input(f"{IMPORTS}/{name}"), sample.id)
        again = f"Run `bas seed import DIR --name {name}` again"
        seed = seedfile.read(path, f"{again} with --force") if path.is_file() else None
        if seed is None or tuple(seed.classes) != sample.labels:
            raise StageError(
                f"The imported maps '{name}' are not of these images and labels",
                f"those of '{sample.id}' are {'of other classes' if seed else 'not there'}",
                again,
            )
        maps[name] = seed.imported[name]
    return maps


def _maps(nets: Networks, image: Array, sample: Sample, config: Config) -> dict[str, list[Tensor]]:
    """Maps of one image by name, one a scale, and what a closer look at small objects adds."""
    from stages.formulas import seeds
    from stages.nets.localize import CloserLook

    sizes = [seeds.scaled_size(image.shape[0], image.shape[1], scale) for scale in config.scales]
    scales = [nets.maps(image, size, sample.labels) for size in sizes]
    maps = {name: [at_scale[name] for at_scale in scales] for name in scales[0]}
    if config.closer_below > 0:
        closer = CloserLook(config.closer_below, config.fixed, config.judge_scale)
        for name, added in closer(nets, image, maps, sample.labels).items():
            maps[name].append(added)
    return maps


def _thresholds(net: BasNet, image: Array, seed: Seed, config: Config, ctx: Context) -> dict[str, np.ndarray]:
    """Image-specific thresholds of every source, one a present class; judged on the features of `judge_scale`."""
    import numpy as np
    import torch

    from stages.data import seedfile
    from stages.formulas import thresholds
    from stages.nets import judge as judges

    judge = judges.of_image(net, image, config.judge_scale, ctx.runtime)
    made = seedfile.full_maps_of(seed, config.sources, ctx.runtime.device)
    maps = torch.cat([made[source] for source in config.sources])
    classes = torch.from_numpy(seed.classes).to(ctx.runtime.device).repeat(len(config.sources))
    at_once = ctx.runtime.masks_at_once
    found = thresholds.search(maps, classes, config.thresholds, judge.size, judge.logits, judge, at_once, config.temperature)
    values = np.array([config.fixed if value is None else value for value in found], dtype=np.float32)
    return dict(zip(config.sources, values.reshape(len(config.sources), -1), strict=True))


def score(config: Config, ctx: Context) -> Scores:
    """mIoU of every source with every kind of threshold, on the scored list; nothing where true masks are missing."""
    from stages.data import scoring, seedfile
    from stages.formulas import seeds

    scores = scoring.Scores()
    pairs = scoring.with_truth(ctx.dataset, "score", ctx.log)
    if pairs is None:
        return scores
    subsets = ctx.shared["eval"].subset or {}
    counts = {source: scoring.MapScores(ctx.dataset, subsets, config.fixed) for source in config.sources}
    with ctx.track("scoring seeds", len(pairs)) as meter:
        for sample, truth in pairs:
            seed = seedfile.read(sources.seed_path(ctx.out, sample.id))
            for source, maps in seedfile.full_maps_of(seed, config.sources).items():
                limits = seed.thresholds.get(source)
                labelled = None if limits is None else seeds.label(maps, limits.tolist(), seed.classes.tolist()).numpy()
                counts[source].add(sample.id, truth, maps.numpy(), seed.classes.tolist(), labelled)
            meter.advance()
    for source, count in counts.items():
        count.enter(scores, f"train/{source}")
    scoring.keep(ctx.out, "train", counts)
    return scores


def _sheet(config: Config, ctx: Context, samples: tuple[Sample, ...]) -> None:
    """A contact sheet, a row for every class of an image: its map of every source, then the last source's labels of all classes
    at the fixed threshold."""
    from stages.data import seedfile, sheets
    from stages.data.images import overlay, read_image
    from stages.formulas import seeds

    rows, names = [], []
    for sample in sheets.shown(samples):
        image, seed = read_image(sample.image), seedfile.read(sources.seed_path(ctx.out, sample.id))
        maps = seedfile.full_maps_of(seed, config.sources)
        labelled = overlay(image, seeds.label(maps[config.sources[-1]], config.fixed, seed.classes.tolist()).numpy())
        for row, label in enumerate(seed.classes.tolist()):
            rows.append([image, *(sheets.heat(image, maps[source][row].numpy()) for source in config.sources), labelled])
            names.append(ctx.dataset.classes[label])
    titles = ["image", *config.sources, f"{config.sources[-1]} at {config.fixed:g}"]
    sheets.write_sheet(ctx.out / "seeds.png", titles, rows, names)
