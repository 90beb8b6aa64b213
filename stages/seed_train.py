"""seed_train — images + image-level labels → BAS network (BAS, IJCV 2023, section 3 and 5; Eq. 3-6, 9, 10)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core.config import Field, Section, Trunk
from stages.core.errors import StageError
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.nets.backbones import Backbone
    from stages.nets.bas import BasNet, Maps

NEEDS = ()
SHARED = ()
READS = ("train",)
MEMORY = "Lower seed_train.batch, or seed_train.resize and seed_train.crop"


class Config(Section):
    """How the seed network is built and trained; the defaults are the paper's numbers."""

    backbone: Trunk = Field("resnet50", description="Trunk: resnet18, resnet50, resnet101, mobilenet_v2, tiny or timm:NAME.")
    weights: str = Field("imagenet", description="Initial trunk weights: imagenet (torchvision's or timm's), none, or a file.")
    resize: int = Field(512, description="Images are warped to this side, in pixels.", ge=32)
    crop: int = Field(448, description="Side of the random square crop, in pixels.", ge=32)
    batch: int = Field(16, description="Images a step.", ge=1)
    epochs: int = Field(10, description="Passes over the training list.", ge=1)
    warmup_epochs: int = Field(0, description="First epochs with L_mcls alone; trunks with random weights need some.", ge=0)
    lr: float = Field(0.005, description="Learning rate of the trunk.", gt=0)
    head_lr_factor: float = Field(10.0, description="Factor on the learning rate of generator and classifier.", gt=0)
    momentum: float = Field(0.9, description="SGD momentum; the code behind the published numbers ran without.", ge=0, lt=1)
    weight_decay: float = Field(1e-4, description="SGD weight decay.", ge=0)
    poly_power: float = Field(0.9, description="Power of the polynomial decay of the learning rate.", gt=0)
    lr_floor: float = Field(0.0, description="Factor at which the decay ends; .77 in the published runs.", ge=0, lt=1)
    norm_biases: bool = Field(True, description="Train the biases of batch-norm; the published runs left them out.")
    alpha: float = Field(0.5, description="α, weight of L_frg (Eq. 10).", ge=0)
    beta: float | None = Field(None, description="β, weight of L_ac (Eq. 10); empty = α + λ.", ge=0)
    lam: float = Field(1.0, description="λ, weight of L_bas (Eq. 10); 0, the ablation of Table 6, leaves its pass out.", ge=0)
    generator_after: int | None = Field(
        None, description="The trunk's layer that the generator reads, 1 to 4 (Table 8); empty = 3, the best there.", ge=1, le=4
    )
    masked: Literal["features", "image"] = Field(
        "features", description="What L_bas hides the foreground in: the features, or the image itself (Fig. 11)."
    )
    area_power: float = Field(1.0, description="Power of the area in L_ac; below 1 it tolerates objects of all sizes.", gt=0)
    agnostic: Literal["none", "detached", "shared"] = Field(
        "none", description="Class-agnostic foreground map: none, or with (shared) or without (detached) a gradient to the trunk."
    )
    agnostic_area: Literal["present", "once"] = Field(
        "present", description="The area of the class-agnostic map counts once a present class, or once an image."
    )
    channels_last: bool = Field(True, description="Keep tensors in channels-last order: faster convolutions.")


