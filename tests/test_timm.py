"""timm's networks as trunks, with random weights on small images: where they are cut, what they serve for, which do not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import Command
from torch import nn

from stages.actions import configure
from stages.actions.run import Run
from stages.core.errors import StageError
from stages.formulas import bas as formulas
from stages.nets import backbones, bas, hoisted, irn, pretrained, timm_trunks

timm = pytest.importorskip("timm")
# Strides and channels of the stages, and the module that F1 ends at; of ConvNeXt's four levels the first gives off its stem.
SHAPES = {
    "timm:resnet26d": ((2, 4, 8, 16, 16), (64, 256, 512, 1024, 2048), "layer3"),
    "timm:mobilenetv3_large_100": ((2, 4, 8, 16, 16), (16, 24, 40, 112, 960), "blocks.4"),
    "timm:efficientnet_lite0": ((2, 4, 8, 16, 16), (16, 24, 40, 112, 320), "blocks.4"),
    "timm:convnext_atto": ((4, 4, 8, 16, 16), (40, 40, 80, 160, 320), "stages.2"),
    "timm:densenet121": ((2, 4, 8, 16, 16), (64, 256, 512, 1024, 1024), "features.denseblock3"),
}
SMALL = ("timm:mobilenetv3_large_100", "timm:convnext_atto")


@pytest.mark.parametrize("name", SHAPES)
def test_stages_are_timms_feature_levels(name: str):
    torch.manual_seed(0)
    trunk = backbones.build(name).eval()
    assert (trunk.strides, trunk.channels, trunk.ends[trunk.split - 1]) == SHAPES[name]
    with torch.inference_mode():
        maps = trunk(torch.rand(1, 3, 75, 101))
        assert torch.equal(trunk.extract(trunk.extract(torch.ones(1, 3, 32, 32), 0, 4), 4), trunk(torch.ones(1, 3, 32, 32))[-1])
    for feature, channels, stride in zip(maps, trunk.channels, trunk.strides, strict=True):
        grid = -(-75 // stride), -(-101 // stride)
        assert feature.shape[1] == channels
        assert grid <= feature.shape[2:] <= (80 // stride, 112 // stride)  # filled up to whole steps of 16 pixels


@pytest.mark.parametrize("name", SHAPES)
def test_at_full_stride_the_maps_are_those_of_timms_extractor(name: str):
    torch.manual_seed(0)
    theirs = timm.create_model(name.removeprefix("timm:"), features_only=True).eval()
    torch.manual_seed(0)
    trunk = backbones.build(name, output_stride=32).eval()
    theirs.load_state_dict(trunk.state_dict(), strict=False)  # where the names are the same; else the same random weights
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = theirs(x)
        maps = trunk(x)[-len(expected) :]
    assert trunk.strides[-1] == 32
    for ours, own in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, own)


def windows(trunk: backbones.Backbone, stage: int) -> set[tuple[int, int]]:
    """Side and dilation of the convolutions of a stage that see more than a pixel."""
    modules = [m for module in trunk.stage_modules(stage, stage + 1) for m in module.modules()]
    return {(m.kernel_size[0], m.dilation[0]) for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1}


DILATED = {
    "timm:resnet26d": [{(3, 1)}, {(3, 1)}, {(3, 2)}, {(3, 4)}],
    # A patch that was merged by a convolution of side 2 now reads the same four pixels, RATE of the grid before it apart.
    "timm:convnext_atto": [{(7, 1)}, {(2, 1), (7, 1)}, {(2, 1), (7, 2)}, {(2, 2), (7, 4)}],
}


@pytest.mark.parametrize("name", DILATED)
def test_output_stride_8_is_made_up_for_by_dilation(name: str):
    trunk = backbones.build(name, output_stride=8, dilate=True).eval()
    assert trunk.strides[-3:] == (8, 8, 8)
    assert [windows(trunk, stage) for stage in range(1, 5)] == DILATED[name]
    with torch.inference_mode():
        assert trunk(torch.rand(1, 3, 65, 43))[-1].shape[2:] == (9, 6)


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_bas_learns_everywhere(name: str):
    torch.manual_seed(0)
    net = bas.assemble(backbones.build(name), 3).train()
    maps = net(torch.randn(2, 3, 64, 64))
    labels, chosen = torch.tensor([[1.0, 0, 0], [0, 1, 1]]), torch.tensor([0, 2])
    mask = maps.foreground[range(2), chosen][:, None]
    terms = formulas.losses(maps.class_maps, mask, net.background_logits(maps.features, mask), labels, chosen)
    total = formulas.total(terms, formulas.Weights(0.5, 1.5, 1.0))
    total.backward()
    assert maps.foreground.shape == (2, 3, 4, 4) and maps.class_maps.shape == (2, 3, 4, 4)
    assert torch.isfinite(total) and all(torch.isfinite(term) for term in terms.values())
    used = {key: p for key, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    assert not used


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_network_comes_back(name: str, tmp_path: Path):
    backbone = backbones.build(name)
    net = bas.assemble(backbone, 4).eval()
    bas.save(net, backbone, tmp_path / "net.safetensors")
    again, trunk = bas.load(tmp_path / "net.safetensors")
    x = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        for ours, read in zip(net(x)[:3], again.eval()(x)[:3], strict=True):
            assert torch.equal(ours, read)
    assert trunk.name == name


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_convolutions_of_f2_that_need_no_mask_are_found(name: str):
    torch.manual_seed(0)
    net = bas.assemble(backbones.build(name), 3).eval()
    features = net.extractor(torch.randn(1, 3, 64, 48))
    judge = hoisted.Evaluator(net.evaluator, features)
    cut = (torch.rand(2, 1, *judge.size) > 0.5).float()
    expected = net.evaluator(features * (1 - cut)).mean(dim=(2, 3))
    torch.testing.assert_close(judge(cut), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_irn_taps_every_stage(name: str, tmp_path: Path):
    net = irn.Irn(backbones.build(name)).eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, 75, 101))
    assert maps.edge_logits.shape == (1, 1, 19, 26) and maps.displacement.shape == (1, 2, 19, 26)
    irn.save(net, tmp_path / "net.safetensors")
    again = irn.load(tmp_path / "net.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())


def test_deeplab_stands_on_it():
    from stages.nets.mmseg import network

    spec = network.Network(backbone="timm:mobilenetv3_large_100", classes=("background", "cat"), crop=33, channels_last=False)
    net = network.make(spec).eval()
    with torch.inference_mode():
        assert net.decode_head.forward(net.backbone(torch.rand(1, 3, 33, 33))).shape == (1, 2, 5, 5)


def test_images_are_filled_up_and_take_the_colours_that_the_weights_want():
    entry = timm_trunks.Entry(8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    white = (1 - torch.tensor(timm_trunks.MEAN)) / torch.tensor(timm_trunks.STD)
    x = entry(white.view(1, 3, 1, 1).expand(1, 3, 9, 16))
    assert x.shape == (1, 3, 16, 16)
    torch.testing.assert_close(x[:, :, :9], torch.ones(1, 3, 9, 16))
    assert not x[:, :, 9:].any() and not entry.state_dict()
    same = timm_trunks.Entry(8, timm_trunks.MEAN, timm_trunks.STD)
    assert torch.equal(same(x), x)
    assert backbones.build("timm:efficientnet_lite0").get_submodule("entry").renormalise is False
    assert backbones.build("timm:tf_efficientnet_lite0").get_submodule("entry").renormalise is True


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet27d", "Unknown backbone 'timm:resnet27d': timm has no such model. Did you mean 'timm:resnet26d'?"),
        ("vit_tiny_patch16_224", "timm states its features at strides 16, 16, .*, not at four or more that rise to 16 or 32"),
        ("selecsls42b", "timm states its features at strides 2, 4, 8, 16, 32, 64, not at four"),
        ("swin_tiny_patch4_window7_224", "it does not run on 64 x 64 pixels"),
        ("hrnet_w18_small", "its features do not come from a plain sequence of modules"),
        ("pvt_v2_b0", "a map of 32 x 16 is no whole fraction of 64 x 64 pixels"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(name: str, words: str):
    with pytest.raises(StageError, match=words.replace("?", r"\?")) as fault:
        backbones.build(f"timm:{name}")
    assert "\n" not in str(fault.value)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StageError, match=r"'timm:resnet26d': timm is not installed\. Install it: pip install 'bas-wsss\[timm\]'"):
        backbones.build("timm:resnet26d")


def test_weights_of_timm_are_taken_under_its_names(tmp_path: Path):
    whole = timm.create_model("mobilenetv3_small_050")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    trunk = backbones.build("timm:mobilenetv3_small_050")
    report = pretrained.load_weights(trunk, str(tmp_path / "weights.pth"))
    assert report.missing == () and set(report.unused) == {
        *("conv_head.weight", "conv_head.bias", "classifier.weight", "classifier.bias")
    }
    assert torch.equal(trunk.get_parameter("conv_stem.weight"), whole.get_parameter("conv_stem.weight"))


def test_published_weights_come_from_timms_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hub's client takes a file that it finds in its folder where nothing can be fetched."""
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = "timm:mobilenetv3_small_050"
    trunk = backbones.build(name)
    with pytest.raises(
        StageError, match=f"Cannot fetch timm's weights of {name}: .*Set weights=none or give a local file"
    ) as fault:
        pretrained.load_weights(trunk, "imagenet")
    assert "\n" not in str(fault.value)
    whole = timm.create_model("mobilenetv3_small_050")
    folder = tmp_path / f"models--{whole.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    for path, text in ((folder / "refs/main", "0" * 40), (folder / "snapshots" / ("0" * 40) / "x", "")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    save_file(whole.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    report = pretrained.load_weights(trunk, "imagenet")
    assert report.missing == () and "(model.safetensors, sha256 " in report.line()
    with pytest.raises(StageError, match=f"No coco weights for backbone '{name}': none are published"):
        pretrained.load_weights(trunk, "coco")


def test_a_run_that_cannot_have_its_trunk_ends_before_its_first_stage(bas: Command, config: Path):
    words = ("--run", "r", "-q", "--set", "segment_train.backbone=timm:resnet27d")
    assert bas("run", str(config), *words).error.startswith("Unknown backbone 'timm:resnet27d'")
    assert not Path(config.parent, "r/seed_train").exists()


PROBE = "import atexit, sys; atexit.register(lambda: sys.stderr.write(str(sorted({'timm', 'torch'} & set(sys.modules))))); "


def test_status_does_not_import_timm(process: Command, tmp_path: Path):
    run = Run(tmp_path / "r", configure.resolve("demo", ["seed_train.backbone=timm:resnet26d"]))
    run.folder.mkdir()
    run.save_config()
    code = PROBE + "from bas_cli.app import main; sys.argv[0] = 'bas'; main()"
    finished = process("status", "--run", "r", "--json", code=code)
    assert finished.code == 0 and finished.err.endswith("[]"), finished.err
    assert json.loads(finished.out)


def test_the_guide_states_every_split():
    text = (Path(__file__).parent.parent / "docs" / "guide.md").read_text(encoding="utf-8")
    assert backbones.table([*backbones.TRUNKS, *SHAPES]) in text
