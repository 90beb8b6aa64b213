"""segment_train — pseudo masks → DeepLabV2, trained by mmsegmentation's Runner (BAS, IJCV 2023, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core.config import Field, Section, Trunk
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.data.dataset import Sample
    from stages.data.images import Array
    from stages.nets.backbones import WeightReport
    from stages.nets.mmseg import runner

NEEDS = ("mask_choice",)
SHARED = ()
READS = ("train",)


class Config(Section):
    """How the segmentation network is built and trained; the defaults are the public recipe from ImageNet weights."""

    backbone: Trunk = Field("resnet101", description="Trunk: resnet18, resnet50, resnet101, mobilenet_v2, tiny or timm:NAME.")
    weights: str = Field(
        "imagenet", description="Initial trunk weights: imagenet, coco, none, seed (the seed network's trunk) or a file."
    )
    output_stride: int = Field(8, description="Stride of the trunk's last map; strides beyond it become dilation.", ge=1)
    steps: int = Field(30_000, description="Updates of the weights.", ge=1)
    batch: int = Field(10, description="Images an update.", ge=1)
    accumulate: int = Field(1, description="Passes that a batch is split into, where it does not fit into memory.", ge=1)
    crop: int = Field(321, description="Side of the random square crop, in pixels.", ge=32)
    crop_scales: tuple[float, ...] = Field(
        (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), description="Image scales, of which each crop draws one.", min_length=1, gt=0
    )
    scales: tuple[float, ...] = Field(
        (1.0, 0.5, 0.75),
        description="Scales of a crop that the network sees; each has a loss, their maximum another.",
        min_length=1,
        gt=0,
    )
    loss: Literal["plain", "balanced"] = Field(
        "balanced", description="Cross-entropy: plain, or balanced (background and foreground averaged apart, then added)."
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd, or adamw, which needs fewer steps (momentum is then its first β)."
    )
    lr: float = Field(2.5e-4, description="Learning rate of the trunk.", gt=0)
    head_weight_factor: float = Field(10.0, description="Factor on the learning rate of the head's weights.", gt=0)
    head_bias_factor: float = Field(20.0, description="Factor on the learning rate of the head's biases; they never decay.", gt=0)
    momentum: float = Field(0.9, description="Momentum.", ge=0, lt=1)
    weight_decay: float = Field(5e-4, description="Weight decay.", ge=0)
    poly_power: float = Field(0.9, description="Power of the polynomial decay of the learning rate.", gt=0)
    lr_every: int = Field(10, description="Steps between changes of the learning rate.", ge=1)
    freeze_bn: bool = Field(True, description="Keep batch-norm as the initial weights have it; train it where they are random.")
    channels_last: bool = Field(True, description="Keep tensors in channels-last order: faster convolutions.")
    supervision: Literal["pseudo", "full"] = Field(
        "pseudo", description="Masks to learn from: pseudo, or the true ones (full) for an upper bound, which every report names."
    )


def run(config: Config, ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final losses."""
    from stages.core import curves
    from stages.nets.backbones import Backbone
    from stages.nets.initial import fill_trunk
    from stages.nets.mmseg import runner, state

    samples = ctx.dataset.split("train")
    masks = [_mask(sample, config, ctx) for sample in samples]
    reports: list[WeightReport] = []
    start = state.kept_step(ctx.out)
    with ctx.track("training", config.steps, start) as meter, curves.Curves(ctx.out, start) as kept:

        def on_step(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
            values = kept.add(step, factor, dict(losses))
            meter.advance(step - kept.shown, **values)
            kept.shown = step

        def initialise(trunk: nn.Module) -> None:
            assert isinstance(trunk, Backbone)
            reports.append(fill_trunk(trunk, config.weights, ctx.input("seed_train")))
            ctx.log.info(reports[0].line())

        def read(item: int) -> tuple[Array, Array]:
            return _pair(samples[item], masks[item])

        settings = _settings(config, ctx)
        runner.train(settings, len(samples), read, ctx.out, ctx.runtime.placement, on_step, initialise)
    last = curves.read(ctx.out / "curves.jsonl")[-1]
    metrics = {f"train/{name.replace('loss_', 'loss/')}": v for name, v in last.items() if name.startswith("loss")}
    notes = {"images": len(samples), "steps": config.steps, "supervision": _supervision(config, ctx), "weights": config.weights}
    if reports:
        notes["loaded"] = reports[0].line()
    return Outputs([Path(runner.CHECKPOINT), curves.plot(ctx.out)], metrics, notes=notes)


def _supervision(config: Config, ctx: Context) -> str:
    """What the masks that are learnt from were made of, in words: corrections by hand are more than image-level labels."""
    from stages.core.stage import read_manifest

    notes = (read_manifest(ctx.input("mask_choice")) or {}).get("notes", {}) if config.supervision == "pseudo" else {}
    return (
        f"pseudo, {notes['corrected']} of {notes['images']} corrected by hand" if notes.get("corrected") else config.supervision
    )


def _mask(sample: Sample, config: Config, ctx: Context) -> Path:
    """The mask that SAMPLE is learnt from: its pseudo mask, or the true one where that was asked for."""
    from stages.core.errors import StageError

    if config.supervision == "pseudo":
        return ctx.input("mask_choice") / "masks" / f"{sample.id}.png"
    path = ctx.dataset.mask(sample)
    if path is None:
        raise StageError(
            f"No true mask of {sample.id}", "full supervision needs one an image", "Set segment_train.supervision=pseudo"
        )
    return path


def _pair(sample: Sample, mask: Path) -> tuple[Array, Array]:
    """Image and mask of one sample. Raises StageError when they are unreadable or of different sizes."""
    from stages.core.errors import StageError
    from stages.data.images import read_image, read_mask

    image, labels = read_image(sample.image), read_mask(mask)
    if image.shape[:2] != labels.shape:
        sizes = f"{labels.shape[1]}x{labels.shape[0]} beside {image.shape[1]}x{image.shape[0]}"
        raise StageError(
            f"Mask {mask} is not of its image's size",
            sizes,
            "Make the masks again: bas refine irn --force, then bas refine choose",
        )
    return image, labels


def _settings(config: Config, ctx: Context) -> runner.Settings:
    """The configuration as the Runner's settings."""
    from stages.nets.mmseg import network, optim, runner

    workers = ctx.runtime.workers
    return runner.Settings(
        network=network.Network(
            backbone=config.backbone,
            output_stride=config.output_stride,
            classes=("background", *ctx.dataset.classes),
            scales=config.scales,
            loss=config.loss,
            freeze_bn=config.freeze_bn,
            channels_last=config.channels_last,
            crop=config.crop,
        ),
        steps=config.steps,
        batch=config.batch,
        accumulate=config.accumulate,
        crop_scales=config.crop_scales,
        rates=optim.Rates(
            kind=config.optimizer,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            head_weight=config.head_weight_factor,
            head_bias=config.head_bias_factor,
        ),
        power=config.poly_power,
        lr_every=config.lr_every,
        seed=ctx.runtime.config.seed,
        workers=min(workers, 6 if workers > 2 else 1),
        precision=ctx.runtime.precision,
    )
