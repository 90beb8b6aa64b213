"""Other networks than DeepLabV2: names, what a config becomes, training and resuming, mmsegmentation's own tools."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, random_seed_network, settings, stage_context
from PIL import Image
from torch import Tensor

from stages import segment_predict, segment_train
from stages.actions.configure import SegmentConfig, resolve
from stages.actions.run import Run
from stages.core import freshness, networks
from stages.core.errors import StageError
from stages.core.runtime import Placement
from stages.formulas.segmentation import labels_at, resize_logits
from stages.nets.mmseg import catalogue, inference, network, optim, portable, rehearsal, runner, standalone, start, state
from stages.nets.mmseg.data import Material

CLASSES = ("background", "red", "blue")
SPEC = network.Network(backbone="tiny", classes=CLASSES, crop=33, freeze_bn=False)
RATES = optim.Rates(kind="adamw", lr=2e-3, head_weight=2.0, head_bias=2.0)
SETTINGS = runner.Settings(SPEC, steps=2, batch=2, crop_scales=(1.0,), rates=RATES, log_every=1, save_seconds=0.0)
CPU = Placement(torch.device("cpu"))
CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='https://example.org/trunk.pth',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[10., 20., 30.], std=[50., 50., 50.], bgr_to_rgb=False),
    backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(0, 1, 2, 3), norm_cfg=norm_cfg,
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1, num_classes=19, out_channels=19,
                     norm_cfg=norm_cfg, align_corners=True, ignore_index=0,
                     sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10),
                     loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.] * 19, loss_weight=2.)),
    auxiliary_head=[
        dict(type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1, num_classes=19, norm_cfg=norm_cfg,
             loss_decode=[dict(type='CrossEntropyLoss', class_weight=[1.] * 19, loss_weight=.4),
                          dict(type='DiceLoss', loss_weight=.1)])],
    train_cfg=dict(), test_cfg=dict(mode='slide', crop_size=(8, 8), stride=(4, 4)))
"""


