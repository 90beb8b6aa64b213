"""The pyramid's forward and backward pass against the plain sum of its convolutions."""

from __future__ import annotations

import torch

from stages.nets.aspp import ASPP


def test_values_and_gradients_are_those_of_the_summed_convolutions() -> None:
    torch.manual_seed(0)
    aspp = ASPP(7, 3, rates=(1, 2, 6)).double()
    x = torch.randn(2, 7, 5, 8, dtype=torch.float64)
    weight = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    results = []
    for run in (aspp, lambda image: sum(branch(image) for branch in aspp.children())):
        image = x.clone().requires_grad_()
        aspp.zero_grad()
        out = run(image)
        (out * weight).sum().backward()
        results.append([out.detach(), image.grad, *(parameter.grad.clone() for parameter in aspp.parameters())])
    assert len(results[0]) == 8
    assert all(torch.allclose(fast, plain) for fast, plain in zip(*results, strict=True))


def test_features_without_gradient_are_left_alone() -> None:
    aspp = ASPP(4, 2)
    aspp(torch.randn(1, 4, 6, 6)).sum().backward()
    assert all(parameter.grad is not None for parameter in aspp.parameters())


def test_autocast_follows_float32() -> None:
    torch.manual_seed(0)
    aspp, x = ASPP(16, 3), torch.randn(2, 16, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        half = aspp(x)
    half.float().sum().backward()
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), aspp(x), atol=0.02)
    assert next(aspp.parameters()).grad.dtype == torch.float32


def test_initial_weights_are_small_and_biases_zero() -> None:
    torch.manual_seed(0)
    aspp = ASPP(64, 21)
    weights = torch.cat([branch.weight.flatten() for branch in aspp.children()])
    assert abs(weights.std().item() - 0.01) < 2e-4
    assert not any(branch.bias.any() for branch in aspp.children())
