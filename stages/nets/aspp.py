"""Atrous spatial pyramid pooling straight to the classes (Chen et al., "DeepLab", TPAMI 2018, section 3.2, Fig. 7).

Shapes: B images, N channels, C classes, R rates, h w grid.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

RATES = (6, 12, 18, 24)
INIT_STD = 0.01


class ASPP(nn.Module):
    """Parallel 3x3 convolutions c0, c1, … of several dilations, summed: (B,N,h,w) → (B,C,h,w)."""

    def __init__(self, in_channels: int, classes: int, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        self.rates = tuple(rates)
        for index, rate in enumerate(rates):
            conv = nn.Conv2d(in_channels, classes, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=INIT_STD)
            nn.init.constant_(cast(Tensor, conv.bias), 0)
            self.add_module(f"c{index}", conv)

    def forward(self, features: Tensor) -> Tensor:
        branches = [cast(nn.Conv2d, branch) for branch in self.children()]
        if features.device.type != "cpu":
            return functools.reduce(torch.add, (branch(features) for branch in branches))
        kernels = [branch.weight for branch in branches]
        if torch.is_autocast_enabled("cpu"):
            wanted = torch.get_autocast_dtype("cpu")
            features, kernels = features.to(wanted), [kernel.to(wanted) for kernel in kernels]
        add_up = _PyramidSum.apply if torch.is_grad_enabled() else _sum
        summed = cast(Tensor, add_up(features, self.rates, *kernels))
        bias = functools.reduce(torch.add, (cast(Tensor, branch.bias) for branch in branches))
        return summed + bias[:, None, None].to(summed.dtype)


def _sum(features: Tensor, rates: Sequence[int], *kernels: Tensor) -> Tensor:
    """The convolutions of (B,N,h,w) by each kernel at its rate, summed: (B,C,h,w)."""
    maps = (nnf.conv2d(features, kernel, padding=rate, dilation=rate) for kernel, rate in zip(kernels, rates, strict=True))
    return functools.reduce(torch.add, maps)


class _PyramidSum(torch.autograd.Function):
    """The summed convolutions, with a backward pass of two matrix products.

    A few classes come out of many channels, so all R·9 shifts of the output's gradient fit in one small matrix
    (B·hw, R·C·9); times the kernels it is the gradient of the features, times the features that of the kernels. On a
    CPU that is less work than the R convolutions' own backward passes.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, rates: tuple[int, ...], *kernels: Tensor) -> Tensor:
        ctx.save_for_backward(features, *kernels)
        ctx.rates = rates
        return _sum(features, rates, *kernels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, *kernels = ctx.saved_tensors
        gradient, (batch, channels, height, width) = gradients[0], features.shape
        shifts = torch.cat([nnf.unfold(gradient, 3, dilation=r, padding=r) for r in ctx.rates], dim=1)  # (B,R·C·9,hw)
        of_features = None
        if ctx.needs_input_grad[0]:
            mirrored = torch.cat([k.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, channels) for k in kernels])  # (R·C·9,N)
            planes = torch.matmul(shifts.transpose(1, 2), mirrored)
            of_features = planes.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        flat = features.permute(0, 2, 3, 1).reshape(-1, channels)  # (B·hw,N)
        products = shifts.permute(1, 0, 2).reshape(shifts.shape[1], -1) @ flat  # (R·C·9,N)
        taps = products.reshape(len(kernels), -1, 3, 3, channels).permute(0, 1, 4, 2, 3).flip(3, 4)
        return of_features, None, *taps.unbind()