def read(item: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A noisy grey image with one red or blue square, and its mask with a void rim."""
    generator = np.random.default_rng(item)
    image = generator.integers(90, 130, (40, 44, 3), dtype=np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[8:30, 10:32] = 255
    mask[9:29, 11:31] = 1 + item % 2
    image[8:30, 10:32, 2 * (item % 2)] = 250
    return image, mask


def silent(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
    """Show nothing."""


def train(folder: Path, name: str, on_step: Any = silent, **changes: Any) -> dict[str, Any]:
    settings = replace(SETTINGS, network=replace(SPEC, name=name), **changes)
    return torch.load(runner.train(settings, Material(5, read), folder, CPU, on_step), weights_only=True)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "base.py").write_text(CONFIG)
    path = tmp_path / "mine.py"
    path.write_text("_base_ = ['./base.py']\nmodel = dict(decode_head=dict(channels=12))\n")
    return path


# names


@pytest.mark.parametrize(
    ("name", "meant"),
    [("deeplabv3+", "deeplabv3"), ("segfromer", "segformer"), ("uper_net", "upernet"), ("upernet_swim", "upernet_swin")],
)
def test_a_misspelt_network_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(StageError, match=rf"Unknown network '.*Did you mean (.* or )?{meant}[ ?]"):
        networks.check(name, "none")


def test_names_files_and_weights_are_checked(tmp_path: Path) -> None:
    for name in (networks.OURS, *networks.HEADS, *networks.ALIASES, "segformer_mit-b2_8xb2-160k_ade20k-512x512"):
        networks.check(name, "none")
    networks.check("upernet", "imagenet")
    with pytest.raises(StageError, match="no such file"):
        networks.check(str(tmp_path / "absent.py"), "none")
    with pytest.raises(StageError, match=r"No imagenet weights for network segformer.*weights=none"):
        networks.check("segformer", "imagenet")


def test_a_config_counts_with_what_it_builds_on(config_file: Path) -> None:
    assert list(networks.files(str(config_file))) == [config_file, config_file.parent / "base.py"]
    assert list(networks.files("segformer")) == [] and list(networks.files(networks.OURS)) == []


def test_the_default_is_in_no_fingerprint_and_a_config_counts_by_its_content(
    config: Path, config_file: Path, tmp_path: Path
) -> None:
    def wanted(*assignments: str) -> dict[str, Any]:
        return Run(tmp_path / "run", resolve(str(config), assignments)).wanted("segment_train")

    assert "segment" not in wanted()["config"] and "network" not in wanted()
    assert wanted("segment.network=upernet")["config"]["segment"] == {"network": "upernet"}
    before = wanted(f"segment.network={config_file}")
    (tmp_path / "base.py").write_text(CONFIG + "x = 1\n")
    after = wanted(f"segment.network={config_file}")
    assert freshness.differences(before, after) == ["the config of the network changed"]
    assert freshness.differences(wanted(), wanted("segment.network=fcn")) == ["segment.network: the default → fcn"]


def test_the_command_refuses_what_it_cannot_train(bas: Command, config: Path) -> None:
    words = ("segment", "train", str(config), *settings("segment.network=upernett"))
    assert "Did you mean upernet" in bas(*words).error
    words = ("segment", "train", str(config), *settings("segment.network=segformer"))
    assert "No imagenet weights for network segformer" in bas(*words).error


# what a config becomes


def parts(value: Any) -> list[dict[str, Any]]:
    """Every dictionary within VALUE."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [*([value] if isinstance(value, dict) else []), *(part for one in inner for part in parts(one))]


def test_every_shipped_base_config_has_our_classes_and_fetches_nothing() -> None:
    other = ("san_vit-b16", "vpd_sd")  # of another kind than a trunk and a head
    names = [name for name, path in networks.shipped().items() if path.parent.name == "models" and name not in other]
    assert len(names) > 40
    for name in names:
        model = catalogue.resolve(name, "tiny", 8, len(CLASSES), "balanced", 33)
        counted = [part["num_classes"] for part in parts([model["decode_head"]]) if "num_classes" in part]
        assert counted and set(counted) == {3}, name
        assert not [part for part in parts(model) if part.get("pretrained") or "SyncBN" in str(part.get("type"))], name
        assert not [part for part in parts(model) if part.get("type") == "Pretrained"], name
        assert model["test_cfg"]["mode"] == "whole"


def test_a_config_of_ones_own_is_brought_to_our_classes(config_file: Path) -> None:
    model = catalogue.resolve(str(config_file), "tiny", 8, 3, "balanced", 33)
    head, (first,) = model["decode_head"], model["auxiliary_head"]
    assert head["channels"] == 12 and head["num_classes"] == 3 and head["ignore_index"] == 255 and "out_channels" not in head
    assert head["loss_decode"] == {"type": "CrossEntropyLoss", "loss_weight": 2.0}  # its sampler weighs pixels
    assert first["loss_decode"] == [
        {"type": "BalancedCrossEntropy", "loss_weight": 0.4},
        {"type": "DiceLoss", "loss_weight": 0.1},
    ]
    heads = catalogue.resolve("stdc", "tiny", 8, 3, "balanced", 33)["auxiliary_head"]
    assert [one["num_classes"] for one in heads] == [3, 3, 2]  # the last tells boundaries, not classes
    assert "pretrained" not in model and "init_cfg" not in model["backbone"]
    assert model["data_preprocessor"]["mean"] == [10, 20, 30] and model["data_preprocessor"]["rgb_to_bgr"]


def test_a_network_for_bgr_sees_bgr(config_file: Path) -> None:
    net = network.make(network.described(replace(SPEC, name=str(config_file))))
    pixels = torch.tensor([[60.0, 120.0, 110.0]]).view(1, 3, 1, 1)
    assert inference.Colours(net)(pixels).flatten().tolist() == pytest.approx([2.0, 2.0, 0.6])


def test_a_file_that_holds_no_network_is_named(tmp_path: Path) -> None:
    for text, why in (("model = 3\n", "no model"), ("raise OSError('cannot')\n", "cannot"), ("model = (", "")):
        (tmp_path / "odd.py").write_text(text)
        with pytest.raises(StageError, match=rf"Cannot use network .*odd\.py.*{why}"):
            network.described(replace(SPEC, name=str(tmp_path / "odd.py")))


def test_what_cannot_be_trained_here_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"mmsegmentation has no part 'mmdet"):
        rehearsal.rehearse(replace(SPEC, name="mask2former_r50_8xb2-160k_ade20k-512x512"), "none")
    (tmp_path / "base.py").write_text(CONFIG)
    (tmp_path / "odd.py").write_text("_base_ = ['base.py']\nmodel = dict(decode_head=dict(in_channels=5))\n")
    with pytest.raises(StageError, match=r"odd\.py cannot be trained here"):
        rehearsal.rehearse(replace(SPEC, name=str(tmp_path / "odd.py")), "none")


