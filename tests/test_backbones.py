"""Trunks: their taps, strides and dilations, and weights that belong to them or not."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from stages.core import files
from stages.core.errors import StageError
from stages.nets import backbones, pretrained

SHAPES = {
    "resnet18": ((64, 64, 128, 256, 512), (4, 4, 8, 16, 16)),
    "resnet50": ((64, 256, 512, 1024, 2048), (4, 4, 8, 16, 16)),
    "resnet101": ((64, 256, 512, 1024, 2048), (4, 4, 8, 16, 16)),
    "resnet101_caffe": ((64, 256, 512, 1024, 2048), (4, 4, 8, 16, 16)),
    "mobilenet_v2": ((16, 24, 32, 96, 1280), (2, 4, 8, 16, 16)),
    "tiny": ((16, 16, 32, 64, 128), (1, 2, 4, 8, 8)),
}


def test_every_trunk_is_tested():
    assert set(SHAPES) == set(backbones.TRUNKS)


@pytest.mark.parametrize("name", SHAPES)
def test_channels_and_strides_are_those_of_the_maps(name: str):
    trunk = backbones.build(name).eval()
    assert (trunk.channels, trunk.strides) == SHAPES[name]
    with torch.inference_mode():
        maps = trunk(torch.rand(1, 3, 64, 64))
    for feature, channels, stride in zip(maps, trunk.channels, trunk.strides, strict=True):
        assert feature.shape == (1, channels, 64 // stride, 64 // stride)
        assert channels >= 1


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2"])
def test_parts_in_sequence_are_the_whole(name: str):
    trunk = backbones.build(name).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        whole = trunk(x)[-1]
        parts = trunk.extract(trunk.extract(x, 0, trunk.split), trunk.split)
    assert torch.equal(whole, parts)


def dilations(trunk: backbones.Backbone, stage: int) -> set[int]:
    modules = [m for module in trunk.stage_modules(stage, stage + 1) for m in module.modules()]
    return {m.dilation[0] for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_output_stride_8_dilates_as_deeplab_does(name: str):
    trunk = backbones.build(name, output_stride=8, dilate=True).eval()
    assert trunk.strides == (4, 4, 8, 8, 8)
    assert [dilations(trunk, stage) for stage in range(1, 5)] == [{1}, {1}, {2}, {4}]
    with torch.inference_mode():
        assert trunk(torch.rand(1, 3, 64, 64))[-1].shape[-2:] == (8, 8)


def test_without_dilation_strides_are_only_taken_away():
    trunk = backbones.build("resnet18")
    assert [dilations(trunk, stage) for stage in range(1, 5)] == [{1}] * 4


def test_at_full_stride_a_trunk_is_torchvisions_network():
    torch.manual_seed(0)
    whole = torchvision.models.resnet18().eval()
    trunk = backbones.build("resnet18", output_stride=32).eval()
    report = pretrained.fill(trunk, whole.state_dict(), "torchvision's")
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        logits = whole.fc(trunk(x)[-1].mean(dim=(2, 3)))
        torch.testing.assert_close(logits, whole(x))
    assert report.missing == () and report.unused == ("fc.weight", "fc.bias")
    assert "2 unused (fc.weight, fc.bias)" in report.line()


def test_missing_tensors_are_reported():
    trunk = backbones.build("tiny")
    state = {key: value for key, value in trunk.state_dict().items() if key != "bn1.bias"}
    assert pretrained.fill(trunk, state, "file").missing == ("bn1.bias",)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_are_read_from_a_file(tmp_path, suffix: str):
    from safetensors.torch import save_file

    source, target = backbones.build("tiny"), backbones.build("tiny")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    report = pretrained.load_weights(target, str(path))
    assert not report.missing and not report.unused
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


class Hostile:
    """An object that would create a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_bad_weights_are_refused_in_words(tmp_path):
    other, cut, listed, hostile = (tmp_path / f"{name}.pth" for name in ("other", "cut", "listed", "hostile"))
    torch.save(backbones.build("mobilenet_v2").state_dict(), other)
    cut.write_bytes(other.read_bytes()[:5000])
    torch.save([torch.zeros(1)], listed)
    torch.save({"state_dict": Hostile(str(tmp_path / "executed"))}, hostile)
    trunk = backbones.build("tiny")
    for path, words in (
        (other, "are of another network: 65 of 65 tensors"),
        (cut, "not a weights-only file"),
        (listed, "no dictionary of tensors"),
        (hostile, "not a weights-only file"),
        (tmp_path / "absent.pth", "no such file"),
    ):
        with pytest.raises(StageError, match=words):
            pretrained.load_weights(trunk, str(path))
    assert not (tmp_path / "executed").exists()


def test_unknown_names_are_refused_in_words():
    with pytest.raises(StageError, match="Unknown backbone 'resnet19'"):
        backbones.build("resnet19")
    with pytest.raises(StageError, match="No imagenet weights for backbone 'tiny'"):
        pretrained.load_weights(backbones.build("tiny"), "imagenet")


def test_published_weights_are_named_with_their_file_and_hash(tmp_path, monkeypatch):
    """torchvision takes a file that it finds in its folder as it is."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), file)
    report = pretrained.load_weights(backbones.build("resnet18"), "imagenet")
    assert report.loaded == len(backbones.build("resnet18").state_dict()) and report.unused == ("fc.weight", "fc.bias")
    assert f"weights imagenet (resnet18-f37072fd.pth, sha256 {files.sha256(file)}): " in report.line()
