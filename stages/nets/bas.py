"""The BAS seed network (IJCV 2023, Fig. 2 and 5): extractor F1, generator, and F2, which also judges masked features.

Shapes: B images, C classes, N channels, h w feature grid (stride 16 for ResNet50: 28 x 28 at 448 x 448).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stages.core import reading
from stages.nets import backbones, storage


class Maps(NamedTuple):
    """What the network sees in a batch."""

    features: Tensor  # (B,N,h,w), F1's output
    foreground: Tensor  # (B,C,h,w) in [0,1], the generator's maps M
    class_maps: Tensor  # (B,C,h',w'), F2's output; their mean over h',w' are the logits
    agnostic: Tensor | None  # (B,1,h,w) in [0,1], the class-agnostic foreground map, where the network makes one


def frozen(module: nn.Module, x: Tensor) -> Tensor:
    """Run MODULE on x with its parameters as constants and its running statistics untouched.

    In training mode batch-norm still normalises by this batch's own statistics, as a deep copy of the module would,
    for a third less work: nothing is copied but the statistics, and no gradient flows to the parameters.
    """
    tensors = {name: p.detach() for name, p in module.named_parameters()}
    tensors |= {name: b.clone() for name, b in module.named_buffers()}
    return functional_call(module, tensors, (x,))


class BasNet(nn.Module):
    """F1 (`extractor`), the generator (3x3 convolution to C maps) and F2 (`evaluator`, ends in the 1x1 class convolution).

    `agnostic`, if there is one, is a second generator of one map for all classes (section 5.5); with `agnostic_detached`
    it takes F1's features as constants, and teaches the trunk nothing.
    """

    def __init__(
        self,
        extractor: nn.Module,
        evaluator: nn.Sequential,
        generator: nn.Module,
        agnostic: nn.Module | None = None,
        strides: tuple[int, int] = (16, 16),
    ) -> None:
        super().__init__()
        self.extractor, self.evaluator, self.generator, self.agnostic = extractor, evaluator, generator, agnostic
        self.strides = strides  # pixels between two values of F1's features (and the foreground maps), and of the class maps
        self.agnostic_detached = True

    def forward(self, images: Tensor) -> Maps:
        """images (B,3,H,W), normalised → Maps at the feature grid."""
        features = self.extractor(images)
        foreground, class_maps = torch.sigmoid(self.generator(features)), self.evaluator(features)
        if self.agnostic is None:
            return Maps(features, foreground, class_maps, None)
        seen = features.detach() if self.agnostic_detached else features
        return Maps(features, foreground, class_maps, torch.sigmoid(self.agnostic(seen)))

    def background_logits(self, features: Tensor, mask: Tensor) -> Tensor:
        """Logits of the features times (1 - M_f) through the frozen F2: the input of Eq. 3's S_b.

        features (B,N,h,w) are constants here; only mask (B,1,h,w) carries a gradient. Returns (B,C).
        """
        return frozen(self.evaluator, features.detach() * (1 - mask)).mean(dim=(2, 3))

    def background_logits_of_images(self, images: Tensor, mask: Tensor) -> Tensor:
        """The same with the images (B,3,H,W) masked in the features' place, through the frozen F1 and F2 (Fig. 11)."""
        whole = nn.functional.interpolate(mask, images.shape[2:], mode="bilinear", align_corners=False)
        return frozen(nn.Sequential(self.extractor, self.evaluator), images * (1 - whole)).mean(dim=(2, 3))

    @property
    def classifier(self) -> nn.Module:
        """The 1x1 class convolution at F2's end."""
        return self.evaluator[-1]

    def heads(self) -> list[nn.Module]:
        """The modules that start from nothing and learn at the heads' rate."""
        return [head for head in (self.generator, self.agnostic, self.classifier) if head is not None]


def assemble(backbone: backbones.Backbone, classes: int, split: int | None = None, agnostic: bool = False) -> BasNet:
    """Split a trunk into F1 and F2 and add the heads (section 3.1), without biases and Xavier-initialised as in the public code.

    SPLIT: the trunk's stages that make F1; the generator reads their last map (Table 8; the trunk's own place if None).
    """
    split = split or backbone.split
    features = backbone.channels[split - 1]
    generator = nn.Conv2d(features, classes, 3, padding=1, bias=False)
    classifier = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)
    for head in (generator, classifier):
        nn.init.xavier_uniform_(head.weight)
    foreground = nn.Conv2d(features, 1, 3, padding=1, bias=False) if agnostic else None
    if foreground is not None:
        nn.init.xavier_uniform_(foreground.weight)  # last: with or without it, the others start from the same numbers
    extractor = nn.Sequential(*backbone.stage_modules(0, split))
    evaluator = nn.Sequential(*backbone.stage_modules(split), classifier)
    return BasNet(extractor, evaluator, generator, foreground, (backbone.strides[split - 1], backbone.strides[-1]))


def save(net: BasNet, backbone: backbones.Backbone, path: Path, split: int | None = None) -> None:
    """Write the heads, the split and, under its maker's names, the trunk that NET shares with BACKBONE, as safetensors."""
    tensors = {f"trunk.{k}": v for k, v in backbone.state_dict().items()}
    for name in ("generator", "agnostic", "classifier"):
        head = getattr(net, name)
        tensors |= {f"{name}.{k}": v for k, v in head.state_dict().items()} if head is not None else {}
    storage.write(path, tensors | {"split": torch.tensor(split or backbone.split)}, backbone.name)


def load(path: Path) -> tuple[BasNet, backbones.Backbone]:
    """Read a network that `save` wrote. Raises StageError when the file is missing, cut or of another kind."""
    with reading.told(f"Cannot read the seed network {path}", "Run `bas seed train` again"):
        tensors, name = storage.read(path)
        backbone = backbones.build(name)
        net = assemble(backbone, len(tensors["generator.weight"]), int(tensors["split"]), "agnostic.weight" in tensors)
        backbone.load_state_dict(_part(tensors, "trunk"))
        for head in ("generator", "agnostic", "classifier"):
            part = _part(tensors, head)
            if part:
                getattr(net, head).load_state_dict(part)
    return net, backbone


def trunk_state(path: Path) -> dict[str, Tensor]:
    """The trained trunk inside a seed network's file, under its maker's names."""
    return load(path)[1].state_dict()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
