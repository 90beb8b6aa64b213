"""The BAS seed network (IJCV 2023, Fig. 2 and 5): extractor F1, generator, and F2, which also judges masked features.

Shapes: B images, C classes, N channels, h w feature grid (stride 16 for ResNet50: 28 x 28 at 448 x 448).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stages.core.errors import StageError
from stages.nets import backbones, storage


class Maps(NamedTuple):
    """What the network sees in a batch."""

    features: Tensor  # (B,N,h,w), F1's output
    foreground: Tensor  # (B,C,h,w) in [0,1], the generator's maps M
    class_maps: Tensor  # (B,C,h,w), F2's output; their mean over h,w are the logits


def frozen(module: nn.Module, x: Tensor) -> Tensor:
    """Run MODULE on x with its parameters as constants and its running statistics untouched.

    In training mode batch-norm still normalises by this batch's own statistics, as a deep copy of the module would,
    for a third less work: nothing is copied but the statistics, and no gradient flows to the parameters.
    """
    tensors = {name: p.detach() for name, p in module.named_parameters()}
    tensors |= {name: b.clone() for name, b in module.named_buffers()}
    return functional_call(module, tensors, (x,))


class BasNet(nn.Module):
    """F1 (`extractor`), the generator (3x3 convolution to C maps) and F2 (`evaluator`, ends in the 1x1 class convolution)."""

    def __init__(self, extractor: nn.Module, evaluator: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.extractor, self.evaluator, self.generator = extractor, evaluator, generator

    def forward(self, images: Tensor) -> Maps:
        """images (B,3,H,W), normalised → Maps at the feature grid."""
        features = self.extractor(images)
        return Maps(features, torch.sigmoid(self.generator(features)), self.evaluator(features))

    def background_logits(self, features: Tensor, mask: Tensor) -> Tensor:
        """Logits of the features times (1 - M_f) through the frozen F2: the input of Eq. 3's S_b.

        features (B,N,h,w) are constants here; only mask (B,1,h,w) carries a gradient. Returns (B,C).
        """
        return frozen(self.evaluator, features.detach() * (1 - mask)).mean(dim=(2, 3))

    def heads(self) -> list[nn.Module]:
        """The modules that start from nothing and learn at the heads' rate."""
        assert isinstance(self.evaluator, nn.Sequential)
        return [self.generator, self.evaluator[-1]]


def assemble(backbone: backbones.Backbone, classes: int) -> BasNet:
    """Split a trunk into F1 and F2 and add the two bias-free heads, Xavier-initialised (section 3; Table 8: after layer 3)."""
    generator = nn.Conv2d(backbone.channels[backbone.split - 1], classes, 3, padding=1, bias=False)
    classifier = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)
    for head in (generator, classifier):
        nn.init.xavier_uniform_(head.weight)
    extractor = nn.Sequential(*backbone.stage_modules(0, backbone.split))
    evaluator = nn.Sequential(*backbone.stage_modules(backbone.split), classifier)
    return BasNet(extractor, evaluator, generator)


def save(net: BasNet, backbone: backbones.Backbone, path: Path) -> None:
    """Write the two heads and, under torchvision's names, the trunk that NET shares with BACKBONE, as safetensors."""
    tensors = {f"trunk.{k}": v for k, v in backbone.state_dict().items()}
    tensors |= {f"generator.{k}": v for k, v in net.generator.state_dict().items()}
    tensors |= {f"classifier.{k}": v for k, v in net.heads()[1].state_dict().items()}
    storage.write(path, tensors, backbone.name)


def load(path: Path) -> tuple[BasNet, backbones.Backbone]:
    """Read a network that `save` wrote. Raises StageError when the file is missing, cut or of another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            names = list(file.keys())
            tensors = {key: file.get_tensor(key) for key in names}
        backbone = backbones.build(metadata["backbone"])
        net = assemble(backbone, len(tensors["generator.weight"]))
        backbone.load_state_dict(_part(tensors, "trunk"))
        net.generator.load_state_dict(_part(tensors, "generator"))
        net.heads()[1].load_state_dict(_part(tensors, "classifier"))
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise StageError(
            f"Cannot read the seed network {path}", str(error).splitlines()[0], "Run `bas seed train` again"
        ) from error
    return net, backbone


def trunk_state(path: Path) -> dict[str, Tensor]:
    """The trained trunk inside a seed network's file, under torchvision's names."""
    return load(path)[1].state_dict()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
