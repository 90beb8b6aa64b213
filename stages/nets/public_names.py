"""Names of tensors in public DeepLab checkpoints, and ours for them: torchvision's for the trunk, `aspp.c0` … for the head.

| made by | trunk | head |
|---|---|---|
| deeplab-pytorch, from Caffe's files | `layer1.conv1.conv`, `layer2.block1.reduce.bn`, … | `aspp.c0` or `aspp.stages.c0` |
| pytorch-deeplab-resnet, and those that took its files | torchvision's | `layer5.conv2d_list.0` |
| mmsegmentation, and `bas segment train` | `backbone.` and torchvision's | `decode_head.aspp.c0` |

Before them stand `scale.`, `base.`, `Scale.` or `module.` of what the network was wrapped in. The first two are Caffe's
ResNet, another network than torchvision's under whatever name (see `backbones.CaffeInput`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

HEAD = "aspp."
_WRAPPERS = re.compile(r"^(?:(?:module|scale|Scale|base|backbone)\.)+")
_BLOCK = re.compile(r"^layer(\d)\.block(\d+)\.(\w+)\.(conv|bn)\.(\w+)$")
_STEM = re.compile(r"^layer1\.conv1\.(conv|bn)\.(\w+)$")
_HEAD = re.compile(r"^(?:decode_head\.aspp|layer5\.conv2d_list|aspp(?:\.stages)?)\.c?(\d+)\.(weight|bias)$")
_PLACES = {"reduce": 1, "conv3x3": 2, "increase": 3}  # of a block's convolutions
_SHORTCUTS = ("shortcut", "proj")  # the latter before 2019


@dataclass(frozen=True)
class Recognised:
    """Tensors under our names, who gave them others (nobody: ""), and whether they are of Caffe's ResNet."""

    maker: str
    caffe: bool
    tensors: dict[str, Tensor]


def recognise(state: Mapping[str, Tensor]) -> Recognised:
    """STATE under our names; what has no name of ours keeps its own, without wrappers."""
    bare = {_WRAPPERS.sub("", name): name for name in state}
    maker = ""
    if any(_BLOCK.match(name) for name in bare):
        maker = "deeplab-pytorch"
    elif any(name.startswith("layer5.conv2d_list.") for name in bare):
        maker = "pytorch-deeplab-resnet"
    elif any(name.startswith("decode_head.") for name in bare):
        maker = "mmsegmentation"
    caffe = maker in ("deeplab-pytorch", "pytorch-deeplab-resnet")
    return Recognised(maker, caffe, {ours(name): state[full] for name, full in bare.items()})


def ours(name: str) -> str:
    """Our name of a tensor that is called NAME without wrappers; NAME itself where it is ours or unknown."""
    if stem := _STEM.match(name):
        return f"{stem[1]}1.{stem[2]}"
    if head := _HEAD.match(name):
        return f"{HEAD}c{head[1]}.{head[2]}"
    block = _BLOCK.match(name)
    if block is None:
        return name
    layer, number, part, kind, rest = block.groups()
    within = f"layer{int(layer) - 1}.{int(number) - 1}"
    if part in _SHORTCUTS:
        return f"{within}.downsample.{['conv', 'bn'].index(kind)}.{rest}"
    return f"{within}.{kind}{_PLACES[part]}.{rest}" if part in _PLACES else name
