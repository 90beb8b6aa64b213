"""Dilated depthwise convolutions whose backward pass is fast on a CPU.

The CPU kernels for the gradients of a dilated depthwise convolution are many times slower than its forward pass.
Two identities avoid them: the gradient of the input is the same convolution of the output's gradient with the mirrored
kernel, and that of the kernel is an undilated one's on the RATE² interleaved sub-grids, which never mix.
Shapes: B images, N channels, h w grid.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


class _SameConvolution(torch.autograd.Function):
    """x (B,N,h,w), kernel (N,1,3,3), rate → (B,N,h,w), zero-padded by RATE on every side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, rate: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.rate = rate
        return _convolve(x, kernel, rate)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernel = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_input = _convolve(gradient, kernel.flip(2, 3), ctx.rate) if ctx.needs_input_grad[0] else None
        of_kernel = None
        if ctx.needs_input_grad[1]:
            grids, gradient_grids = subgrids(x, ctx.rate), subgrids(gradient, ctx.rate)
            shape = list(kernel.shape)
            of_kernel = conv2d_weight(grids, shape, gradient_grids, padding=1, groups=len(kernel))
        return of_input, of_kernel, None


def _convolve(x: Tensor, kernel: Tensor, rate: int) -> Tensor:
    return nnf.conv2d(x, kernel, padding=rate, dilation=rate, groups=len(kernel))


def subgrids(x: Tensor, rate: int) -> Tensor:
    """(B,N,h,w) → (B·RATE²,N,⌈h/RATE⌉,⌈w/RATE⌉): every RATE-th pixel from each of RATE² starts, zeros where it ends."""
    batch, channels, height, width = x.shape
    x = nnf.pad(x, (0, -width % rate, 0, -height % rate)).permute(0, 2, 3, 1)
    rows, columns = x.shape[1] // rate, x.shape[2] // rate
    split = x.reshape(batch, rows, rate, columns, rate, channels).permute(0, 2, 4, 1, 3, 5)
    return split.reshape(batch * rate * rate, rows, columns, channels).permute(0, 3, 1, 2)


class DilatedDepthwise(nn.Conv2d):
    """A dilated 3x3 depthwise convolution of stride 1 that keeps the grid; on a GPU it is torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """(B,N,h,w) → (B,N,h,w), in autocast's type where that is on."""
        if input.device.type != "cpu":
            return super().forward(input)
        kernel = self.weight
        if torch.is_autocast_enabled("cpu"):
            wanted = torch.get_autocast_dtype("cpu")
            input, kernel = input.to(wanted), kernel.to(wanted)
        if not torch.is_grad_enabled():
            return _convolve(input, kernel, self.dilation[0])
        return _SameConvolution.apply(input, kernel, self.dilation[0])  # type: ignore[no-any-return]


def speed_up(module: nn.Module) -> None:
    """Turn every convolution within MODULE that is of this kind into a `DilatedDepthwise`, with its own weights."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d and _applies(child):  # one of another kind may do more than convolve
            width, rate = child.in_channels, int(child.dilation[0])
            fast = DilatedDepthwise(width, width, 3, padding=rate, dilation=rate, groups=width, bias=False)
            fast.weight = child.weight
            setattr(module, name, fast)
        else:
            speed_up(child)


def _applies(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.bias is None
    same = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == conv.dilation
    return depthwise and same and conv.dilation[0] == conv.dilation[1] > 1
