"""seed_infer — BAS network → localization maps, seeds and image-specific thresholds (BAS, IJCV 2023, 5.1 and 5.5)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core.config import Field, Section
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.data.scoring import Scores
    from stages.data.seedfile import Seed
    from stages.nets.bas import BasNet

NEEDS = ("seed_train",)
SHARED = ()
READS = ("train", "score")
SHOWN = 10  # images on the contact sheet


class Config(Section):
    """How maps are made and thresholds are found."""

    scales: tuple[float, ...] = Field(
        (1.0, 0.5, 1.5, 2.0), min_length=1, gt=0, description="Image scales; each is run with its mirror image and summed."
    )
    thresholds: int = Field(20, description="K, candidates of the image-specific threshold.", ge=2)
    search: Literal["score", "train", "none"] = Field(
        "score", description="Images whose thresholds are searched: score (the scored list), train (all) or none."
    )
    fixed: float = Field(0.30, description="The fixed threshold, for every source; also where nothing can be judged.", gt=0, lt=1)


def run(config: Config, ctx: Context) -> Outputs:
    """Write one seed file an image, then score them where true masks are there."""
    from stages.core import sharding
    from stages.nets import bas

    net = ctx.runtime.place(bas.load(ctx.input("seed_train") / "network.safetensors")[0].eval(), channels_last=True)
    samples = ctx.dataset.split("train")
    searched = {s.id for s in ctx.dataset.split(config.search)} if config.search != "none" else set()

    def infer(sample: Sample) -> None:
        _infer(net, sample, sample.id in searched, config, ctx)

    sharding.each(samples, lambda s: seed_path(ctx.out, s.id), infer, "maps", ctx)
    scores = score(config, ctx)
    _sheet(config, ctx, samples[:: max(len(samples) // SHOWN, 1)][:SHOWN])
    files = [seed_path(Path(), s.id) for s in samples]
    return Outputs([*files, Path("seeds.png")], scores.metrics, scores.classes, {"images": len(samples)})


def seed_path(folder: Path, image_id: str) -> Path:
    """Where the seed of an image lies."""
    return folder / "seeds" / f"{image_id}.npz"


def _infer(net: BasNet, sample: Sample, search: bool, config: Config, ctx: Context) -> None:
    """Maps of one image at every scale, its thresholds if asked for, and its seed file."""
    import numpy as np
    import torch

    from stages.data import seedfile
    from stages.data.images import read_image

    image = read_image(sample.image)
    ids = np.array(sample.labels)
    maps: dict[str, list[Any]] = {"bas": [], "cam": []}
    with torch.inference_mode(), ctx.runtime.fabric.autocast():
        for scale in config.scales:
            foreground, activation = _scale_maps(net, image, scale, sample.labels, ctx)
            maps["bas"].append(foreground.half().cpu().numpy())
            maps["cam"].append(activation.half().cpu().numpy())
        seed = seedfile.Seed(ids, image.shape[:2], maps)
        thresholds = _thresholds(net, image, seed, config, ctx) if search else {}
    seedfile.write(seed_path(ctx.out, sample.id), seedfile.Seed(ids, image.shape[:2], maps, thresholds))


def _scale_maps(net: BasNet, image: Array, scale: float, labels: tuple[int, ...], ctx: Context) -> tuple[Tensor, Tensor]:
    """Foreground maps and class activation maps (P,h,w) of the present classes, image and mirror summed."""
    import torch

    from stages.data.images import resize
    from stages.data.transforms import normalise
    from stages.formulas import seeds

    height, width = seeds.scaled_size(image.shape[0], image.shape[1], scale)
    view = normalise(resize(image, height, width))
    out = net(ctx.runtime.place(torch.stack([view, view.flip(-1)]), channels_last=True))
    present = list(labels)
    foreground = seeds.add_mirrored(out.foreground[:, present].float())
    activation = seeds.add_mirrored(out.class_maps[:, present].float().relu())
    return foreground, activation


def _thresholds(net: BasNet, image: Array, seed: Seed, config: Config, ctx: Context) -> dict[str, np.ndarray]:
    """Image-specific thresholds of every source, one a present class; judged on the features of scale 1."""
    import numpy as np
    import torch

    from stages.data import seedfile
    from stages.data.transforms import normalise
    from stages.formulas import thresholds
    from stages.nets import hoisted

    sources, device = seedfile.SOURCES, ctx.runtime.device
    features = net.extractor(ctx.runtime.place(normalise(image)[None], channels_last=True))
    judge = hoisted.Evaluator(net.evaluator, features)
    maps = torch.cat([seedfile.full_maps(seed, source, device) for source in sources])
    classes = torch.from_numpy(seed.classes).to(device).repeat(len(sources))
    at_once = ctx.runtime.masks_at_once
    found = thresholds.search(maps, classes, config.thresholds, judge.size, judge.logits, judge, at_once)
    values = np.array([config.fixed if value is None else value for value in found], dtype=np.float32)
    return dict(zip(sources, values.reshape(len(sources), -1), strict=True))


def score(config: Config, ctx: Context) -> Scores:
    """mIoU of every source with every kind of threshold, on the scored list; nothing where true masks are missing."""
    from stages.data import scoring, seedfile
    from stages.formulas import seeds

    scores = scoring.Scores()
    pairs = scoring.with_truth(ctx.dataset, "score", ctx.log)
    if pairs is None:
        return scores
    subsets = ctx.shared["eval"].subset or {}
    counts = {source: scoring.MapScores(ctx.dataset, subsets, config.fixed) for source in seedfile.SOURCES}
    with ctx.track("scoring seeds", len(pairs)) as meter:
        for sample, truth in pairs:
            seed = seedfile.read(seed_path(ctx.out, sample.id))
            for source, count in counts.items():
                maps = seedfile.full_maps(seed, source)
                limits = seed.thresholds.get(source)
                labelled = None if limits is None else seeds.label(maps, limits.tolist(), seed.classes.tolist()).numpy()
                count.add(sample.id, truth, maps.numpy(), seed.classes.tolist(), labelled)
            meter.advance()
    for source, count in counts.items():
        count.enter(scores, f"train/{source}")
    scoring.keep(ctx.out, "train", counts)
    return scores


def _sheet(config: Config, ctx: Context, samples: tuple[Sample, ...]) -> None:
    """A contact sheet: image, the first class's maps, and the labels that the fixed threshold gives."""
    from stages.data import seedfile, sheets
    from stages.data.images import overlay, read_image
    from stages.formulas import seeds

    rows = []
    for sample in samples:
        image, seed = read_image(sample.image), seedfile.read(seed_path(ctx.out, sample.id))
        maps = {source: seedfile.full_maps(seed, source) for source in seedfile.SOURCES}
        heats = [sheets.heat(image, maps[source][0].numpy()) for source in seedfile.SOURCES]
        labelled = seeds.label(maps["sum"], config.fixed, seed.classes.tolist()).numpy()
        rows.append([image, *heats, overlay(image, labelled)])
    sheets.write_sheet(ctx.out / "seeds.png", ["image", "BAS", "CAM", "sum", "seed (fixed)"], rows)
