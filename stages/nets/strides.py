"""Strides of a trunk: seen by running it on a small image, and taken away beyond a limit.

Shapes: h w feature grid. A module's strides are those of the grids that it reads and writes, against the image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.errors import StageError

PROBE = 64  # side of the image that a trunk is run on, in pixels: 2 x 2 at stride 32
Stages = Sequence[Sequence[nn.Module]]


def limit_strides(name: str, stages: Stages, limit: int, dilate: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Take strides beyond LIMIT out of the trunk NAME, which is in evaluation mode; return each stage's channels and stride.

    dilate: convolutions behind a removed stride are dilated by it, so that they see what they saw. Branches that leave
    the trunk's grid and come back (pooled attention) keep their strides. Raises StageError when the maps that come out
    then are not whole fractions of the image.
    """
    ends, seen = _grids(name, stages)
    steps = [
        (module, *seen[module])
        for stage, (_, end) in zip(stages, ends, strict=True)
        for root in stage
        for module in root.modules()
        if module in seen and seen[module][1] <= end
    ]
    kept = max(stride for _, *both in steps for stride in both if stride <= limit)
    for module, before, after in steps:
        if after > kept:
            _change(module, max(before // kept, 1), after // kept, dilate)
    made, _ = _grids(name, stages)
    if any(stride != min(end, kept) for (_, stride), (_, end) in zip(made, ends, strict=True)):
        raise _unfit(name, f"its strides beyond {kept} cannot be taken away")
    return tuple(width for width, _ in made), tuple(stride for _, stride in made)


@torch.no_grad()
def _grids(name: str, stages: Stages) -> tuple[list[tuple[int, int]], dict[nn.Module, tuple[int, int]]]:
    """(channels, stride) of each stage's last map; of each convolution and pool the strides before and after it."""
    seen: dict[nn.Module, tuple[int, int]] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].ndim == output.ndim == 4:
            seen[module] = (PROBE // inputs[0].shape[2], PROBE // output.shape[2])

    modules = [module for stage in stages for root in stage for module in root.modules()]
    hooks = [module.register_forward_hook(watch) for module in modules if _has_stride(module)]
    x = torch.zeros(1, 3, PROBE, PROBE, device=next(p.device for module in modules for p in module.parameters()))
    ends = []
    try:
        for stage in stages:
            x = _run(stage, x)
            if PROBE % x.shape[2] or x.shape[2] != x.shape[3]:
                raise _unfit(name, f"a map of {x.shape[3]} x {x.shape[2]} is no whole fraction of {PROBE} x {PROBE} pixels")
            ends.append((x.shape[1], PROBE // x.shape[2]))
    finally:
        for hook in hooks:
            hook.remove()
    return ends, seen


def _run(stage: Sequence[nn.Module], x: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torch warns once that an even window costs a copy of a small map
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        for module in stage:
            x = module(x)
    return x


def _unfit(name: str, why: str) -> StageError:
    return StageError(f"Backbone '{name}' does not fit", why, "Set another backbone")


def _has_stride(module: nn.Module) -> bool:
    """Whether this is a convolution or a pool; a block that only notes its stride has children."""
    return hasattr(module, "stride") and next(module.children(), None) is None


def _change(module: Any, before: int, after: int, dilate: bool) -> None:
    """Set a module's stride to one and dilate it by the strides that were removed BEFORE it or, its own among them, AFTER it.

    A window of even side, as wide as its stride, merges pixels that lie beside each other on the grid that it reads. It
    would shrink the grid by one: a convolution is filled up below and to the right, a pool leaves the grid as it is.
    """
    window = getattr(module, "kernel_size", 1)
    side = window[0] if isinstance(window, tuple) else window
    even = side % 2 == 0
    module.stride = (1, 1)
    if isinstance(module, nn.Conv2d):
        _dilate(module, (before if even else after) if dilate else 1, even)
    elif even:
        module.kernel_size, module.padding = (1, 1), (0, 0)
    elif type(module) is nn.MaxPool2d:
        module.padding = side // 2


def _dilate(conv: nn.Conv2d, rate: int, even: bool) -> None:
    if conv.kernel_size[0] > 1:
        conv.dilation = tuple(rate * d for d in conv.dilation)
        conv.padding = "same" if even else tuple(d * (k // 2) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
