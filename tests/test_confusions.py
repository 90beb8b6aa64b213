"""Confusion matrices as files and numbers, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from bas_cli import numbers
from stages.core import manifest
from stages.data import confusions
from stages.data.scoring import Scores

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
SEEN = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], np.uint8)


@pytest.fixture
def tally() -> confusions.Tally:
    made = confusions.Tally(("cat", "dog"))
    made.add(TRUTH, SEEN)
    return made


def test_numbers_by_hand(tally: confusions.Tally) -> None:
    assert tally.pixels.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    table = tally.by_class()
    assert table["IoU"] == {"background": 3 / 5, "cat": 2 / 4}
    assert table["precision"] == {"background": 3 / 4, "cat": 2 / 3} and table["recall"] == table["precision"]
    scores = Scores()
    tally.enter(scores, "val/network/plain", {"mIoU-1": [1]})
    assert scores.metrics["val/network/plain/mIoU"] == 55.0 and scores.metrics["val/network/plain/mIoU-1"] == 50.0
    assert (
        list(scores.metrics)[-1] == "val/network/plain/boundary-F" and [key for key in scores.metrics if "mIoU" in key][2:] == []
    )
    assert list(scores.classes) == ["val/network/plain/mIoU"]  # tables of IoU alone


def test_files_hold_the_same(tally: confusions.Tally, tmp_path: Path) -> None:
    confusions.keep(tmp_path, "val", {"plain": tally, "crf": tally})
    document = json.loads((tmp_path / "confusion.json").read_text())
    assert document["labels"] == ["background", "cat", "dog"] and document["split"] == "val"
    assert document["kinds"]["crf"]["pixels"] == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert document["kinds"]["plain"]["classes"]["IoU"] == {"background": 60.0, "cat": 50.0}
    lines = (tmp_path / "confusion_plain.csv").read_text().splitlines()
    assert lines == ["true \\ predicted,background,cat,dog", "background,3,1,0", "cat,1,2,0", "dog,0,0,0"]
    assert np.isnan(tally.shares()[2]).all() and tally.shares()[1].tolist() == pytest.approx([100 / 3, 200 / 3, 0])
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.width > picture.height > 100


def test_the_mean_iou_is_what_a_line_shows() -> None:
    metrics = {"val/network/plain/boundary-F": 40.0, "val/network/plain/mIoU": 60.0, "val/network/plain/mIoU-6": 70.0}
    assert numbers.headline(metrics, "sum") == "val/network mIoU-6: plain 70.0"


def test_eval_shows_the_largest_confusions(bas: Command, tally: confusions.Tally, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "segment_predict").mkdir(parents=True)
    (folder / "config.yaml").write_text(config.read_text())
    assert "No confusion matrix" in bas("eval", "--confusion", "--run", str(folder)).error
    confusions.keep(folder / "segment_predict", "val", {"plain": tally})
    manifest.write(folder / "segment_predict", {}, [], {"metrics": {}, "classes": {}, "notes": {}})
    shown = bas("eval", "--confusion", "--run", str(folder))
    words = shown.out.split()
    assert shown.code == 0 and "cat background 33.3 background cat 25.0" in " ".join(words)
    assert words[-5:] == ["dog", *"––––"] and words[words.index("dog") - 5 :][:4] == ["cat", "50.0", "66.7", "66.7"]
    document = bas("eval", "--confusion", "--json", "--run", str(folder)).json
    assert document["segment_predict"]["kinds"]["plain"]["pixels"][1] == [1, 2, 0]