def run(config: Config, ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final losses."""
    from stages.core import curves, loading, training
    from stages.data.transforms import LabelledImages
    from stages.nets import bas, pretrained, storage

    check(config)
    samples, classes = ctx.dataset.split("train"), len(ctx.dataset.classes)
    backbone, net = _assemble(config, classes, ctx.runtime.config.seed)
    report = pretrained.load_weights(backbone, config.weights)
    ctx.log.info(report.line())
    images = LabelledImages(samples, classes, config.resize, config.crop, ctx.runtime.config.seed)
    steps = config.epochs * loading.steps_per_epoch(len(samples), config.batch)
    net = ctx.runtime.place(net.train(), config.channels_last)
    plan = training.Plan(steps, training.poly(steps, config.poly_power, config.lr_floor))
    order, step = loading.order(images, config.batch, steps, ctx), _Step(net, config, ctx, len(samples))
    training.fit(net, _optimizer(net, config), plan, order, step, ctx)
    bas.save(net, backbone, ctx.out / storage.FILE, _split(config))
    metrics = curves.final(ctx.out)
    notes = {
        "images": len(samples),
        "unlabelled": len(ctx.dataset.unlabelled),
        "steps": steps,
        "labels": ctx.dataset.label_source,
        "weights": report.line(),
    }
    return Outputs([Path(storage.FILE), curves.plot(ctx.out)], metrics, notes=notes)


def check(config: Config) -> None:
    """Raise StageError where settings do not go together."""
    if config.crop > config.resize:
        raise StageError(
            f"Bad value for seed_train.crop: {config.crop}",
            f"images are warped to seed_train.resize = {config.resize} pixels",
            "Set crop to resize or less",
        )
    if config.warmup_epochs >= config.epochs:
        raise StageError(
            f"Bad value for seed_train.warmup_epochs: {config.warmup_epochs}",
            f"of seed_train.epochs = {config.epochs} none would train the maps",
            "Set it lower than epochs",
        )


def _assemble(config: Config, classes: int, seed: int) -> tuple[Backbone, BasNet]:
    """A trunk and the network that shares it, with random weights of SEED."""
    from stages.nets import backbones, bas, initial

    def make() -> tuple[Backbone, BasNet]:
        trunk = backbones.build(config.backbone)
        return trunk, bas.assemble(trunk, classes, _split(config), config.agnostic != "none")

    backbone, net = initial.drawn(make, seed)
    net.agnostic_detached = config.agnostic == "detached"
    return backbone, net


def _split(config: Config) -> int | None:
    """The trunk's stages that make F1: its stem is one of its own. None: the trunk's own place."""
    return None if config.generator_after is None else config.generator_after + 1


def _optimizer(net: BasNet, config: Config) -> torch.optim.Optimizer:
    """SGD in two groups, trunk and heads."""
    from stages.core import training

    rates = config.lr, config.head_lr_factor, config.momentum, config.weight_decay
    return training.sgd(net, net.heads(), *rates, without=lambda name: not config.norm_biases and name.endswith("bias"))


class _Step:
    """One training step: maps → the chosen class's mask → F2 on the background → the terms of Eq. 10."""

    def __init__(self, net: BasNet, config: Config, ctx: Context, images: int) -> None:
        from stages.core.loading import steps_per_epoch
        from stages.formulas import bas

        beta = config.alpha + config.lam if config.beta is None else config.beta
        self._weights = bas.Weights(config.alpha, beta, config.lam)
        self._warmup = config.warmup_epochs * steps_per_epoch(images, config.batch)
        self._net, self._runtime, self._config = net, ctx.runtime, config
        self._model = ctx.runtime.fabric.setup_module(net)

    def __call__(self, batch: tuple[Tensor, Tensor], index: int) -> dict[str, Tensor]:
        from stages.core.loading import seeded
        from stages.formulas import bas

        images, labels = batch
        chosen = bas.draw_classes(labels, seeded(self._runtime.config.seed, index, 1))
        images = self._runtime.place(images, self._config.channels_last)
        labels, chosen = self._runtime.place(labels), self._runtime.place(chosen)
        maps = self._model(images)
        class_maps, power = maps.class_maps.float(), self._config.area_power
        if index < self._warmup:
            mcls = bas.multi_label_cross_entropy(class_maps.mean(dim=(2, 3)), labels).mean()
            return {"mcls": mcls, "total": mcls}
        mask = maps.foreground.float()[range(len(images)), chosen][:, None]
        terms = bas.losses(class_maps, mask, self._background(images, maps, mask), labels, chosen, power)
        if maps.agnostic is not None:
            mask, per_class = maps.agnostic.float(), self._config.agnostic_area == "present"
            terms |= bas.agnostic_losses(class_maps, mask, self._background(images, maps, mask), labels, per_class, power)
        return {**terms, "total": bas.total(terms, self._weights)}

    def _background(self, images: Tensor, maps: Maps, mask: Tensor) -> Tensor | None:
        """Logits of what MASK leaves of the features, or of the images; None, without a pass, where λ leaves L_bas out."""
        if self._weights.lam == 0:
            return None
        with self._runtime.fabric.autocast():
            if self._config.masked == "image":
                return self._net.background_logits_of_images(images, mask).float()
            return self._net.background_logits(maps.features, mask).float()
