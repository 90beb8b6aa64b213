"""Checkpoints of public DeepLabs: their names, their pixels, their pooling, and the same logits in the end."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from caffe_trunk import CaffeTrunk
from torch import Tensor

from stages.core.errors import StageError
from stages.nets import backbones, pretrained, public_names
from stages.nets.mmseg import inference, network
from stages.nets.mmseg.segmentor import MultiScaleEncoderDecoder

PARTS = {"conv1": "reduce.conv", "conv2": "conv3x3.conv", "conv3": "increase.conv"}
PARTS |= {"bn1": "reduce.bn", "bn2": "conv3x3.bn", "bn3": "increase.bn"}
CLASSES = ("background", "cat", "dog")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("scale.layer1.conv1.conv.weight", "conv1.weight"),
        ("base.layer1.conv1.bn.running_mean", "bn1.running_mean"),
        ("base.layer2.block1.reduce.conv.weight", "layer1.0.conv1.weight"),
        ("layer4.block23.conv3x3.bn.bias", "layer3.22.bn2.bias"),
        ("layer5.block3.increase.bn.weight", "layer4.2.bn3.weight"),
        ("scale.layer3.block1.proj.conv.weight", "layer2.0.downsample.0.weight"),
        ("base.layer3.block1.shortcut.bn.running_var", "layer2.0.downsample.1.running_var"),
        ("base.aspp.c3.bias", "aspp.c3.bias"),
        ("scale.aspp.stages.c0.weight", "aspp.c0.weight"),
        ("Scale.layer5.conv2d_list.2.weight", "aspp.c2.weight"),
        ("module.Scale.layer3.22.conv2.weight", "layer3.22.conv2.weight"),
        ("decode_head.aspp.c1.weight", "aspp.c1.weight"),
        ("backbone.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("fc.weight", "fc.weight"),
    ],
)
def test_a_public_name_is_ours(theirs: str, ours: str) -> None:
    assert list(public_names.recognise({theirs: torch.zeros(1)}).tensors) == [ours]


def public(name: str) -> str:
    """What deeplab-pytorch calls the tensor NAME of our trunk."""
    stem = re.sub(r"^(conv|bn)1\.", r"layer1.conv1.\1.", name)
    block = re.match(r"layer(\d)\.(\d+)\.(\w+)\.(.*)", name)
    if block is None:
        return stem
    layer, number, part, rest = block.groups()
    if part == "downsample":
        part, rest = ("shortcut.conv", "shortcut.bn")[int(rest[0])], rest[2:]
    return f"layer{int(layer) + 1}.block{int(number) + 1}.{PARTS.get(part, part)}.{rest}"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """A trunk and a head under deeplab-pytorch's names, random, such that maps neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    shapes = {public(name): value.shape for name, value in backbones.build("resnet101_caffe").state_dict().items()}
    shapes |= {f"aspp.c{i}.{part}": size for i in range(4) for part, size in (("weight", (3, 2048, 3, 3)), ("bias", (3,)))}
    made = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        fan = max(int(np.prod(shape[1:])), 1)
        drawn = torch.randn(shape, generator=generator)
        made[name] = drawn * (2 / fan) ** 0.5 if len(shape) == 4 else 0.1 * drawn
        if name.endswith(("running_var", "bn.weight")):
            made[name] = (0.2 if "increase" in name and "var" not in name else 1.0) + drawn.abs() / 10
    made["layer1.conv1.conv.weight"] /= 60  # pixels are large
    return made


