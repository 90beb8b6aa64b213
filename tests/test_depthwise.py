"""The fast backward pass of dilated depthwise convolutions against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.nets.depthwise import DilatedDepthwise, speed_up, subgrids


@pytest.mark.parametrize("rate", [2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 11), (3, 5)])
def test_values_and_gradients_are_torch_s(rate: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    own = nn.Conv2d(6, 6, 3, padding=rate, dilation=rate, groups=6, bias=False).double()
    holder = nn.Sequential(own)
    fast = nn.Sequential(nn.Conv2d(6, 6, 3, padding=rate, dilation=rate, groups=6, bias=False)).double()
    fast.load_state_dict(holder.state_dict())
    speed_up(fast)
    assert isinstance(fast[0], DilatedDepthwise)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    results = []
    for module in (holder, fast):
        image = x.clone().requires_grad_()
        out = module(image)
        (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
        results.append((out.detach(), image.grad, next(module.parameters()).grad))
    for wanted, got in zip(*results, strict=True):
        assert torch.allclose(wanted, got)


def test_gradcheck() -> None:
    conv = nn.Sequential(nn.Conv2d(2, 2, 3, padding=2, dilation=2, groups=2, bias=False)).double()
    speed_up(conv)
    assert torch.autograd.gradcheck(conv, torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True))


def test_autocast_works_in_bfloat16() -> None:
    conv = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False))
    speed_up(conv)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(torch.randn(1, 4, 6, 6))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    gradient = next(conv.parameters()).grad
    assert gradient is not None and gradient.dtype == torch.float32


def test_other_convolutions_stay() -> None:
    kept = [
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
    ]
    net = nn.Sequential(*kept)
    speed_up(net)
    assert all(left is right for left, right in zip(net, kept, strict=True))


def test_subgrids_by_hand() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert subgrids(x, 2).flatten(1).tolist() == [[0, 2], [1, 0], [3, 5], [4, 0]]