# training


@pytest.mark.parametrize("name", ["deeplabv3plus", "upernet", "segformer"])
def test_a_network_learns_is_loaded_and_accepted_by_mmsegmentation(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, float]] = []
    train(tmp_path, name, lambda step, losses, factor: rows.append({k: float(v) for k, v in losses.items()}))
    assert len(rows) == 2 and {"loss", "loss_decode"} <= rows[0].keys() and not any("acc" in key for key in rows[0])
    assert ("loss_aux" in rows[0]) == (name != "segformer")
    net = network.load(tmp_path / runner.CHECKPOINT, "cpu")
    assert network.classes(net) == CLASSES and not net.with_auxiliary_head
    assert_same_labels(tmp_path, net)


def test_another_network_is_asked_for_the_mean_of_probabilities_over_scales_and_mirror_images() -> None:
    net = network.make(replace(SPEC, name="fcn")).eval()
    image = read(0)[0]
    views = [(pixels, scale) for pixels in (image, image[:, ::-1].copy()) for scale in (1.0, 0.5)]
    each = [inference.grid_logits(net, pixels, (scale,), flip=False)[None] for pixels, scale in views]
    upright = [*each[:2], *(logits.flip(-1) for logits in each[2:])]
    probabilities = [resize_logits(logits, each[0].shape[-2:]).softmax(1) for logits in upright]
    merged = inference.grid_logits(net, image, (0.5, 1.0), flip=True)
    torch.testing.assert_close(merged.exp(), torch.stack(probabilities).mean(0)[0])


def test_deeplabv2_is_accepted_by_mmsegmentation(tmp_path: Path) -> None:
    train(tmp_path, networks.OURS)
    assert_same_labels(tmp_path, network.load(tmp_path / runner.CHECKPOINT, "cpu"), SPEC.scales)


def assert_same_labels(folder: Path, net: network.Segmentor, scales: tuple[float, ...] = (1.0,)) -> None:
    """mmsegmentation's own inference by the config beside the checkpoint gives the labels that ours gives."""
    from mmseg.apis import inference_model, init_model

    theirs = init_model(str(folder / standalone.NAME), str(folder / runner.CHECKPOINT), device="cpu")
    assert theirs.dataset_meta is not None and tuple(theirs.dataset_meta["classes"]) == CLASSES
    image = read(3)[0]
    ours = labels_at(inference.grid_logits(net, image, scales, flip=False), image.shape[:2])
    found: Any = inference_model(theirs, image[:, :, ::-1].copy())
    assert torch.equal(found.pred_sem_seg.data[0].to(torch.uint8), ours)


def test_mmsegmentation_tests_the_network_on_a_folder(tmp_path: Path, config_file: Path) -> None:
    from mmengine.config import Config
    from mmengine.runner import Runner

    train(tmp_path / "net", str(config_file))
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for item in range(2):
        image, mask = read(item)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{item}.jpg", quality=100)
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{item}.png")
    config = Config.fromfile(tmp_path / "net" / standalone.NAME)
    config.merge_from_dict({"test_dataloader.dataset.data_root": str(tmp_path / "data"), "work_dir": str(tmp_path / "work")})
    config["load_from"] = str(tmp_path / "net" / runner.CHECKPOINT)
    config["experiment_name"] = "networks"
    scores = Runner.from_cfg(config).test()
    assert 0 <= scores["mIoU"] <= 100
    text = (tmp_path / "net" / standalone.NAME).read_text()
    assert "BalancedCrossEntropy" not in text and "stages.nets.mmseg.network" not in text  # it needs nothing of ours
    ast.parse(text)


