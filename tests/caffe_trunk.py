"""The ResNet of the public DeepLab checkpoints, written out again under their names, to compare with."""

from __future__ import annotations

import torch.nn.functional as nnf
from torch import Tensor, nn


class _Unit(nn.Module):
    """Convolution, batch-norm and, if wanted, ReLU."""

    def __init__(self, conv: nn.Conv2d, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv, nn.BatchNorm2d(conv.out_channels), relu

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        return nnf.relu(out) if self.relu else out


class _Block(nn.Module):
    """A Caffe-style bottleneck: the stride sits in the first 1x1."""

    def __init__(self, source: int, middle: int, out: int, stride: int, rate: int, first: bool) -> None:
        super().__init__()
        self.reduce = _Unit(nn.Conv2d(source, middle, 1, stride, bias=False))
        self.conv3x3 = _Unit(nn.Conv2d(middle, middle, 3, 1, rate, rate, bias=False))
        self.increase = _Unit(nn.Conv2d(middle, out, 1, bias=False), relu=False)
        self.shortcut = _Unit(nn.Conv2d(source, out, 1, stride, bias=False), relu=False) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return nnf.relu(self.increase(self.conv3x3(self.reduce(x))) + self.shortcut(x))


class CaffeTrunk(nn.Module):
    """The public trunk, shaped by its weights; strides 1,2,1,1 and dilations 1,1,2,4."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        stem = nn.Conv2d(3, len(weights["layer1.conv1.conv.weight"]), 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", _Unit(stem))
        self.layer1.add_module("pool", nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        for number, (stride, rate) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 2):
            layer, index = nn.Sequential(), 1
            while (key := f"layer{number}.block{index}.") + "reduce.conv.weight" in weights:
                middle, source = weights[key + "reduce.conv.weight"].shape[:2]
                out = len(weights[key + "increase.conv.weight"])
                layer.add_module(
                    f"block{index}",
                    _Block(source, middle, out, stride if index == 1 else 1, rate, index == 1),
                )
                index += 1
            self.add_module(f"layer{number}", layer)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        for layer in self.children():
            x = layer(x)
        return (x,)