@pytest.fixture(scope="module")
def net(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> MultiScaleEncoderDecoder:
    """Our network, filled from a file of theirs in the old format of torch's files."""
    path = tmp_path_factory.mktemp("weights") / "deeplab.pth"
    named = {f"scale.{name.replace('aspp.', 'aspp.stages.').replace('shortcut', 'proj')}": v for name, v in tensors.items()}
    torch.save(named, path, _use_new_zipfile_serialization=False)
    made = network.make(network.Network(backbone="resnet101_caffe", classes=CLASSES, channels_last=False))
    report = pretrained.load_weights(made.backbone, str(path), made.decode_head.aspp)
    assert (report.maker, report.missing, report.unused) == ("deeplab-pytorch", (), ())
    assert report.loaded == len(tensors) and "its head of 3 classes is taken" in report.line() and report.taught
    return made.eval()


def reference(tensors: dict[str, Tensor], image: np.ndarray) -> Tensor:
    """The public network's logits of an image (H,W,3) RGB, in its own convention: the maximum of three scales."""
    trunk = CaffeTrunk(tensors)
    trunk.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("aspp.")}, strict=False)
    pixels = torch.from_numpy(image[..., ::-1].astype(np.float32)) - torch.tensor([104.008, 116.669, 122.675])
    levels = []
    for scale in (1.0, 0.5, 0.75):
        view = nnf.interpolate(
            pixels.permute(2, 0, 1)[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=False, align_corners=False
        )
        features = trunk.eval()(view)[0]
        levels.append(
            sum(
                nnf.conv2d(features, tensors[f"aspp.c{i}.weight"], tensors[f"aspp.c{i}.bias"], padding=rate, dilation=rate)
                for i, rate in enumerate((6, 12, 18, 24))
            )
        )
    size = levels[0].shape[-2:]
    return torch.stack([nnf.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]).amax(0)[0]


@torch.inference_mode()
def test_logits_are_those_of_the_public_network(net: MultiScaleEncoderDecoder, tensors: dict[str, Tensor]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (65, 72, 3), dtype=np.uint8)  # 72: pooling down and up differ
    wanted = reference(tensors, image)
    logits = inference.grid_logits(net, image, (1.0, 0.5, 0.75), flip=False)
    assert logits.shape == wanted.shape == (3, 9, 10) and wanted.std() > 0.1
    torch.testing.assert_close(logits, wanted, atol=2e-4 * float(wanted.abs().max()), rtol=0)


def test_files_of_three_makers_fill_the_same_network(net: MultiScaleEncoderDecoder, tensors: dict[str, Tensor]) -> None:
    new = {f"base.{name}": value for name, value in tensors.items()}
    own = {k: v for k, v in net.backbone.state_dict().items() if not k.endswith("tracked")}
    scale = {f"Scale.{k}": v for k, v in own.items()}
    scale |= {name.replace("aspp.c", "Scale.layer5.conv2d_list."): v for name, v in tensors.items() if name[:4] == "aspp"}
    ours = {k: v for k, v in net.state_dict().items() if not k.endswith("tracked")}
    found = [public_names.recognise(state) for state in (new, scale, ours)]
    assert [one.caffe for one in found] == [True, True, False]
    for one in found:
        assert one.tensors.keys() == found[0].tensors.keys()
        assert all(torch.equal(one.tensors[name], value) for name, value in found[0].tensors.items())


def test_a_head_of_other_classes_and_a_classifier_are_reported(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "coco.pth"
    torch.save({**tensors, "fc.weight": torch.zeros(91, 2048, 1, 1), "fc.bias": torch.zeros(91)}, path)
    made = network.make(network.Network(backbone="resnet101_caffe", classes=(*CLASSES, "cow")))
    before = made.decode_head.aspp.c0.weight.clone()
    report = pretrained.load_weights(made.backbone, str(path), made.decode_head.aspp)
    assert {"fc.weight", "fc.bias", "aspp.c0.weight"} < set(report.unused) and len(report.unused) == 10
    assert "its head of 3 classes is not taken, 4 are wanted" in report.line() and not report.taught
    assert torch.equal(before, made.decode_head.aspp.c0.weight)
    assert report.facts()["unused"] == report.unused
    with pytest.raises(StageError, match=r"coco.pth are of Caffe's ResNet.*backbone to resnet101_caffe"):
        pretrained.load_weights(backbones.build("resnet101"), str(path))
