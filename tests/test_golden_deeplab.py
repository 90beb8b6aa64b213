"""DeepLabV2 against vectors of the public reference: head, multi-scale losses, gradients, groups, poly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caffe_trunk import CaffeTrunk
from mmengine.structures import PixelData
from torch import Tensor

from stages.formulas.segmentation import poly_factor, resize_labels, scale_images
from stages.nets.aspp import ASPP
from stages.nets.mmseg.hooks import PolyHook
from stages.nets.mmseg.network import Network, config
from stages.nets.mmseg.optim import Rates, parameter_groups
from stages.nets.mmseg.segmentor import MODELS, MultiScaleEncoderDecoder

Vectors = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    path = Path(os.environ.get("BAS_GOLDEN", "")) / "deeplab_net.npz"
    if not os.environ.get("BAS_GOLDEN") or not path.is_file():
        pytest.skip("BAS_GOLDEN names no folder with deeplab_net.npz")
    with np.load(path) as stored:
        return dict(stored)


def _weights(vectors: Vectors, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in vectors.items() if k.startswith(prefix)}


def _network(vectors: Vectors) -> MultiScaleEncoderDecoder:
    weights = _weights(vectors, "msc/weights/")
    if "CaffeTrunk" not in MODELS.module_dict:
        MODELS.register_module(name="CaffeTrunk", module=CaffeTrunk)
    classes, width = weights["aspp.c0.weight"].shape[:2]
    spec = config(Network(backbone="tiny", classes=tuple(map(str, range(classes))), loss="plain"))
    spec["backbone"] = {"type": "CaffeTrunk", "weights": weights}
    spec["decode_head"]["in_channels"] = width
    net = MODELS.build(spec)
    named = {("decode_head." if k.startswith("aspp.") else "backbone.") + k: v for k, v in weights.items()}
    missing, unexpected = net.load_state_dict(named, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    return net.train()


class _Sample:
    """The one field of a data sample that the losses read."""

    def __init__(self, label: Tensor) -> None:
        self.gt_sem_seg = PixelData(data=label[None])


def _losses(net: MultiScaleEncoderDecoder, vectors: Vectors, dtype: torch.dtype) -> dict[str, Tensor]:
    images = torch.from_numpy(vectors["msc/images"]).to(dtype)
    labels = torch.from_numpy(vectors["msc/labels"]).long()
    net.to(dtype)
    return net.loss(images, [_Sample(label) for label in labels])


def test_golden_aspp(vectors: Vectors) -> None:
    weights = _weights(vectors, "aspp/weights/")
    classes, width = weights["c0.weight"].shape[:2]
    aspp = ASPP(width, classes)
    aspp.load_state_dict(weights)
    out = aspp(torch.from_numpy(vectors["aspp/in"])).detach().numpy()
    np.testing.assert_allclose(out, vectors["aspp/out"], atol=1e-4, rtol=0)


def test_golden_scaled_images_and_labels(vectors: Vectors) -> None:
    images, labels = torch.from_numpy(vectors["msc/images"]), torch.from_numpy(vectors["msc/labels"])
    for key, factor in (("p5", 0.5), ("p75", 0.75)):
        scaled = scale_images(images, factor)[..., ::4, ::4].numpy()
        np.testing.assert_allclose(scaled, vectors[f"msc/images_scaled_{key}"], atol=1e-4, rtol=1e-6)
    for key in ("1", "p5", "p75", "max"):
        wanted = vectors[f"msc/labels_{key}"]
        assert np.array_equal(resize_labels(labels, wanted.shape[-2:]).numpy(), wanted), key


def test_golden_pyramid_logits(vectors: Vectors) -> None:
    net, images = _network(vectors), torch.from_numpy(vectors["msc/images"])
    with torch.no_grad():
        levels = net.pyramid(images)
        trained = net._forward(images)
        tested = net.eval()._forward(images)
    for level, key in zip([*levels, trained], ("1", "p5", "p75", "max"), strict=True):
        np.testing.assert_allclose(level.numpy(), vectors[f"msc/logits_{key}"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(tested.numpy(), vectors["msc/eval_logits"], atol=1e-4, rtol=0)


def test_golden_losses(vectors: Vectors) -> None:
    net = _network(vectors)
    single = torch.stack([*_losses(net, vectors, torch.float32).values()]).detach().numpy()
    np.testing.assert_allclose(single, vectors["msc/losses"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(single, vectors["msc/losses_f64"], atol=1e-5, rtol=0)
    assert abs(single.sum(dtype=np.float64) - vectors["msc/loss_sum_f64"]) < 4e-5


def test_golden_gradients(vectors: Vectors) -> None:
    net = _network(vectors)
    torch.stack([*_losses(net, vectors, torch.float32).values()]).sum().backward()
    named = dict(net.named_parameters())
    for key, name in (
        ("grad_aspp_c0_weight", "decode_head.aspp.c0.weight"),
        ("grad_aspp_c2_bias", "decode_head.aspp.c2.bias"),
        ("grad_layer1_conv", "backbone.layer1.conv1.conv.weight"),
    ):
        wanted, gradient = vectors[f"msc/{key}"], named[name].grad
        assert gradient is not None
        error = np.linalg.norm(gradient.numpy() - wanted) / np.linalg.norm(wanted)
        assert error < 1e-3, f"{key}: {error}"


def test_golden_parameter_groups(vectors: Vectors) -> None:
    base = float(vectors["poly/iter_max20000_step10_base"][0])
    groups = {round(g["lr"] / base): g for g in parameter_groups(_network(vectors), Rates(lr=base))}
    counts = [len(groups[times]["params"]) for times in (1, 10, 20)]
    assert counts == vectors["msc/n_params_by_group"].tolist()
    assert [groups[times]["weight_decay"] for times in (1, 10, 20)] == [5e-4, 5e-4, 0.0]
    rates = [groups[times]["initial_lr"] for times in (1, 10, 20)]
    np.testing.assert_allclose(rates, vectors["poly/iter_max20000_step10_base"], rtol=1e-12)


def test_golden_poly(vectors: Vectors) -> None:
    base = vectors["poly/iter_max20000_step10_base"]
    used = vectors["poly/iter_max20000_lr_used_every10"]
    hook = PolyHook(20_000, 0.9, 10, accumulate=1)
    ours = np.array([[rate * hook.factor(10 * row) for rate in base] for row in range(len(used))])
    np.testing.assert_allclose(ours, used, rtol=1e-9)
    assert np.allclose(base * hook.factor(20_000), vectors["poly/iter_max20000_lr_after_last"], rtol=1e-9)


def test_golden_poly_small(vectors: Vectors) -> None:
    steps, every, base = (vectors[f"poly/small_{key}"].item() for key in ("iter_max", "step", "base"))
    used = vectors["poly/small_lr_used"]
    ours = [base * poly_factor(step, steps, 0.9, every) for step in range(len(used) + 1)]
    np.testing.assert_allclose(ours, [*used, vectors["poly/small_lr_after_last"]], rtol=1e-9)
