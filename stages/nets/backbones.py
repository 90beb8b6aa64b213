"""Trunks: torchvision's and timm's networks cut into five stages, under their makers' own weight names.

One table (`TRUNKS`) states torchvision's trunks: which modules form each stage and where the extractor ends; timm's get
their row from what timm states of them. BAS splits a trunk into F1 = stages[:split] (extractor) and F2 = stages[split:]
(BAS, IJCV 2023, Fig. 2); IRN taps every stage; DeepLabV2 takes the last one at output stride 8.
Shapes: B images, N channels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from stages.core.config import TIMM
from stages.core.errors import StageError
from stages.data.transforms import MEAN, STD
from stages.nets.strides import limit_strides

CAFFE = "_caffe"  # ends the names of trunks with the arithmetic of Caffe's ResNet
CAFFE_MEAN = (104.008, 116.669, 122.675)  # BGR, that DeepLab's checkpoints take off pixels from 0 to 255


@dataclass(frozen=True)
class Trunk:
    """One row of the table: how to make it, which children form each stage, where F1 ends."""

    make: Callable[[], nn.Module]
    cuts: tuple[tuple[str, ...], ...]
    split: int
    pooled: str | None = None  # a last layer made for global pooling; dense prediction goes without it
    entry: Callable[[int], nn.Module] | None = None  # what images pass first, made for the stride of the last map
    rounds_up: str | None = None  # a pool that rounds sizes up in dense prediction; BAS and IRN take whole fractions


class TinyResNet(nn.Module):
    """A ResNet of 16 to 128 channels for small generated images: features at stride 8, no pooling in the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        for number, (width_in, width, stride) in enumerate(((16, 16, 2), (16, 32, 2), (32, 64, 2), (64, 128, 1)), 1):
            shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            block = BasicBlock(width_in, width, stride, shortcut)
            self.add_module(f"layer{number}", nn.Sequential(block))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CaffeInput(nn.Module):
    """What Caffe's networks read: BGR from 0 to 255 without its mean, (B,3,H,W), from images normalised as ImageNet's RGB.

    It is done here and not folded into the first convolution: that one pads with zeros, which are the mean colour, and
    folded weights would pad with another. So it is exact up to rounding, also after images were resized.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        std, mean = (255 * torch.tensor(values) for values in (STD, MEAN))
        self.register_buffer("scale", std.flip(0).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", mean.flip(0).view(3, 1, 1) - torch.tensor(CAFFE_MEAN).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1) * self.scale + self.shift


def _caffe_resnet101() -> nn.Module:
    """ResNet-101 as its authors published it: a block strides in its first convolution, torchvision's in the second."""
    network = torchvision.models.resnet101()
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network


_RESNET = (("conv1", "bn1", "relu", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
_MOBILE = tuple(tuple(f"features.{i}" for i in range(start, stop)) for start, stop in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 19)))
TRUNKS: dict[str, Trunk] = {
    "resnet18": Trunk(torchvision.models.resnet18, _RESNET, 4),
    "resnet50": Trunk(torchvision.models.resnet50, _RESNET, 4),
    "resnet101": Trunk(torchvision.models.resnet101, _RESNET, 4),
    f"resnet101{CAFFE}": Trunk(_caffe_resnet101, _RESNET, 4, entry=lambda stride: CaffeInput(), rounds_up="maxpool"),
    "mobilenet_v2": Trunk(torchvision.models.mobilenet_v2, _MOBILE, 4, "features.18"),
    "tiny": Trunk(TinyResNet, (("conv1", "bn1", "relu"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)), 4),
}


def _row(name: str) -> Trunk:
    """The row of a trunk; timm's is made of a new network. Raises StageError on an unknown name or an unfit network."""
    if name.startswith(TIMM):
        from stages.nets import timm_trunks

        found = timm_trunks.find(name)
        return Trunk(lambda: found.network, found.cuts, found.split, entry=found.entry)
    if name not in TRUNKS:
        known = f"{', '.join(TRUNKS)} or {TIMM}NAME"
        raise StageError(f"Unknown backbone '{name}'", "no such row in the table of trunks", f"Use one of: {known}")
    return TRUNKS[name]


class Backbone(nn.Module):
    """A trunk in five stages. State-dict keys are torchvision's or timm's own, so their weights load as they are.

    channels, strides: of each stage's last map; split: F1 = stages[:split], F2 = stages[split:]. With DILATE it serves
    dense prediction and ends before a layer made for pooling: MobileNetV2 at its 320 linear channels, as DeepLab takes it.
    """

    def __init__(self, name: str, output_stride: int, dilate: bool) -> None:
        super().__init__()
        trunk = _row(name)
        self.name, self.split = name, trunk.split
        self._cuts = tuple(tuple(path for path in cut if not (dilate and path == trunk.pooled)) for cut in trunk.cuts)
        source = trunk.make()
        for child in dict.fromkeys(path.split(".")[0] for cut in trunk.cuts for path in cut):
            self.add_module(child, source.get_submodule(child))
        if dilate and trunk.pooled is not None:
            self.set_submodule(trunk.pooled, nn.Identity())
        self.eval()  # so that no statistic changes while the strides are looked at
        self.channels, self.strides = limit_strides(name, self._stages(), output_stride, dilate)
        self.train()
        if dilate and trunk.rounds_up is not None:
            pool: Any = self.get_submodule(trunk.rounds_up)
            pool.ceil_mode = True
        if trunk.entry is not None:
            self.entry = trunk.entry(self.strides[-1])
            self._cuts = (("entry", *self._cuts[0]), *self._cuts[1:])

    def _stages(self) -> list[list[nn.Module]]:
        return [[self.get_submodule(path) for path in cut] for cut in self._cuts]

    def stage_modules(self, start: int, stop: int | None = None) -> nn.ModuleList:
        """The modules of stages[start:stop], for their parameters and statistics."""
        return nn.ModuleList(module for stage in self._stages()[start:stop] for module in stage)

    @property
    def ends(self) -> tuple[str, ...]:
        """Name of each stage's last module."""
        return tuple(cut[-1] for cut in self._cuts)

    def extract(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages[start:stop] on x (B,N,h,w) and return the last map."""
        for stage in self._cuts[start:stop]:
            for path in stage:
                x = self.get_submodule(path)(x)
        return x

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (B,3,H,W) → one map a stage, shallow to deep."""
        maps = []
        for index in range(len(self._cuts)):
            x = self.extract(x, index, index + 1)
            maps.append(x)
        return maps


def build(name: str, output_stride: int = 16, dilate: bool = False) -> Backbone:
    """Make the trunk NAME with random weights and no map beyond OUTPUT_STRIDE.

    dilate: make up for the removed strides by dilation (DeepLab: 1, 1, 2, 4 at output stride 8); without it strides are
    only taken away, as BAS and IRN do. Raises StageError on an unknown name or a network of timm's that does not fit.
    """
    return Backbone(name, output_stride, dilate)


def table(names: Sequence[str]) -> str:
    """The split of each trunk in Markdown: strides and channels of its stages as BAS uses them, and where F1 ends."""
    rows = ["| trunk | strides | channels | F1 ends at |", "|---|---|---|---|"]
    for name in names:
        trunk = build(name)
        strides, channels = (" ".join(map(str, numbers)) for numbers in (trunk.strides, trunk.channels))
        rows.append(f"| `{name}` | {strides} | {channels} | {trunk.ends[trunk.split - 1]} |")
    return "\n".join(rows)
