"""F2 on many masks of one image's features, with the work that they share done once (BAS, IJCV 2023, section 5.5).

A mask has one channel, so for a 1x1 convolution without bias conv(F · (1 - m)) = (1 - m) · conv(F). Of the convolutions
that read the features themselves those are therefore computed once an image and multiplied by each mask: conv1 and the
shortcut of ResNet's bottleneck (a sixth of its F2), the shortcut of its basic block, the expansion of MobileNetV2's
inverted residual. Shapes: N channels, h w feature grid, C classes, J masks.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import TypeGuard

import torch
from torch import Tensor, nn


class Evaluator:
    """An evaluator in evaluation mode, bound to the features (1,N,h,w) of one image.

    logits (C,): those of the whole features; size: h, w. Calls take masks.
    """

    def __init__(self, evaluator: nn.Module, features: Tensor) -> None:
        products: dict[str, _Product] = {}
        self._features, self.size = features, (features.shape[2], features.shape[3])
        self.logits = _pooled(_record(evaluator, features, products))[0]
        self._evaluator = _sharing_tensors(evaluator)
        self._stand_ins = products
        for name, stand_in in self._stand_ins.items():
            self._evaluator.set_submodule(name, stand_in)

    @property
    def hoisted(self) -> tuple[str, ...]:
        """Names of the convolutions that no mask has to wait for."""
        return tuple(self._stand_ins)

    def __call__(self, masks: Tensor) -> Tensor:
        """Logits (J,C) of the features times (1 - mask) of masks (J,1,h,w)."""
        kept = 1 - masks
        for stand_in in self._stand_ins.values():
            stand_in.kept = kept
        return _pooled(self._evaluator(self._features * kept))


class _Product(nn.Module):
    """Stands for a 1x1 convolution of some STRIDE whose PRODUCT (1,N',h',w') with the whole features is known."""

    def __init__(self, product: Tensor, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.product, self.stride, self.kept = product, stride, product.new_ones(1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Masked features (J,N,h,w) → their convolution (J,N',h',w'); they are not looked at."""
        return self.product * self.kept[..., :: self.stride[0], :: self.stride[1]].to(self.product)


def _pooled(class_maps: Tensor) -> Tensor:
    return class_maps.float().mean(dim=(2, 3))


def _record(evaluator: nn.Module, features: Tensor, products: dict[str, _Product]) -> Tensor:
    """Run EVALUATOR on the features and enter stand-ins for its pointwise convolutions that read them, by name."""

    def watch(name: str, conv: nn.Conv2d) -> torch.utils.hooks.RemovableHandle:
        def enter(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs[0] is features:
                products[name] = _Product(output.clone(), conv.stride)  # what follows may work in place

        return conv.register_forward_hook(enter)

    hooks = [watch(name, module) for name, module in evaluator.named_modules() if _pointwise(module)]
    try:
        return evaluator(features)
    finally:
        for hook in hooks:
            hook.remove()


def _pointwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.bias is None and module.padding == (0, 0)


def _sharing_tensors(module: nn.Module) -> nn.Module:
    """A copy of the modules, to be changed, on the very parameters and buffers of the original."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())})
