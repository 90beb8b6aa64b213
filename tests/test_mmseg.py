"""Segmentation by mmsegmentation's Runner: training, resuming to the same bits, losses, the two operators."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.core.errors import StageError
from stages.core.runtime import Placement
from stages.formulas.segmentation import (
    balanced_cross_entropy,
    cross_entropy,
    multiscale_maximum,
    multiscale_mean,
    poly_factor,
    resize_labels,
    resize_logits,
)
from stages.nets.mmseg import inference, network, ops, optim, runner, state
from stages.nets.mmseg.data import Crops, Material, StepSampler, resize

CLASSES = ("background", "red", "blue")
SPEC = network.Network(backbone="tiny", classes=CLASSES, crop=33, freeze_bn=False, channels_last=False)
RATES = optim.Rates(lr=2e-3)
SETTINGS = runner.Settings(SPEC, steps=6, batch=4, crop_scales=(0.5, 1.0), rates=RATES, log_every=1, save_seconds=0.0)
CPU = Placement(torch.device("cpu"))


def read(item: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A noisy grey image with one red or blue square, and its mask with a void rim."""
    generator = np.random.default_rng(item)
    image = generator.integers(90, 130, (48, 40 + 4 * (item % 3), 3), dtype=np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    top, left = generator.integers(2, 18, 2)
    mask[top : top + 20, left : left + 20] = 255
    mask[top + 1 : top + 19, left + 1 : left + 19] = 1 + item % 2
    image[top : top + 20, left : left + 20, 2 * (item % 2)] = 250
    return image, mask


def silent(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
    """Show nothing."""


def train(folder: Path, settings: runner.Settings = SETTINGS, on_step: Any = silent) -> dict[str, Tensor]:
    checkpoint = runner.train(settings, Material(5, read), folder, CPU, on_step)
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def killed_at_step_four(step: int, losses: Mapping[str, Tensor], factor: float) -> None:
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: Path) -> None:
    torch.set_num_threads(1)
    train(folder, on_step=killed_at_step_four)


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_training_learns_and_predicts(tmp_path: Path) -> None:
    rows: list[tuple[int, float, float]] = []
    settings = replace(SETTINGS, steps=40, save_seconds=60.0, log_every=5)
    train(tmp_path, settings, lambda step, losses, factor: rows.append((step, float(losses["loss"]), factor)))
    assert [row[0] for row in rows] == list(range(5, 41, 5))
    assert rows[-1][1] < 0.5 * rows[0][1]
    assert [row[2] for row in rows[:3]] == [1.0, 1.0, poly_factor(10, 40, 0.9)]
    net = network.load(tmp_path / runner.CHECKPOINT, "cpu")
    image, mask = read(7)
    logits = resize_logits(inference.grid_logits(net, image, (0.5, 0.75, 1.0), flip=True)[None], mask.shape)[0]
    assert logits.shape == (3, *mask.shape)
    label = logits.argmax(0).numpy()
    assert (label == mask)[mask == 2].mean() > 0.6 and (label == mask)[mask == 0].mean() > 0.6


def test_runner_prints_nothing_and_logs_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    method = multiprocessing.get_start_method(allow_none=True)
    train(tmp_path, replace(SETTINGS, steps=1))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert (tmp_path / "mmengine" / "mmengine.log").stat().st_size > 0
    assert multiprocessing.get_start_method(allow_none=True) == method


def test_resume_after_sigkill_gives_the_same_bits(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    unbroken = train(tmp_path / "unbroken")
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(tmp_path / "broken",))
    process.start()
    process.join(timeout=240)
    assert process.exitcode == -signal.SIGKILL
    assert state.kept_step(tmp_path / "broken") == 3
    assert not (tmp_path / "broken" / runner.CHECKPOINT).exists()
    resumed = train(tmp_path / "broken")
    torch.set_num_threads(threads)
    assert equal(unbroken, resumed)


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = train(tmp_path)
    steps: list[int] = []
    again = train(tmp_path, on_step=lambda step, losses, factor: steps.append(step))
    assert steps == [] and equal(first, again)


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    # Without void pixels a batch's mean is the mean over its halves; batch-norm would differ, hence frozen.
    def labelled(item: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        image, mask = read(item)
        return image, np.where(mask == 255, 0, mask).astype(np.uint8)

    whole = replace(SETTINGS, network=replace(SPEC, freeze_bn=True, loss="plain"), steps=3, crop_scales=(1.0,))
    nets = []
    for accumulate in (1, 2):
        settings = replace(whole, accumulate=accumulate)
        checkpoint = runner.train(settings, Material(5, labelled), tmp_path / str(accumulate), CPU, silent)
        nets.append(torch.load(checkpoint, weights_only=True)["state_dict"])
        assert state.kept_step(tmp_path / str(accumulate)) == 3
    assert all(torch.allclose(nets[0][key], nets[1][key], atol=1e-6) for key in nets[0])


def test_frozen_batch_norm_keeps_statistics_and_affine(tmp_path: Path) -> None:
    settings = replace(SETTINGS, network=replace(SPEC, freeze_bn=True), steps=2)
    trained = train(tmp_path, settings)
    torch.manual_seed(settings.seed)
    fresh = network.make(settings.network).state_dict()
    assert all(torch.equal(trained[k], fresh[k]) for k in fresh if ".bn" in k)
    assert not torch.equal(trained["backbone.conv1.weight"], fresh["backbone.conv1.weight"])
    groups = {group["name"] for group in optim.parameter_groups(network.make(settings.network), RATES)}
    assert groups == {"trunk", "head_weight", "head_bias"}


def test_bfloat16_and_channels_last_follow_float32(tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
    for precision, rows in losses.items():
        settings = replace(SETTINGS, steps=3, precision=precision, network=replace(SPEC, channels_last=precision[0] == "b"))
        train(
            tmp_path / precision,
            settings,
            lambda step, values, factor, rows=rows: rows.append(float(values["loss"])),
        )
    assert np.allclose(losses["32-true"], losses["bf16-mixed"], rtol=0.05)


def test_initial_weights_fill_a_new_network_only(tmp_path: Path) -> None:
    calls: list[str] = []

    def zero_stem(net: nn.Module) -> None:
        calls.append("called")
        nn.init.zeros_(net.get_parameter("backbone.conv1.weight"))

    settings = replace(SETTINGS, steps=1, rates=optim.Rates(lr=0.0))
    checkpoint = runner.train(settings, Material(5, read), tmp_path, CPU, silent, zero_stem)
    runner.train(settings, Material(5, read), tmp_path, CPU, silent, zero_stem)
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert calls == ["called"] and not weights["backbone.conv1.weight"].any()


def test_divergence_names_the_images_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    material = Material(5, read, name=lambda item: f"pair {item}")
    told = r" is not finite at step \d: training diverged on images pair \d, .*segment_train\.loss=balanced"
    with pytest.raises(StageError, match=told):
        runner.train(replace(SETTINGS, rates=optim.Rates(lr=1e30)), material, tmp_path, CPU, silent)
    kept = state.read(tmp_path)
    assert kept is None or all(bool(value.isfinite().all()) for value in kept["net"].values())


def test_impossible_settings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="multiple of 3"):
        train(tmp_path, replace(SETTINGS, accumulate=3))
    with pytest.raises(StageError, match="no pair"):
        runner.train(SETTINGS, Material(0, read), tmp_path, CPU, silent)
    with pytest.raises(StageError, match="plain, balanced"):
        network.make(replace(SPEC, loss="focal"))
    with pytest.raises(StageError, match="Unknown backbone"):
        network.make(replace(SPEC, backbone="resnet1"))


def test_a_file_of_another_kind_is_no_network(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for name in ("other.pth", "text.pth", "absent.pth"):
        with pytest.raises(StageError, match=name):
            network.load(tmp_path / name, "cpu")


# losses, by hand


def uneven() -> tuple[Tensor, Tensor]:
    """Two classes, logits 0: every pixel costs log 2, but one foreground pixel, sure and right, about 0."""
    logits = torch.zeros(1, 2, 1, 6)
    logits[0, :, 0, 4] = torch.tensor([-50.0, 50.0])
    return logits, torch.tensor([[[0, 0, 0, 1, 1, 255]]])


def test_plain_cross_entropy_by_hand() -> None:
    logits, labels = uneven()
    assert float(cross_entropy(logits, labels)) == pytest.approx(4 * math.log(2) / 5)


def test_balanced_cross_entropy_by_hand() -> None:
    logits, labels = uneven()
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(math.log(2) + math.log(2) / 2)


def test_balanced_cross_entropy_without_foreground_or_label() -> None:
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    background = balanced_cross_entropy(logits, torch.tensor([[[0, 0, 255]]]))
    assert background.item() == pytest.approx(math.log(2))
    void = balanced_cross_entropy(logits, torch.full((1, 1, 3), 255)) + cross_entropy(logits, torch.full((1, 1, 3), 255))
    void.backward()
    assert void.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_balanced_cross_entropy_gradcheck() -> None:
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1], [2, 255]], [[0, 0], [1, 1]]])
    assert torch.autograd.gradcheck(lambda x: balanced_cross_entropy(x, labels), logits)


