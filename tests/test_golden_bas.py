"""The BAS losses, their gradients and the frozen branch against the public code's values, by the classes that train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import cases, load
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.formulas import bas as formulas
from stages.nets.bas import BasNet

WEIGHTS = formulas.Weights(alpha=0.2, beta=1.2, lam=1.0)
TERMS = ("mcls", "frg", "ac", "bas")


@dataclass
class Step:
    """One training step on the file's tensors."""

    leaves: dict[str, Tensor]
    net: BasNet
    maps: Any
    mask: Tensor
    background: Tensor
    losses: dict[str, Tensor]


def convolution(weight: Tensor) -> nn.Conv2d:
    out, inputs, side, _ = weight.shape
    layer = nn.Conv2d(inputs, out, side, padding=side // 2, bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight)
    return layer


def step(data: dict[str, NDArray], case: str, dtype: torch.dtype) -> Step:
    """F1 is the identity here: the file gives its output."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(data[f"{case}/in/{name}"]).to(dtype)

    norm = nn.BatchNorm2d(len(data[f"{case}/in/f2_bn_weight"]), dtype=dtype)
    norm.weight, norm.bias = nn.Parameter(tensor("f2_bn_weight")), nn.Parameter(tensor("f2_bn_bias"))
    layers = [convolution(tensor("f2_conv_weight")), norm, nn.ReLU(), convolution(tensor("cls_weight"))]
    net = BasNet(nn.Identity(), nn.Sequential(*layers), convolution(tensor("gen_weight"))).train()
    features = tensor("F").requires_grad_()
    labels, chosen = tensor("label"), torch.from_numpy(data[f"{case}/in/p_label"])
    maps = net(features)
    mask = maps.foreground[range(len(features)), chosen][:, None]
    background = net.background_logits(maps.features, mask)
    terms = formulas.losses(maps.class_maps, mask, background, labels, chosen)
    leaves = {
        "F": features,
        "gen_weight": net.generator.weight,
        "f2_conv_weight": layers[0].weight,
        "f2_bn_weight": norm.weight,
        "f2_bn_bias": norm.bias,
        "cls_weight": layers[3].weight,
    }
    return Step(leaves, net, maps, mask, background, {**terms, "total": formulas.total(terms, WEIGHTS)})


def close(actual: Tensor, expected: NDArray, atol: float, name: str) -> None:
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize(("dtype", "loss_atol", "grad_atol"), [(torch.float64, 1e-8, 1e-8), (torch.float32, 1e-5, 1e-4)])
def test_golden_losses_and_gradients(dtype: torch.dtype, loss_atol: float, grad_atol: float) -> None:
    data = load("bas_losses.npz")
    for case in cases(data, "in/F"):
        done = step(data, case, dtype)
        for name in (*TERMS, "total"):
            close(done.losses[name], data[f"{case}/out/L_{name}"], loss_atol, f"{case} {name}")
            gradients = torch.autograd.grad(done.losses[name], list(done.leaves.values()), retain_graph=True, allow_unused=True)
            for leaf, gradient in zip(done.leaves, gradients, strict=True):
                expected = data[f"{case}/out/grad_L_{name}/{leaf}"]
                actual = torch.zeros_like(done.leaves[leaf]) if gradient is None else gradient
                close(actual, expected, grad_atol, f"{case} d{name}/d{leaf}")
                if not expected.any():
                    assert not actual.any(), f"{case}: d{name}/d{leaf} must be exactly zero"


def test_golden_maps_and_scores() -> None:
    data = load("bas_losses.npz")
    for case in cases(data, "in/F"):
        done = step(data, case, torch.float64)
        chosen = torch.from_numpy(data[f"{case}/in/p_label"])[:, None]
        logits = done.maps.class_maps.mean(dim=(2, 3))
        found = {
            "logits_map": done.maps.class_maps,
            "score": logits,
            "S": logits.gather(1, chosen)[:, 0],
            "S_bg": done.background.gather(1, chosen)[:, 0],
            "M_fg": done.mask,
            "score_frg": (done.mask * done.maps.class_maps).mean(dim=(2, 3)),
        }
        for name, value in found.items():
            close(value, data[f"{case}/out/{name}"], 1e-8, f"{case} {name}")


def test_golden_running_statistics_see_one_pass() -> None:
    data = load("bas_losses.npz")
    for case in cases(data, "in/F"):
        norm = step(data, case, torch.float64).net.evaluator[1]
        close(norm.running_mean, data[f"{case}/out/bn_running_mean_after"], 1e-8, case)
        close(norm.running_var, data[f"{case}/out/bn_running_var_after"], 1e-8, case)
        assert int(norm.num_batches_tracked) == int(data[f"{case}/out/bn_num_batches"])


def test_golden_cases_cover_the_constant_one() -> None:
    """A case in which S_b exceeds S > 0 is there, and its images add exactly 1 and no gradient."""
    data = load("bas_losses.npz")
    seen = 0
    for case in cases(data, "in/F"):
        score, background = (torch.from_numpy(data[f"{case}/out/{name}"]).requires_grad_() for name in ("S", "S_bg"))
        exceeding = (background > score) & (score > 0)
        values = formulas.background_activation_suppression(score, background)
        (gradient,) = torch.autograd.grad(values.sum(), background)
        assert (values[exceeding] == 1).all() and not gradient[exceeding].any()
        seen += int(exceeding.sum())
    assert seen
