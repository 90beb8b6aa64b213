"""cam_train — images + image-level labels → CAM network of the IRN family, a second source of seeds (BAS, IJCV 2023, Table 9)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.config import Field, Section, Trunk
from stages.core.stage import Context, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from stages.nets.cam import CamNet

NEEDS = ()
SHARED = ()
READS = ("train",)
MEMORY = "Lower cam_train.batch or cam_train.crop"


class Config(Section):
    """How the CAM network is trained; the defaults are those of IRN's public code, but here the whole trunk learns.

    IRN cuts the gradient after its layer2 and keeps the first convolution as it is; the code of AdvCAM does not cut it.
    """

    backbone: Trunk = Field("resnet50", description="Trunk: resnet18, resnet50, resnet101, mobilenet_v2, tiny or timm:NAME.")
    weights: str = Field("imagenet", description="Initial trunk weights: imagenet (torchvision's or timm's), none, or a file.")
    long_side: tuple[int, int] = Field((320, 640), description="Range of the image's longer side, in pixels.", ge=32)
    crop: int = Field(512, description="Side of the random square crop; smaller images are padded.", ge=32)
    batch: int = Field(16, description="Images a step.", ge=1)
    epochs: int = Field(5, description="Passes over the training list.", ge=1)
    lr: float = Field(0.1, description="Learning rate of the trunk.", gt=0)
    head_lr_factor: float = Field(10.0, description="Factor on the learning rate of the classifier.", gt=0)
    momentum: float = Field(0.0, description="SGD momentum; the public code runs without.", ge=0, lt=1)
    weight_decay: float = Field(1e-4, description="SGD weight decay.", ge=0)
    poly_power: float = Field(0.9, description="Power of the polynomial decay of the learning rate.", gt=0)
    frozen_norm: bool = Field(True, description="Batch-norm keeps the statistics that the weights came with.")
    channels_last: bool = Field(True, description="Keep tensors in channels-last order: faster convolutions.")


def run(config: Config, ctx: Context) -> Outputs:
    """Train the network, from the last kept state if there is one; returns its file and the final loss."""
    from stages.core import curves, loading, training
    from stages.data.views import ScaledImages
    from stages.nets import backbones, cam, initial, norms, pretrained, storage

    samples, seed = ctx.dataset.split("train"), ctx.runtime.config.seed
    net = initial.drawn(lambda: cam.CamNet(backbones.build(config.backbone), len(ctx.dataset.classes)), seed)
    report = pretrained.load_weights(net.trunk, config.weights)
    ctx.log.info(report.line())
    views = ScaledImages(samples, len(ctx.dataset.classes), config.long_side, config.crop, seed)
    steps = config.epochs * loading.steps_per_epoch(len(samples), config.batch)
    net = ctx.runtime.place(net.train(), config.channels_last)
    if config.frozen_norm:
        norms.hold(net)
    plan = training.Plan(steps, training.poly(steps, config.poly_power))
    optimizer = training.sgd(net, [net.classifier], config.lr, config.head_lr_factor, config.momentum, config.weight_decay)
    training.fit(net, optimizer, plan, loading.order(views, config.batch, steps, ctx), _Step(net, config, ctx), ctx)
    cam.save(net, ctx.out / storage.FILE)
    metrics = curves.final(ctx.out)
    notes = {"images": len(samples), "steps": steps, "labels": ctx.dataset.label_source, "weights": report.line()}
    return Outputs([Path(storage.FILE), curves.plot(ctx.out)], metrics, notes=notes)


class _Step:
    """One training step: class maps → their mean → the multi-label soft margin loss."""

    def __init__(self, net: CamNet, config: Config, ctx: Context) -> None:
        self._runtime, self._config = ctx.runtime, config
        self._model = ctx.runtime.fabric.setup_module(net)

    def __call__(self, batch: tuple[Tensor, Tensor], index: int) -> dict[str, Tensor]:
        from torch.nn import functional

        images, labels = batch
        class_maps = self._model(self._runtime.place(images, self._config.channels_last))
        logits = class_maps.float().mean(dim=(2, 3))
        return {"total": functional.multilabel_soft_margin_loss(logits, self._runtime.place(labels))}