def test_multiscale_maximum_by_hand() -> None:
    fine = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    coarse = torch.tensor([[[[2.5]]]])
    assert multiscale_maximum([fine, coarse]).tolist() == [[[[2.5, 2.5], [3.0, 4.0]]]]


def test_multiscale_mean_by_hand() -> None:
    fine = torch.tensor([[[[0.9, 0.6]], [[0.1, 0.4]]]]).log() + 7  # probabilities do not know the 7
    coarse = torch.tensor([[[[0.2]], [[0.8]]]]).log()
    mean = torch.tensor([[[[0.55, 0.4]], [[0.45, 0.6]]]])
    torch.testing.assert_close(multiscale_mean([fine, coarse]).exp(), mean)
    assert multiscale_mean([fine]) is fine


def test_the_mean_of_probabilities_survives_what_softmax_rounds_to_zero() -> None:
    sure = torch.tensor([[[[0.0]], [[500.0]]]])
    torch.testing.assert_close(multiscale_mean([sure, sure]), torch.tensor([[[[-500.0]], [[0.0]]]]))


def test_labels_shrink_to_the_nearest_pixel() -> None:
    labels = torch.tensor([[[0, 1, 2, 255]]])
    assert resize_labels(labels, (1, 2)).tolist() == [[[1, 255]]]


