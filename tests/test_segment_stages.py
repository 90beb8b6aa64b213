"""The two segmentation stages on a few generated images, the pseudo masks being the true ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Counter, random_seed_network, stage_context

from stages import segment_predict, segment_retrain, segment_train, self_masks
from stages.actions.evaluate import is_taught
from stages.core import curves, lists
from stages.core.config import validate
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.core.stage import Context
from stages.data import dataset as datasets
from stages.data import maskfiles
from stages.data.images import read_grey, read_mask, write_mask
from stages.formulas import metrics
from stages.nets.mmseg import inference, learn, network, pairs, runner, state

TRAIN = segment_train.Config(
    backbone="tiny", weights="seed", steps=12, batch=4, crop=65, crop_scales=(1.0,), lr=2e-3, freeze_bn=False
)
SUBSET = {"mIoU-2": [0, 1]}


def context(folder: Path, stage: str, reporter: Any = None, workers: int = 0) -> Context:
    shared = {"eval": SimpleNamespace(subset=SUBSET), "segment_train": TRAIN, "segment_predict": segment_predict.Config()}
    return stage_context(folder, stage, shared, val=3, reporter=reporter, workers=workers)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a random seed network and the true masks in the place of the pseudo masks."""
    folder = tmp_path_factory.mktemp("run")
    ctx = context(folder, "segment_train")
    (folder / "mask_choice" / "masks").mkdir(parents=True)
    random_seed_network(folder)
    for sample in ctx.dataset.split("train"):
        write_mask(folder / "mask_choice" / "masks" / f"{sample.id}.png", read_mask(ctx.dataset.mask(sample)))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared run."""
    return shutil.copytree(prepared, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the prepared run with its segmentation network."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("trained") / "run")
    segment_train.run(TRAIN, context(folder, "segment_train"))
    return folder


def test_a_head_that_masks_have_taught_is_warned_of_and_told(folder: Path, trained: Path, caplog: pytest.LogCaptureFixture):
    weights = str(trained / "segment_train" / "network.pth")
    made = segment_train.run(replace(TRAIN, steps=1, weights=weights), context(folder, "segment_train"))
    assert is_taught(made.notes) and f"weights {weights}: the head is taken over too" in caplog.text


def test_training_writes_a_network_curves_and_notes(trained: Path, folder: Path) -> None:
    outputs = segment_train.run(TRAIN, context(folder, "segment_train"))
    assert {str(file) for file in outputs.files} == {"network.pth", "mmseg_config.py", "curves.png"}
    assert all((folder / "segment_train" / file).is_file() for file in outputs.files)
    assert set(outputs.metrics) == {"train/loss", "train/loss/x1", "train/loss/x0.5", "train/loss/x0.75", "train/loss/max"}
    assert outputs.notes["supervision"] == "pseudo" and outputs.notes["loaded"].startswith("weights seed")
    assert curves.read(folder / "segment_train")[-1]["step"] == 12
    twice = [torch.load(path / "segment_train" / "network.pth", weights_only=True) for path in (folder, trained)]
    assert all(torch.equal(twice[0]["state_dict"][key], value) for key, value in twice[1]["state_dict"].items())
    assert twice[0]["meta"]["dataset_meta"]["classes"][0] == "background"


@pytest.mark.parametrize(("weights", "frozen"), [("none", True), ("none", False), ("seed", True)])
def test_batch_norm_that_is_kept_at_random_values_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture, weights: str, frozen: bool
) -> None:
    recipe = replace(TRAIN, steps=1, batch=1, crop=33, scales=(1.0,), weights=weights, freeze_bn=frozen)
    segment_train.run(recipe, context(folder, "segment_train"))
    assert ("segment_train.freeze_bn=false" in caplog.text) is (weights == "none" and frozen)


def test_training_reads_no_true_mask(folder: Path) -> None:
    ctx = context(folder, "segment_train")
    shutil.rmtree(ctx.dataset.reader.root / "SegmentationClass")
    segment_train.run(replace(TRAIN, steps=1), ctx)
    assert (ctx.out / "network.pth").is_file()
    with pytest.raises(StageError, match="supervision=pseudo"):
        segment_train.run(replace(TRAIN, supervision="full"), ctx)


def test_an_image_without_any_class_is_learnt_as_background(folder: Path) -> None:
    ctx = context(folder, "segment_train")
    shown = ctx.dataset.split("train")[0]
    image, labels = pairs.Pair(shown, None).read()
    assert labels.shape == image.shape[:2] and not labels.any()
    rows = (ctx.dataset.reader.root / "image_labels.txt").read_text().replace(f"{shown.id} ", f"{shown.id}\n# ", 1)
    (ctx.dataset.reader.root / "image_labels.txt").write_text(rows)
    keeping = datasets.open_dataset(replace(ctx.dataset.config, negatives="keep"), folder)
    outputs = segment_train.run(replace(TRAIN, steps=1), replace(ctx, dataset=keeping))
    assert outputs.notes["negatives"] == 1 and outputs.notes["images"] == 6


def test_training_goes_on_after_an_interruption(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = learn.settings

    def eager(config: segment_train.Config, ctx: Context) -> runner.Settings:
        values = vars(settings(config, ctx)) | {"save_seconds": 0.0, "log_every": 5}
        return runner.Settings(**values)

    monkeypatch.setattr(learn, "settings", eager)
    with pytest.raises(KeyboardInterrupt):
        segment_train.run(TRAIN, context(folder, "segment_train", Counter(stop_after=1)))
    assert state.kept_step(folder / "segment_train") == 4
    segment_train.run(TRAIN, context(folder, "segment_train"))
    nets = [torch.load(path / "segment_train" / "network.pth", weights_only=True) for path in (folder, trained)]
    assert all(torch.equal(nets[0]["state_dict"][key], value) for key, value in nets[1]["state_dict"].items())
    steps = [row["step"] for row in curves.read(folder / "segment_train")]
    assert steps == [5, 10, 12]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mask_of_another_size_is_named(folder: Path, workers: int) -> None:
    ctx = context(folder, "segment_train", workers=workers)
    path = sorted((folder / "mask_choice" / "masks").glob("*.png"))[0]
    write_mask(path, np.zeros((10, 12), np.uint8))
    with pytest.raises(StageError, match=rf"{path.name}.*12x10 beside"):
        segment_train.run(TRAIN, ctx)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(folder: Path, workers: int) -> None:
    ctx = context(folder, "segment_train", workers=workers)
    path = ctx.dataset.split("train")[0].image
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StageError, match=rf"{path.name}"):
        segment_train.run(TRAIN, ctx)


def test_weights_of_another_trunk_are_refused(folder: Path) -> None:
    with pytest.raises(StageError, match="another network"):
        segment_train.run(replace(TRAIN, backbone="resnet18"), context(folder, "segment_train"))


def test_prediction_is_scored_with_and_without_crf(trained: Path) -> None:
    pytest.importorskip("pydensecrf")
    ctx = context(trained, "segment_predict", workers=2)
    outputs = segment_predict.run(segment_predict.Config(), ctx)
    samples = ctx.dataset.split("val")
    assert len(list(outputs.files)) == 2 * len(samples) + 1
    for kind in ("plain", "crf"):
        matrix = sum(
            metrics.confusion(
                read_mask(ctx.dataset.mask(s)), read_mask(ctx.out / kind / f"{s.id}.png"), len(ctx.dataset.classes) + 1
            )
            for s in samples
        )
        assert outputs.metrics[f"val/network/{kind}/mIoU"] == pytest.approx(100 * metrics.miou(matrix), abs=0.01)
        assert outputs.metrics[f"val/network/{kind}/mIoU-2"] == pytest.approx(100 * metrics.miou(matrix, [0, 1]), abs=0.01)
        assert "background" in outputs.classes[f"val/network/{kind}/mIoU"]
    assert not (ctx.out / "logits").exists() and (ctx.out / "predictions.png").is_file()


def test_prediction_goes_on_where_it_stopped(trained: Path, folder: Path) -> None:
    pytest.importorskip("pydensecrf")
    shutil.copytree(trained / "segment_train", folder / "segment_train")
    config = segment_predict.Config()
    with pytest.raises(KeyboardInterrupt):
        segment_predict.run(config, context(folder, "segment_predict", Counter(stop_after=2)))
    out = folder / "segment_predict"
    first = sorted((out / "plain").glob("*.png"))
    stamps = [path.stat().st_mtime_ns for path in first]
    assert len(first) == 2
    segment_predict.run(config, context(folder, "segment_predict"))
    assert [path.stat().st_mtime_ns for path in first] == stamps
    assert len(list((out / "crf").glob("*.png"))) == 3
    crf = {path.name: path.read_bytes() for path in (out / "crf").glob("*.png")}
    segment_predict.run(config, context(folder, "segment_predict"))
    assert {path.name: path.read_bytes() for path in (out / "crf").glob("*.png")} == crf


def test_prediction_without_crf_or_truth(trained: Path, folder: Path) -> None:
    shutil.copytree(trained / "segment_train", folder / "segment_train")
    ctx = context(folder, "segment_predict")
    shutil.rmtree(ctx.dataset.reader.root / "SegmentationClass")
    outputs = segment_predict.run(segment_predict.Config(crf=False, flip=False, scales=(1.0,)), ctx)
    assert not outputs.metrics and len(list(outputs.files)) == 4 and not (ctx.out / "crf").exists()


def test_flip_predicts_a_mirrored_image_mirrored(trained: Path) -> None:
    net = network.load(trained / "segment_train" / "network.pth", "cpu")
    image = np.random.default_rng(0).integers(0, 255, (33, 41, 3), dtype=np.uint8)
    plain = inference.grid_logits(net, image, (0.5, 1.0), flip=True)
    mirrored = inference.grid_logits(net, image[:, ::-1].copy(), (0.5, 1.0), flip=True)
    assert torch.allclose(plain, mirrored.flip(-1), atol=1e-4)


@pytest.mark.parametrize("crf", [False, True])
def test_own_masks_hold_to_the_labels_and_leave_corrections_alone(trained: Path, folder: Path, crf: bool) -> None:
    shutil.copytree(trained / "segment_train", folder / "segment_train")
    ctx = context(folder, "self_masks", workers=2)
    first, *others = ctx.dataset.split("train")
    choice = ctx.input("mask_choice")
    write_json(choice / maskfiles.CHOICE, {first.id: "corrections/monday", **{s.id: "refined" for s in others}})
    outputs = self_masks.run(self_masks.Config(crf=crf), ctx)
    assert len(list(outputs.files)) == 6 + 5 + 1 and outputs.notes == {"images": 6, "corrected": 1}
    truth = read_mask(maskfiles.mask_path(choice, first.id))  # the chosen masks are the true ones here
    assert np.array_equal(read_mask(maskfiles.mask_path(ctx.out, first.id)), truth)
    assert not maskfiles.confidence_path(ctx.out, first.id).exists()
    for sample in others:
        mask = read_mask(maskfiles.mask_path(ctx.out, sample.id))
        assert mask.shape == (80, 80) and set(np.unique(mask)) <= {0, *(index + 1 for index in sample.labels)}
        assert read_grey(maskfiles.confidence_path(ctx.out, sample.id)).shape == (20, 20)
    assert f"train/self/{'crf' if crf else 'plain'}/mIoU-2" in outputs.metrics


def test_own_masks_go_on_where_they_stopped(trained: Path, folder: Path) -> None:
    shutil.copytree(trained / "segment_train", folder / "segment_train")
    with pytest.raises(KeyboardInterrupt):
        self_masks.run(self_masks.Config(), context(folder, "self_masks", Counter(stop_after=2)))
    out = folder / "self_masks"
    done = {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    assert len(done) == 2
    self_masks.run(self_masks.Config(), context(folder, "self_masks"))
    assert len(list((out / "masks").iterdir())) == 6 and all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_a_second_training_learns_from_the_own_masks_and_begins_as_the_first(trained: Path, folder: Path) -> None:
    shutil.copytree(trained / "segment_train", folder / "segment_train")
    ctx = context(folder, "self_masks")
    self_masks.run(self_masks.Config(crf=False), ctx)
    made = segment_retrain.run(segment_retrain.Config(void=0.3), context(folder, "segment_retrain"))
    assert made.notes["masks"] == "its own after segment_train" and made.notes["void_below"]["background"] > 0
    for sample in ctx.dataset.split("train"):  # with the masks of the first training it is that training again
        shutil.copy(maskfiles.mask_path(ctx.input("mask_choice"), sample.id), maskfiles.mask_path(ctx.out, sample.id))
    shutil.rmtree(folder / "segment_retrain")
    segment_retrain.run(segment_retrain.Config(), context(folder, "segment_retrain"))
    nets = [
        torch.load(path / "network.pth", weights_only=True) for path in (folder / "segment_retrain", trained / "segment_train")
    ]
    assert all(torch.equal(nets[0]["state_dict"][key], value) for key, value in nets[1]["state_dict"].items())


def test_settings_are_strict() -> None:
    with pytest.raises(StageError, match=r"segment_train\.loss"):
        validate(segment_train.Config, {"loss": "focal"}, "segment_train")
    with pytest.raises(StageError, match="Did you mean 'crop'"):
        validate(segment_train.Config, {"crops": 3}, "segment_train")


def test_another_list_has_a_folder_of_its_own_and_is_scored_where_it_can_be(trained: Path, folder: Path) -> None:
    shutil.copytree(trained / "segment_train", folder / "segment_train")
    ctx = context(folder, "segment_predict@few")
    (folder / "data/ImageSets/Segmentation/few.txt").write_text("\n".join(s.id for s in ctx.dataset.split("train")[:2]))
    config = segment_predict.Config(crf=False, flip=False, scales=(1.0,))
    outputs = segment_predict.run(config, ctx)
    pictures = {path.relative_to(ctx.out) for path in (folder / "segment_predict@few").rglob("*.png")}
    assert pictures == {*outputs.files, Path("confusion.png")}
    assert {key.rpartition("/")[0] for key in outputs.metrics} == {"few/network/plain"} and not (
        folder / "segment_predict"
    ).exists()
    assert lists.read_by(segment_predict, ctx.name) == ("few",) and lists.read_by(segment_predict, "segment_predict") == ("val",)