def test_another_network_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """SegFormer drops paths and features at random, so that the generators count."""

    def stop(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    unbroken = train(tmp_path / "unbroken", "segformer", steps=3)["state_dict"]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", "segformer", stop, steps=3)
    assert state.kept_step(tmp_path / "broken") == 1
    resumed = train(tmp_path / "broken", "segformer", steps=3)["state_dict"]
    assert unbroken.keys() == resumed.keys() and all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


def test_frozen_batch_norm_of_the_trunk_stays_and_the_head_learns(tmp_path: Path) -> None:
    frozen = replace(SETTINGS, network=replace(SPEC, name="deeplabv3plus", freeze_bn=True))
    trained = torch.load(runner.train(frozen, Material(5, read), tmp_path, CPU, silent), weights_only=True)["state_dict"]
    assert trained["backbone.bn1.running_mean"].abs().max() == 0 and trained["backbone.bn1.weight"].min() == 1
    assert trained["decode_head.bottleneck.bn.running_mean"].abs().max() > 0


def test_one_image_at_a_time_is_refused_where_a_head_pools(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"one image at a time.*segment_train\.accumulate"):
        train(tmp_path, "pspnet", batch=1)


def test_the_stages_train_predict_and_say_which_network(tmp_path: Path) -> None:
    shared = {"eval": SimpleNamespace(subset=None), "segment": SegmentConfig(network="deeplabv3plus")}
    ctx = stage_context(tmp_path, "segment_train", shared, val=2)
    (tmp_path / "mask_choice" / "masks").mkdir(parents=True)
    random_seed_network(tmp_path)
    for sample in ctx.dataset.split("train"):
        mask = ctx.dataset.mask(sample)
        (tmp_path / "mask_choice" / "masks" / f"{sample.id}.png").write_bytes(mask.read_bytes())
    recipe = segment_train.Config(backbone="tiny", weights="seed", steps=2, batch=2, crop=65, crop_scales=(1.0,), freeze_bn=False)
    made = segment_train.run(recipe, ctx)
    assert made.notes["network"] == "deeplabv3plus" and made.notes["loaded"].startswith("weights seed")
    assert {"train/loss", "train/loss/decode", "train/loss/aux"} <= made.metrics.keys()
    seen = stage_context(tmp_path, "segment_predict", shared, val=2)
    predicted = segment_predict.run(segment_predict.Config(crf=False, scales=(1.0, 0.5), tile=64), seen)
    assert "val/network/plain/mIoU" in predicted.metrics


# weights and checkpoints


def test_weights_of_a_trunk_or_a_network_fill_what_fits(tmp_path: Path) -> None:
    spec = network.described(replace(SPEC, name="segformer"))
    source = network.make(replace(network.described(replace(spec, classes=(*CLASSES, "green"), model=None))))
    torch.save(source.backbone.state_dict(), tmp_path / "trunk.pth")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "whole.pth")
    net = network.make(spec)
    report = start.fill_network(net, str(tmp_path / "trunk.pth"))
    assert report.loaded == len(source.backbone.state_dict()) and not report.missing and not report.taught
    report = start.fill_network(net, str(tmp_path / "whole.pth"))
    assert set(report.missing) == {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"} and report.taught
    assert torch.equal(net.backbone.state_dict()["layers.0.0.norm.bias"], source.backbone.state_dict()["layers.0.0.norm.bias"])
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(StageError, match="another network"):
        start.fill_network(net, str(tmp_path / "other.pth"))


def test_a_checkpoint_that_would_import_something_is_refused(tmp_path: Path) -> None:
    kept = train(tmp_path, "fcn")
    kept["meta"]["network"]["model"]["decode_head"]["type"] = "os.system"
    torch.save(kept, tmp_path / "bad.pth")
    with pytest.raises(StageError, match=r"no part 'os\.system'"):
        network.load(tmp_path / "bad.pth", "cpu")


@pytest.mark.parametrize("name", ["deeplabv3plus", "segformer"])
def test_an_export_of_another_network_agrees(tmp_path: Path, name: str) -> None:
    spec = network.described(replace(SPEC, name=name))
    torch.manual_seed(0)
    network.save(tmp_path / "net.pth", network.make(spec), spec, {})
    net = network.load(tmp_path / "net.pth", "cpu")
    portable.write(net, "torchscript", tmp_path / "net.ts")
    look, classes = portable.read(tmp_path / "net.ts")
    assert classes == CLASSES
    for height, width in ((40, 56), (97, 33)):
        batch = torch.rand(1, 3, height, width) * 255
        with torch.no_grad():
            expected = portable.Portable(net).eval()(batch)
        assert torch.allclose(look(batch), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("height", "width"), [(7, 12), (1, 5), (6, 3)])
def test_bins_are_adaptive_average_pooling(height: int, width: int) -> None:
    maps = torch.rand(2, 3, height, width)
    for count in (2, 3, 6):
        assert torch.allclose(portable.Bins(count)(maps), torch.nn.functional.adaptive_avg_pool2d(maps, count), atol=1e-6)
