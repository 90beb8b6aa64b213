"""The CAM network of the IRN family: a trunk and a 1x1 class convolution, a second source of seeds (BAS, IJCV 2023, Table 9)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from stages.core import reading
from stages.nets import backbones, storage


class CamNet(nn.Module):
    """Class activation maps of a trunk at stride 16; their mean over the grid are the logits."""

    def __init__(self, trunk: backbones.Backbone, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Conv2d(trunk.channels[-1], classes, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,H,W), normalised → class maps (B,C,h,w), before the ReLU."""
        return self.classifier(self.trunk.extract(images))


def save(net: CamNet, path: Path) -> None:
    """Write the trunk and the classifier as safetensors."""
    storage.write(path, net.state_dict(), net.trunk.name)


def load(path: Path) -> CamNet:
    """Read a network that `save` wrote. Raises StageError when the file is missing, cut or of another kind."""
    with reading.told(f"Cannot read the CAM network {path}", "Run `bas seed cam` again"):
        tensors, name = storage.read(path)
        net = CamNet(backbones.build(name), len(tensors["classifier.weight"]))
        net.load_state_dict(tensors)
    return net
