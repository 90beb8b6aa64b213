"""F2 with its first pointwise convolutions computed once an image, against the plain F2."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stages.nets import backbones, bas, hoisted

HOISTED = {
    "mobilenet_v2": ("0.conv.0.0",),
    "resnet18": ("0.0.downsample.0",),  # its conv1 is 3x3: a mask's edge reaches into its neighbours
    "resnet50": ("0.0.conv1", "0.0.downsample.0"),
    "tiny": ("0.0.downsample.0",),
}


@pytest.fixture(params=list(HOISTED))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def net(name: str) -> bas.BasNet:
    torch.manual_seed(0)
    network = bas.assemble(backbones.build(name), 3).eval()
    for module in network.modules():  # statistics of their own: a freshly made batch-norm does nothing
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def masks(size: tuple[int, int]) -> Tensor:
    """Five masks (5,1,h,w), none and all among them."""
    noise = torch.rand(1, *size)
    return torch.stack([(noise > limit).float() for limit in (-1, 0.2, 0.5, 0.8, 2)])


@torch.inference_mode()
def test_logits_are_those_of_the_plain_evaluator(name: str, net: bas.BasNet):
    features = net.extractor(torch.randn(1, 3, 64, 48))
    judge = hoisted.Evaluator(net.evaluator, features)
    cut = masks(judge.size)
    expected = net.evaluator(features * (1 - cut)).mean(dim=(2, 3))
    torch.testing.assert_close(judge(cut), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    torch.testing.assert_close(judge.logits, net.evaluator(features).mean(dim=(2, 3))[0])
    assert float(judge(cut)[0].abs().max()) < float(expected.abs().max())
    assert judge.hoisted == HOISTED[name]


@torch.inference_mode()
def test_network_is_left_as_it_was_and_no_weight_is_copied(net: bas.BasNet):
    before = {name: id(module) for name, module in net.named_modules()}
    features = net.extractor(torch.randn(1, 3, 64, 48))
    judge = hoisted.Evaluator(net.evaluator, features)
    judge(masks(judge.size))
    assert {name: id(module) for name, module in net.named_modules()} == before
    assert not any(module._forward_hooks for module in net.modules())
    own = {tensor.data_ptr() for tensor in net.evaluator.parameters()}
    assert {tensor.data_ptr() for tensor in judge._evaluator.parameters()} < own


@torch.inference_mode()
@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1)])
def test_a_strided_convolution_takes_the_mask_at_its_own_pixels(size: tuple[int, int]):
    conv = nn.Sequential(nn.Conv2d(2, 3, 1, stride=2, bias=False))
    features = torch.randn(1, 2, *size)
    judge = hoisted.Evaluator(conv, features)
    cut = masks(size)
    assert judge.hoisted == ("0",)
    torch.testing.assert_close(judge(cut), conv(features * (1 - cut)).mean(dim=(2, 3)))


@torch.inference_mode()
def test_convolutions_with_a_bias_or_a_window_wait_for_the_mask():
    evaluator = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1, bias=False))
    features = torch.randn(1, 2, 4, 4)
    judge = hoisted.Evaluator(evaluator, features)
    cut = masks((4, 4))
    assert judge.hoisted == ()
    torch.testing.assert_close(judge(cut), evaluator(features * (1 - cut)).mean(dim=(2, 3)))
