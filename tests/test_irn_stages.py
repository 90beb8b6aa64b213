"""The three refinement stages on a few generated images: labels, training, masks; and what an interruption costs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Counter, blurred_seeds, random_seed_network, stage_context
from PIL import Image

from stages import irn_labels, irn_masks, irn_train
from stages.core import training
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.core.stage import Context
from stages.data import seedfile, sheets, views
from stages.data.images import read_grey, read_image, read_mask
from stages.formulas import confidence, crf, metrics, seeds
from stages.nets import irn

TRAIN = irn_train.Config(backbone="tiny", weights="seed", crop=80, batch=2, epochs=4, radius=5, centre_images=2)


def context(folder: Path, stage: str, reporter: Any = None, workers: int = 0) -> Context:
    shared = {"refine": SimpleNamespace(seed="bas", power=1.0), "eval": SimpleNamespace(subset=None)}
    return stage_context(folder, stage, shared, val=1, reporter=reporter, workers=workers)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose seed network is random and whose seeds are blurred, shrunken true masks."""
    folder = tmp_path_factory.mktemp("run")
    ctx = context(folder, "irn_labels")
    random_seed_network(folder)
    blurred_seeds(ctx)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared run."""
    return shutil.copytree(prepared, tmp_path / "run")


@pytest.fixture(scope="module")
def labelled(prepared: Path) -> Path:
    """The prepared run with its affinity labels."""
    pytest.importorskip("pydensecrf")
    irn_labels.run(irn_labels.Config(), context(prepared, "irn_labels"))
    return prepared


def test_labels_hold_present_classes_background_and_void(labelled: Path) -> None:
    ctx = context(labelled, "irn_labels")
    for sample in ctx.dataset.split("train"):
        labels = read_mask(irn_labels.label_path(ctx.out, sample.id))
        assert labels.shape == (80, 80)
        assert set(np.unique(labels)) <= {0, 255, *(index + 1 for index in sample.labels)}
        truth = read_mask(ctx.dataset.mask(sample))
        sure = labels != 255
        assert (labels[sure] == truth[sure]).mean() > 0.8
    assert (ctx.out / "labels.png").is_file()


def test_image_specific_labels_need_thresholds_of_every_image(folder: Path) -> None:
    shutil.rmtree(folder / "irn_labels", ignore_errors=True)  # of the tests before
    shutil.rmtree(folder / "irn_labels", ignore_errors=True)
    config = irn_labels.Config(levels="image-specific")
    with pytest.raises(StageError, match=r"6 of 6 seeds have none.*seed_infer\.search=train"):
        irn_labels.run(config, context(folder, "irn_labels"))
    assert not (folder / "irn_labels" / "labels").exists()


def test_labels_do_not_depend_on_the_number_of_workers(labelled: Path, folder: Path) -> None:
    shutil.rmtree(folder / "irn_labels", ignore_errors=True)
    outputs = irn_labels.run(irn_labels.Config(), context(folder, "irn_labels", workers=2))
    names = [file for file in outputs.files if file.suffix == ".png"]
    assert len(names) == 7
    for name in names:
        assert (folder / "irn_labels" / name).read_bytes() == (labelled / "irn_labels" / name).read_bytes()


def test_only_missing_labels_are_made(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    files = sorted((folder / "irn_labels" / "labels").glob("*.png"))
    stamps = {file: file.stat().st_mtime_ns for file in files[1:]}
    content = files[0].read_bytes()
    files[0].unlink()
    irn_labels.run(irn_labels.Config(), context(folder, "irn_labels"))
    assert files[0].read_bytes() == content
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == stamps


def test_a_class_without_confident_pixels_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pydensecrf")
    ctx = context(folder, "irn_labels")
    shutil.rmtree(ctx.out, ignore_errors=True)
    lost = ctx.dataset.split("train")[0].labels[0]
    for path in (folder / "seed_infer" / "seeds").glob("*.npz"):
        seed = seedfile.read(path)
        kept = (seed.classes != lost)[:, None, None]
        maps = {source: [scale * kept for scale in scales] for source, scales in seed.maps.items()}
        seedfile.write(path, seedfile.Seed(seed.classes, seed.size, maps))
    with caplog.at_level(logging.WARNING):
        outputs = irn_labels.run(irn_labels.Config(), ctx)
    assert f"no confident pixel of {ctx.dataset.classes[lost]}" in caplog.text
    assert outputs.notes["classes_without_confident_pixels"] == [ctx.dataset.classes[lost]]
    assert sum(outputs.metrics.values()) == pytest.approx(100, abs=0.05)
    own, void = ({name: row[kind] for name, row in outputs.notes["shares_by_class"].items()} for kind in ("own", "void"))
    assert own.keys() == void.keys() and own[ctx.dataset.classes[lost]] == 0
    carried = [sample for sample in ctx.dataset.split("train") if lost in sample.labels]
    labels = np.concatenate([read_mask(irn_labels.label_path(ctx.out, sample.id)).ravel() for sample in carried])
    assert void[ctx.dataset.classes[lost]] == pytest.approx(100 * (labels == 255).mean(), abs=0.01)
    other = next(index for index in carried[0].labels + ctx.dataset.split("train")[1].labels if index != lost)
    assert own[ctx.dataset.classes[other]] > 0


def test_image_specific_levels_move_with_the_threshold() -> None:
    config = irn_labels.Config(levels="image-specific", fg_offset=0.1, bg_offset=0.2)
    job = irn_labels.Job(config, "bas", Path(), Path())
    maps = {"bas": [np.linspace(0, 1, 256, dtype=np.float16).reshape(1, 16, 16)]}
    shares = []
    for threshold in (0.3, 0.6):
        seed = seedfile.Seed(np.array([2]), (256, 256), maps, {"bas": np.array([threshold], np.float32)})
        shares.append([float((labels > 0).float().mean()) for labels in job.hard(seed)])
    np.testing.assert_allclose(shares, [[0.6, 0.9], [0.3, 0.6]], atol=0.04)


def test_an_interrupted_training_ends_with_the_same_bits(labelled: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    whole = context(folder, "irn_train")
    outputs = irn_train.run(TRAIN, whole)
    expected = (whole.out / "network.safetensors").read_bytes()
    assert outputs.metrics["train/loss/total"] > 0
    shutil.rmtree(whole.out)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        irn_train.run(TRAIN, context(folder, "irn_train", Counter(stop_after=1)))
    assert not (whole.out / "network.safetensors").exists()
    assert torch.load(whole.out / "state.pth", weights_only=True)["step"] == 10  # the step at hand was finished and kept
    irn_train.run(TRAIN, whole)
    assert (whole.out / "network.safetensors").read_bytes() == expected


class Deadly(Counter):
    """A progress display that kills its process at the first advance, with no time to tidy up."""

    def advance(self, steps: int = 1, **values: float) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: Path) -> None:
    torch.set_num_threads(1)
    training.SAVE_SECONDS = 0.0
    irn_train.run(TRAIN, context(folder, "irn_train", Deadly()))


def test_a_killed_training_ends_with_the_same_bits(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    ctx = context(folder, "irn_train")
    irn_train.run(TRAIN, ctx)
    expected = (ctx.out / "network.safetensors").read_bytes()
    shutil.rmtree(ctx.out)
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(folder,))
    process.start()
    process.join(timeout=240)
    assert process.exitcode == -signal.SIGKILL
    assert torch.load(ctx.out / "state.pth", weights_only=True)["step"] == 9 and not (ctx.out / "network.safetensors").exists()
    irn_train.run(TRAIN, ctx)
    assert (ctx.out / "network.safetensors").read_bytes() == expected


def test_boundaries_are_the_same_without_displacements(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    ctx, nets = context(folder, "irn_train"), []
    for displacement in (True, False):
        outputs = irn_train.run(replace(TRAIN, displacement=displacement), ctx)
        assert ("train/loss/fg_displacement" in outputs.metrics) == displacement
        assert Path("irn.png") in outputs.files
        assert Image.open(ctx.out / "irn.png").width == (3 + displacement) * (sheets.TILE + 6) + 6
        nets.append(irn.load(ctx.out / "network.safetensors"))
        shutil.rmtree(ctx.out)
    for one, other in zip(nets[0].branches()[0], nets[1].branches()[0], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(nets[0].branches()[1][0], nets[1].branches()[1][0])


def test_training_and_masks_without_any_true_mask(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    context(folder, "irn_train")
    shutil.rmtree(folder / "data" / "SegmentationClass")
    irn_train.run(TRAIN, context(folder, "irn_train"))
    outputs = irn_masks.run(irn_masks.Config(), context(folder, "irn_masks"))
    assert outputs.metrics == {}
    assert len(list((folder / "irn_masks" / "masks").glob("*.png"))) == 6


def test_scores_are_those_of_the_masks_on_disk(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    irn_train.run(TRAIN, context(folder, "irn_train"))
    ctx = context(folder, "irn_masks")
    outputs = irn_masks.run(irn_masks.Config(exp_times=2), ctx)
    matrix = np.zeros((6, 6), np.int64)
    for sample in ctx.dataset.split("train"):
        mask = read_mask(irn_masks.mask_path(ctx.out, sample.id))
        assert set(np.unique(mask)) <= {0, *(index + 1 for index in sample.labels)}
        matrix += metrics.confusion(read_mask(ctx.dataset.mask(sample)), mask, 6)
    assert outputs.metrics["train/masks/fixed/mIoU"] == round(100 * metrics.miou(matrix), 2)
    assert outputs.metrics["train/masks/fixed/threshold"] == 0.22
    assert outputs.metrics["train/masks/oracle/mIoU"] >= outputs.metrics["train/masks/fixed/mIoU"]
    assert set(outputs.classes) == {"train/masks/oracle/mIoU", "train/masks/fixed/mIoU"}
    assert (ctx.out / "masks.png").is_file()


def test_masks_of_a_batch_are_those_of_one_image_after_another(labelled: Path, folder: Path, monkeypatch: Any) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    irn_train.run(TRAIN, context(folder, "irn_train"))
    ctx, masks = context(folder, "irn_masks"), []
    for at_once in (1, 4):
        monkeypatch.setattr(type(ctx.runtime), "walks_at_once", at_once)
        irn_masks.run(irn_masks.Config(exp_times=4), ctx)
        masks.append([read_mask(irn_masks.mask_path(ctx.out, sample.id)) for sample in ctx.dataset.split("train")])
        shutil.rmtree(ctx.out)
    assert len(masks[0]) == 6
    for one, other in zip(*masks, strict=True):
        assert (one != other).mean() < 1e-3


def test_masks_go_on_after_an_interruption(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    irn_train.run(TRAIN, context(folder, "irn_train"))
    ctx = context(folder, "irn_masks", Counter(stop_after=3))
    with pytest.raises(KeyboardInterrupt):
        irn_masks.run(irn_masks.Config(), ctx)
    made = {file: file.stat().st_mtime_ns for file in (ctx.out / "masks").glob("*.png")}
    assert len(made) == 3
    again = irn_masks.run(irn_masks.Config(), context(folder, "irn_masks"))
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert len([file for file in again.files if file.parent.name == "masks"]) == 6


def test_settings_that_cannot_work_are_refused(folder: Path) -> None:
    with pytest.raises(StageError, match="crop 64 is too small"):
        irn_train.run(irn_train.Config(crop=64, radius=10), context(folder, "irn_train"))
    with pytest.raises(StageError, match="is no range"):
        irn_train.run(irn_train.Config(scales=(1.5, 0.5)), context(folder, "irn_train"))
    with pytest.raises(StageError, match="weights cannot be none"):
        irn_train.run(irn_train.Config(backbone="tiny", weights="none"), context(folder, "irn_train"))


def test_a_small_image_is_padded_with_mean_colour_and_void() -> None:
    generator = torch.Generator().manual_seed(0)
    image, labels = torch.ones(3, 4, 9), torch.ones(4, 9, dtype=torch.uint8)
    out, marks = views.crop_with_padding(image, labels, 6, generator)
    assert out.shape == (3, 6, 6)
    assert (out[0] == 1).sum() == 24
    assert torch.equal(out[0] == 1, marks == 1)
    assert (marks == 255).sum() == 12


def test_image_and_labels_are_rescaled_alike() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 10:] = 255
    labels = (image[..., 0] > 0).astype(np.uint8)
    bigger, marks = views.rescale(image, labels, 1.5)
    assert bigger.shape == (15, 30, 3)
    np.testing.assert_array_equal(bigger[..., 0] > 127, marks == 1)


def test_confidence_of_pixels_is_the_distance_to_another_label() -> None:
    """Alone: .9 and .3 of a threshold of .2; beside a runner-up of .6; below the threshold."""
    maps = torch.tensor([[[0.9, 0.3, 0.9, 0.05]], [[0.0, 0.1, 0.6, 0.1]]])
    found = confidence.margins(maps, 0.2)
    np.testing.assert_allclose(found, [[0.7 / 0.8, 0.1 / 0.8, 0.3 / 0.8, 0.1 / 0.2]], rtol=1e-5)
    assert confidence.margins(maps[:1], 0.2)[0, 2] == pytest.approx(0.7 / 0.8)


def test_confidence_of_an_image_is_how_little_its_mask_hangs_on_the_threshold() -> None:
    maps = torch.tensor([[[0.9, 0.28, 0.22, 0.0]], [[0.0, 0.0, 0.0, 0.4]]])
    assert confidence.stability(maps, 0.25, 0.05) == pytest.approx((1 / 3 + 1) / 2)
    assert confidence.stability(maps[:1], 0.25, 0.05) == pytest.approx(1 / 3)
    assert confidence.stability(torch.zeros(1, 2, 2), 0.25, 0.05) == 0
    np.testing.assert_allclose(seeds.over_maximum(3 * maps), maps / 0.9)


def test_masks_after_a_crf_and_how_sure_they_are(labelled: Path, folder: Path) -> None:
    shutil.copytree(labelled / "irn_labels", folder / "irn_labels", dirs_exist_ok=True)
    irn_train.run(TRAIN, context(folder, "irn_train"))
    ctx, config = context(folder, "irn_masks"), irn_masks.Config(exp_times=2, crf=True)
    outputs = irn_masks.run(config, ctx)
    told, matrix = read_json(ctx.out / "confidence.json"), np.zeros((6, 6), np.int64)
    assert set(map(str, outputs.files)) >= {"confidence.json", "masks.png"} and len(list(outputs.files)) == 6 * 4 + 2
    for sample in ctx.dataset.split("train"):
        plain, mask = map(read_mask, (irn_masks.walk_path(ctx.out, sample.id, config), irn_masks.mask_path(ctx.out, sample.id)))
        after = crf.refine_masks(read_image(sample.image), [plain], sample.labels)[0]
        np.testing.assert_array_equal(mask, after)
        matrix += metrics.confusion(read_mask(ctx.dataset.mask(sample)), mask, 6)
        sure = read_grey(irn_masks.confidence_path(ctx.out, sample.id))
        assert sure.shape == (20, 20) and sure.dtype == np.uint8 and sure.max() == 255
        assert 0 <= told[sample.id] <= 1
    assert outputs.metrics["train/masks/crf/mIoU"] == round(100 * metrics.miou(matrix), 2)
    kept = {path: path.read_bytes() for path in ctx.out.glob("*/*")}
    samples = ctx.dataset.split("train")
    made = (irn_masks.mask_path, irn_masks.confidence_path, irn_masks.walked_path)
    for path, lost in zip(made, samples, strict=False):
        path(ctx.out, lost.id).unlink()
    irn_masks.walk_path(ctx.out, samples[3].id, config).unlink()
    assert irn_masks.run(config, context(folder, "irn_masks", workers=2)).metrics == outputs.metrics
    assert {path: path.read_bytes() for path in ctx.out.glob("*/*")} == kept  # any output that is lost is made again
