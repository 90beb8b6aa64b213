"""irn_train — affinity labels → IRN: boundaries and displacements (IRN, CVPR 2019, section 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.config import Field, Section, Trunk
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.nets.irn import Irn

NEEDS = ("seed_train", "irn_labels")
SHARED = ()
READS = ("train",)
MEMORY = "Lower irn_train.batch or irn_train.crop"


class Config(Section):
    """How IRN is built and trained; the defaults are those of its public code."""

    backbone: Trunk = Field("resnet50", description="Trunk: resnet18, resnet50, resnet101, mobilenet_v2, tiny or timm:NAME.")
    weights: str = Field(
        "imagenet",
        description="Weights of the frozen trunk: imagenet (torchvision's or timm's), seed (the seed network's) or a file.",
    )
    crop: int = Field(512, description="Side of the random square crop, in pixels; at least eight times the radius.", ge=32)
    scales: tuple[float, float] = Field((0.5, 1.5), description="Range of the random rescaling.", gt=0)
    batch: int = Field(32, description="Images a step.", ge=1)
    epochs: int = Field(3, description="Passes over the training list.", ge=1)
    radius: int = Field(10, description="Pairs of pixels nearer than this are taught, in steps of the stride-4 grid.", ge=2)
    edge_lr: float = Field(0.1, description="Learning rate of the boundary branch.", gt=0)
    displacement_lr: float = Field(1.0, description="Learning rate of the displacement branch.", gt=0)
    displacement: bool = Field(
        True,
        description="Train the displacement branch too. Semantic masks need boundaries alone, and get the same ones without.",
    )
    momentum: float = Field(0.0, description="SGD momentum; the code behind the published numbers runs without.", ge=0, lt=1)
    weight_decay: float = Field(1e-4, description="SGD weight decay.", ge=0)
    poly_power: float = Field(0.9, description="Power of the polynomial decay of the learning rate.", gt=0)
    centre_images: int = Field(
        100, description="Images on which the common part of the displacements is measured (for instance masks).", ge=0
    )
    channels_last: bool = Field(True, description="Keep tensors in channels-last order: faster convolutions.")


def run(config: Config, ctx: Context) -> Outputs:
    """Train the two branches, from the last kept state if there is one; returns the network's file and final losses."""
    from stages.core import curves, loading, sharding, training
    from stages.data.views import PixelLabelledImages
    from stages.nets import backbones, initial, irn, storage

    check(config)
    samples, seed = ctx.dataset.split("train"), ctx.runtime.config.seed
    net = initial.drawn(lambda: irn.Irn(backbones.build(config.backbone)), seed)
    report = initial.fill_trunk(net.trunk, config.weights, ctx.input("seed_train"))
    ctx.log.info(report.line())
    views = PixelLabelledImages(samples, ctx.input("irn_labels") / "labels", config.crop, config.scales, seed)
    steps = config.epochs * loading.steps_per_epoch(len(samples), config.batch)
    net = ctx.runtime.place(net.train(), config.channels_last)
    plan = training.Plan(steps, training.poly(steps, config.poly_power))
    order = loading.order(views, config.batch, steps, ctx)
    training.fit(net, _optimizer(net, config), plan, order, _Step(net, config, ctx), ctx)
    if config.displacement:
        _centre(net, sharding.spread(samples, config.centre_images), config, ctx)
    irn.save(net, ctx.out / storage.FILE)
    _sheet(net.eval(), samples, config, ctx)
    metrics = curves.final(ctx.out)
    notes = {"images": len(samples), "steps": steps, "weights": report.line()}
    return Outputs([Path(storage.FILE), curves.plot(ctx.out), Path("irn.png")], metrics, notes=notes)


def check(config: Config) -> None:
    """Raise StageError on settings that leave no pair to learn from, no scale to draw, or a frozen trunk that is random."""
    from stages.core.errors import StageError

    if config.weights == "none":
        raise StageError("irn_train.weights cannot be none", "IRN's trunk is frozen", "Set it to seed, imagenet or a file")
    if config.crop < 8 * config.radius:
        raise StageError(
            f"irn_train.crop {config.crop} is too small",
            f"pairs within radius {config.radius} need at least {8 * config.radius} pixels",
            "Raise irn_train.crop or lower irn_train.radius",
        )
    if not 0 < config.scales[0] <= config.scales[1]:
        raise StageError("Bad value for irn_train.scales", f"{list(config.scales)} is no range", "Give the lower bound first")


def _optimizer(net: Irn, config: Config) -> torch.optim.Optimizer:
    """SGD in two groups, one a branch."""
    import torch

    edge, field = net.branches()
    groups = [{"params": edge, "lr": config.edge_lr}, {"params": field, "lr": config.displacement_lr}]
    return torch.optim.SGD(groups, lr=config.edge_lr, momentum=config.momentum, weight_decay=config.weight_decay)


class _Step:
    """One training step: both outputs at stride 4 → the five terms of the affinity and displacement losses."""

    def __init__(self, net: Irn, config: Config, ctx: Context) -> None:
        self._runtime, self._config = ctx.runtime, config
        self._model = ctx.runtime.fabric.setup_module(net)
        self._model.mark_forward_method("edge_logits")

    def __call__(self, batch: tuple[Tensor, Tensor], index: int) -> dict[str, Tensor]:
        from stages.formulas import affinity

        images, labels = batch
        images = self._runtime.place(images, self._config.channels_last)
        quarter = affinity.quarter_labels(self._runtime.place(labels))
        if not self._config.displacement:
            return affinity.irn_losses(self._model.edge_logits(images).float(), None, quarter, self._config.radius)
        maps = self._model(images)
        return affinity.irn_losses(maps.edge_logits.float(), maps.displacement.float(), quarter, self._config.radius)


def _centre(net: Irn, samples: Sequence[Sample], config: Config, ctx: Context) -> None:
    """Set the network's constant displacement to the mean over the top-left crops of some images."""
    import torch

    from stages.data.images import read_image
    from stages.data.transforms import normalise

    if not samples:
        return
    net.eval()
    net.mean_shift.mean.zero_()
    total = torch.zeros_like(net.mean_shift.mean)
    with torch.inference_mode(), ctx.runtime.fabric.autocast(), ctx.track("centring", len(samples)) as meter:
        for sample in samples:
            view = normalise(read_image(sample.image)[: config.crop, : config.crop])
            total += net(ctx.runtime.place(view[None], config.channels_last)).displacement.float().mean((0, 2, 3))
            meter.advance()
    net.mean_shift.mean.copy_(total / len(samples))


def _sheet(net: Irn, samples: tuple[Sample, ...], config: Config, ctx: Context) -> None:
    """A contact sheet: image, affinity label, boundaries, and the displacements where they were taught (direction as hue)."""
    import torch

    from stages.data import sheets
    from stages.data.images import overlay, read_image, read_mask
    from stages.nets import irn_inference

    def drawn(sample: Sample) -> list[Array]:
        image, label = read_image(sample.image), read_mask(ctx.input("irn_labels") / "labels" / f"{sample.id}.png")
        edge, field = irn_inference.boundaries_and_field(net, image, ctx.runtime, 0, config.channels_last)
        pictures = [image, overlay(image, label), sheets.heat(image, sheets.enlarged(edge.cpu().numpy(), image))]
        return [*pictures, sheets.directions(field.cpu().numpy(), image)] if config.displacement else pictures

    header = ["image", "affinity label", "boundaries", *(["displacements"] if config.displacement else [])]
    with torch.inference_mode():
        sheets.write_sheet(ctx.out / "irn.png", header, [drawn(sample) for sample in sheets.shown(samples)])
