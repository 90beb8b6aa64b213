"""Settings of the segmentation network and its training, which every stage that trains one shares."""

from __future__ import annotations

from typing import Literal

from stages.core.config import Field, Section, Trunk


class Recipe(Section):
    """How the segmentation network is built and trained; the defaults are the public recipe from ImageNet weights."""

    backbone: Trunk = Field(
        "resnet101", description="Trunk: resnet18, resnet50, resnet101, resnet101_caffe, mobilenet_v2, tiny or timm:NAME."
    )
    weights: str = Field(
        "imagenet",
        description="Initial weights: imagenet, coco, none, seed (the seed network's trunk) or a file, as of a public DeepLab.",
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
        description="Scales of a crop that DeepLabV2 sees; each has a loss, their maximum another. Other networks see it at 1.",
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
    freeze_bn: bool = Field(
        True, description="Keep the trunk's batch-norm as the initial weights have it; random ones need false, which trains it."
    )
    channels_last: bool = Field(True, description="Keep tensors in channels-last order: faster convolutions.")
    void: float = Field(
        0.0,
        description="Share of each class's pixels, those that masks are least sure of, that is left out of the loss; "
        "masks corrected by hand are kept whole.",
        ge=0,
        lt=1,
        later=True,
    )
    repeat_below: float = Field(
        0.0,
        description="Images of a class that less than this share of the images carry are seen more often, "
        "√(this share / the class's) times (repeat factors of LVIS); 0: all equally often.",
        ge=0,
        le=1,
        later=True,
    )
