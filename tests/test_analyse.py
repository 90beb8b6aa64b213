"""Analyses of a run: masks eroded and dilated by hand, F2's answers that can be computed on paper, and the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, call, settings
from PIL import Image
from torch import nn

from stages.actions import analyse
from stages.data import plots
from stages.formulas import activation
from stages.nets.bas import BasNet

SQUARE = np.zeros((5, 5), bool)
SQUARE[1:4, 1:4] = True


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Path:
    """A run whose seeds are made; not to be changed."""
    home = tmp_path_factory.mktemp("finished")
    (home / "own.yaml").write_text("{}")
    words = ("seed", "train", str(home / "own.yaml"), "--run", "run", "--data", str(generated), *settings("seed_train.epochs=6"))
    assert call(home, *words, "-q").code == 0
    done = call(home, "seed", "infer", "--run", "run", "-q")
    assert done.code == 0, done.err
    return home / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that the test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


# --- masks ---


def test_distance_to_the_outline():
    distance = activation.signed_distance(SQUARE)
    assert distance[2].tolist() == [-1, 1, 2, 1, -1]
    assert distance[0, 0] == pytest.approx(-np.sqrt(2))
    assert activation.signed_distance(np.ones((3, 3), bool)).tolist() == [[1, 1, 1], [1, 2, 1], [1, 1, 1]]
    with pytest.raises(ValueError, match="no outline"):
        activation.signed_distance(~SQUARE & SQUARE)


def test_a_square_is_eroded_and_dilated_until_it_has_the_areas():
    """Of 9 pixels: nothing, the centre, itself, itself and its 12 neighbours, all 25; what lies beyond is the full image."""
    masks, areas = activation.erode_and_dilate(SQUARE, ratios=(0.0, 0.1, 1.0, 1.1, 2.2, 2.7, 5.0))
    np.testing.assert_allclose(areas, np.array([0, 1, 9, 21, 25]) / 9)
    assert masks.sum((1, 2)).tolist() == [0, 1, 9, 21, 25]
    assert masks[2].tolist() == SQUARE.tolist() and masks[1, 2, 2] and not masks[3, 0, 0]


def test_masks_on_the_features_are_covered_shares():
    assert activation.on_features(SQUARE[None, :4, :4], (2, 2)).tolist() == [[[[0.25, 0.5], [0.5, 1.0]]]]


# --- curves ---


def test_activation_is_relative_to_the_whole_image():
    relative = activation.relative_activation(torch.tensor([-1.0, 2.0, 5.0]), torch.tensor(4.0))
    assert relative.tolist() == [0, 0.5, 1.25]


def test_cross_entropy_leaves_other_present_classes_out():
    logits = torch.tensor([[0.0, 0.0, 9.0], [torch.log(torch.tensor(3.0)), 0.0, 9.0]])
    values = activation.cross_entropy(logits, 0, present=(0, 2))
    torch.testing.assert_close(values, torch.log(torch.tensor([2.0, 4 / 3])))


def test_curves_end_where_the_image_does():
    values = activation.at_ratios(np.array([0.0, 1.0]), np.array([0.0, 2.0]), ratios=(0, 0.5, 2, 3))
    np.testing.assert_allclose(values, [0, 0.25, 1, np.nan])


def test_spread_over_objects():
    found = activation.spread(np.array([[0.0, 1.0, np.nan], [2.0, 1.0, np.nan], [4.0, np.nan, np.nan]]))
    assert found["mean"] == [2.0, 1.0, None] and found["median"] == [2.0, 1.0, None]
    assert found["q1"] == [1.0, 1.0, None] and found["q3"] == [3.0, 1.0, None]
    assert found["std"] == [pytest.approx(np.sqrt(8 / 3), abs=1e-5), 0.0, None] and found["objects"] == [3, 2, 0]


@pytest.mark.parametrize(("values", "at"), [([0, 1, 2, 2], 1.8), ([4, 2, 1, 1], 1.7), ([0, 5, None, None], 0.9), ([1, 1], 0.0)])
def test_a_curve_settles_after_nine_tenths_of_its_way(values: list[float | None], at: float):
    assert activation.settles_at(values, ratios=(0, 1, 2, 3)[: len(values)]) == pytest.approx(at)


def test_the_most_typical_object_lies_nearest_to_the_medians():
    curves = np.array([[[0.0, 0.0]], [[0.0, 1.0]], [[0.0, 90.0]]])
    assert activation.most_typical(curves) == 1


def test_a_linear_network_answers_with_areas():
    """F2 sums what the mask keeps of even features: a quarter of the image holds a quarter of the activation, r times it
    r/4, and the background the rest. Class 1 scores 0 throughout, so that the cross-entropy is log(1 + e^(-4 r/4))."""
    evaluator = nn.Conv2d(1, 2, 1, bias=False)
    evaluator.weight.data = torch.tensor([4.0, 0.0]).reshape(2, 1, 1, 1)
    net = BasNet(nn.Identity(), evaluator, nn.Identity())
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    with torch.inference_mode():
        found = analyse.curves(net, torch.ones(1, 1, 16, 16), mask, 0, (0,))
    ratios = np.array(activation.RATIOS)
    np.testing.assert_allclose(found[0], ratios / 4, atol=1e-5)
    np.testing.assert_allclose(found[2], 1 - ratios / 4, atol=1e-5)
    np.testing.assert_allclose(found[1], np.log1p(np.exp(-ratios)), atol=0.02)  # linear between the masks that there are


# --- the commands ---


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_sizes_of_a_run(bas: Command, run: Path):
    found = bas("analyse", "size", "--run", str(run), "--json").json
    assert json.loads((run / "analysis/size.json").read_text()) == found
    details = json.loads((run / "seed_infer/scores.json").read_text())["sources"]
    assert found["threshold"] == "oracle" and set(found["sources"]) == set(details)
    for source, rows in found["sources"].items():
        objects = details[source]["objects"]
        assert sum(row["objects"] for row in rows) == len(objects["share"]) >= 8
        inside = [iou for share, iou in zip(objects["share"], objects["oracle"], strict=True) if 10 < share <= 20]
        row = next(row for row in rows if row["from"] == 10)
        assert row["objects"] == len(inside) > 0 and row["IoU"] == pytest.approx(np.mean(inside), abs=0.02)
    assert size_of(run / "analysis/size.png")[0] > 1000
    shown = bas("analyse", "size", "--run", str(run), "--threshold", "fixed")
    assert shown.out.startswith("mean IoU of objects by size, fixed thresholds (percent)\nsize") and "\n10-20" in shown.out


def test_activation_of_a_run(bas: Command, run: Path):
    done = bas("analyse", "activation", "--run", str(run), "--images", "4", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert json.loads((run / "analysis/activation.json").read_text()) == found
    assert found["objects"] + sum(found["skipped"].values()) >= 4 and found["ratios"] == list(activation.RATIOS)
    for name in analyse.CURVES:
        assert found["curves"][name]["objects"][:11] == [found["objects"]] * 11  # up to the true mask every object has a value
    assert found["curves"]["background_activation"]["mean"][0] == pytest.approx(1, abs=1e-3)  # the empty mask hides nothing
    assert size_of(run / "analysis/activation.png")[0] > 1000
    shown = bas("analyse", "activation", "--run", str(run), "--images", "4")
    assert shown.out.startswith("median (quartiles) of ") and "masks 4/4" in shown.err and "\n90 % at" in shown.out


def test_eval_shows_the_curves(bas: Command, run: Path):
    found = bas("eval", "--run", str(run), "--curves", "--json").json
    assert found == {"seed_infer": json.loads((run / "seed_infer/scores.json").read_text())}
    shown = bas("eval", "--run", str(run), "--curves").out
    assert "train/bas by global threshold (percent)\nthreshold" in shown and "\n0.35" in shown
    assert "train/cam by class (percent)" in shown and "precision" in shown and "\nbackground" in shown


def test_analyses_without_what_they_need(bas: Command, run: Path, generated: Path, tmp_path: Path):
    for name in ("size", "activation"):
        assert bas("analyse", name).error.startswith("No run is named: ")
    (run / "seed_infer/scores.json").unlink()
    for words in (("analyse", "size"), ("eval", "--curves")):
        assert bas(*words, "--run", str(run)).error.startswith(f"No scores of seeds or masks in {run}: none of its 2 finished")
    assert bas("eval", "--recompute", "--curves", "--run", str(run), "-q").code == 0
    bare = Path(shutil.copytree(generated, tmp_path / "bare", ignore=shutil.ignore_patterns("SegmentationClass")))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(generated), str(bare)))
    assert bas("analyse", "activation", "--run", str(run)).error.startswith("Cannot erode and dilate true masks: not every")
    (run / "seed_train/manifest.json").unlink()
    assert bas("analyse", "activation", "--run", str(run)).error.startswith(f"No seed network in {run}: seed_train has not")


def test_activation_of_a_stale_network_and_of_masks_of_another_size(bas: Command, run: Path, devkit: Path, generated: Path):
    text = (run / "config.yaml").read_text().replace(str(generated), str(devkit))
    (run / "config.yaml").write_text(text.replace("lr: 0.005", "lr: 0.5", 1))
    words = ("analyse", "activation", "--run", str(run), "--images", "2")
    stale = "warning: the seed network is stale: seed_train.lr: 0.005 → 0.5. Its curves are those of the network that is there"
    assert stale in bas(*words).err.splitlines()
    for mask in (devkit / "SegmentationClass").iterdir():
        with Image.open(mask) as whole:
            half = whole.resize((32, 64), Image.Resampling.NEAREST)
        half.save(mask)
    assert bas(*words).error.startswith("Cannot score an image: its mask has 32x64 pixels, the image 64x64. Replace the mask")


def test_the_plot_of_no_objects_is_empty(tmp_path: Path):
    rows = [{"from": 0.0, "to": 100.0, "objects": 0, "IoU": None}]
    plots.sizes(tmp_path / "size.png", "oracle", {"bas": {"sizes": rows, "objects": {"share": [], "oracle": []}}})
    with Image.open(tmp_path / "size.png") as drawn:
        assert drawn.width > 100