def test_poly_changes_every_few_steps() -> None:
    factors = [poly_factor(step, 20, 0.9, 10) for step in (0, 9, 10, 19, 20)]
    assert factors == [1.0, 1.0, 0.5**0.9, 0.5**0.9, 0.0]


# crops and order


def test_crops_pad_with_void_and_depend_on_the_generator_alone() -> None:
    image, mask = read(0)
    crops = Crops(64, (0.5, 1.0))
    first, again = (crops(image, mask, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first[0].shape == (64, 64, 3) and first[1].shape == (64, 64)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    padded = first[1] == 255
    assert (first[0][padded] == (124, 116, 104)).all(axis=1).mean() > 0.9


def test_resize_keeps_labels_whole() -> None:
    image, mask = resize(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 2, np.uint8), 1.5)
    assert image.shape == (6, 9, 3) and mask.shape == (6, 9) and set(np.unique(mask)) == {2}


def test_every_epoch_visits_every_item_once() -> None:
    keys = [key for step in StepSampler(5, 2, 0, 5, seed=1) for key in step]
    assert sorted(keys) == [(epoch, item) for epoch in range(2) for item in range(5)]


def test_a_sampler_that_starts_late_yields_the_same_steps() -> None:
    whole, late = list(StepSampler(5, 4, 0, 6, seed=1)), list(StepSampler(5, 4, 4, 6, seed=1))
    assert late == whole[4:] and len(StepSampler(5, 4, 4, 6, seed=1)) == 2


def test_processes_share_a_batch() -> None:
    whole = list(StepSampler(5, 4, 0, 3, seed=1))
    parts = [list(StepSampler(5, 4, 0, 3, seed=1, rank=rank, world=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(step) for step in whole]


def test_generators_come_back() -> None:
    kept = state.generators()
    first = (torch.rand(3), np.random.rand(3))
    state.restore_generators(kept)
    assert torch.equal(first[0], torch.rand(3)) and np.array_equal(first[1], np.random.rand(3))


# the two operators of mmcv


def test_stand_in_offers_two_operators_only() -> None:
    if ops.compiled():
        pytest.skip("full mmcv is installed")
    import mmcv.ops

    assert mmcv.ops.point_sample is ops.point_sample
    with pytest.raises(ModuleNotFoundError, match="mmcv-lite"):
        _ = mmcv.ops.RoIAlign
    assert not hasattr(mmcv.ops, "__wrapped__")


def test_point_sample_reads_pixel_centres_and_between() -> None:
    map_ = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]])
    assert torch.allclose(ops.point_sample(map_, points), torch.tensor([[[1.0, 3.0, 4.0, 5.0]]]))
    grid = points.reshape(1, 2, 2, 2)
    assert torch.allclose(ops.point_sample(map_, grid), torch.tensor([[[[1.0, 3.0], [4.0, 5.0]]]]))


def test_sigmoid_focal_loss_by_hand() -> None:
    logits, target = torch.zeros(2, 2), torch.tensor([0, 2])  # 2 = background for both classes
    loss = ops.sigmoid_focal_loss(logits, target, gamma=2.0, alpha=0.25, reduction="none")
    side, unit = 0.25, 0.25 * math.log(2)  # p_t = 1/2: (1 - p_t)^2 = 1/4
    wanted = torch.tensor([[side * unit, 0.75 * unit], [0.75 * unit, 0.75 * unit]])
    assert torch.allclose(loss, wanted)
    assert torch.isclose(ops.sigmoid_focal_loss(logits, target), wanted.sum() / 2)
    with pytest.raises(ValueError, match="median"):
        ops.sigmoid_focal_loss(logits, target, reduction="median")
