"""The whole pipeline by the command: outputs, keys, and the same result after a kill in every stage."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import call
from PIL import Image

import configs
from bas_cli import progress
from benchmarks.children import fork, wait
from stages import PIPELINE
from stages.core import curves, training
from stages.core.config import merge
from stages.core.files import sha256
from stages.nets.mmseg import learn

RECIPE = {
    "data": {"generate": {"train": 12, "val": 3, "size": 64}},
    "runtime": {"device": "cpu", "precision": "32-true", "workers": 0},
    "eval": {"subset": {"mIoU-2": [0, 1]}},
    "seed_train": {"resize": 64, "crop": 48, "batch": 4, "epochs": 8, "warmup_epochs": 3},
    "seed_infer": {"scales": [1.0, 0.5], "thresholds": 4},
    "irn_labels": {"iterations": 2},
    "irn_train": {"crop": 48, "radius": 5, "batch": 4, "epochs": 4, "centre_images": 2},
    "irn_masks": {"exp_times": 2},
    "mask_choice": {"images": 6, "iterations": 2},
    "segment_train": {"steps": 12, "batch": 4, "crop": 48},
    "segment_predict": {"scales": [1.0], "crf_iterations": 2},
}
MAPS = [f"train/{source}/{kind}" for source in ("bas", "cam", "sum") for kind in ("oracle", "fixed", "image-specific")]
MASKS = ["train/masks/oracle", "train/masks/fixed"]
CHOICE = ["train/choice/masks", *(f"train/compared/{kind}" for kind in ("masks", "seeds", "better"))]
VAL = ["val/network/plain", "val/network/crf"]


def recipe(folder: Path) -> str:
    """The shipped demo with few images and steps, as a configuration in FOLDER."""
    path = folder / "small.yaml"
    path.write_text(json.dumps(merge(configs.load("demo"), RECIPE)))
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `bas run` went through once."""
    folder = tmp_path_factory.mktemp("home")
    done = call(folder, "run", recipe(folder))
    assert done.code == 0, done.err
    assert not done.out and all(f"{name:<16} done in" in done.err for name in PIPELINE)
    return folder


def manifests(folder: Path) -> dict[str, Any]:
    return {name: json.loads((folder / name / "manifest.json").read_text()) for name in PIPELINE}


def test_every_stage_says_what_it_made(home: Path):
    run = home / "runs/small"
    for name, manifest in manifests(run).items():
        assert manifest["stage"] == name and manifest["device"] == "cpu" and manifest["seed"] == 0
        assert manifest["seconds"] >= 0 and manifest["peak_memory_mb"] > 0 and len(manifest["digest"]) == 32
        assert manifest["outputs"]["count"] == len(manifest["outputs"]["files"]) > 0
        assert all((run / name / file).stat().st_size == size for file, size in manifest["outputs"]["files"].items())
    assert (run / "config.yaml").is_file() and list((run / "logs").iterdir())


def test_sheets_curves_and_tensorboard_are_there(home: Path):
    for name, sheet in (("seed_infer", "seeds"), ("irn_masks", "masks"), ("segment_predict", "predictions")):
        with Image.open(home / f"runs/small/{name}/{sheet}.png") as image:
            assert min(image.size) > 180
    for name in ("seed_train", "irn_train", "segment_train"):
        assert curves.read(home / f"runs/small/{name}")
        assert list((home / f"runs/small/{name}/tensorboard").iterdir())


def test_the_model_card_says_what_the_network_is_made_of(home: Path):
    folder = home / "runs/small/segment_train"
    card = (folder / "MODEL_CARD.md").read_text()
    assert sha256(folder / "network.pth") in card and "zebra, leopard, fox, panda, mandrill" in card
    assert "- 12 training images of list `train`" in card and "image-level labels from" in card and "by hand" not in card
    assert "masks made from them: seeds of source `" in card and "`, refined by IRN" in card and "segment retrain" not in card
    assert "- segment_train: seed: " in card and "3 images of list `val`, scales 1, mirrored too" in card
    score = manifests(home / "runs/small")["segment_predict"]["metrics"]["val/network/crf/mIoU"]
    assert f"| val/network/crf/mIoU | {score:.2f} |" in card


@pytest.mark.parametrize(
    ("where", "count"),
    [("irn_masks/masks", 12), ("mask_choice/masks", 12), ("segment_predict/plain", 3), ("segment_predict/crf", 3)],
)
def test_masks_and_predictions_are_palette_images_of_their_images(home: Path, where: str, count: int):
    paths = sorted((home / "runs/small" / where).iterdir())
    assert len(paths) == count
    for path in paths:
        with Image.open(path) as mask:
            assert (mask.mode, mask.size) == ("P", (64, 64)) and mask.getpalette()[3:6] == [128, 0, 0]
            assert np.unique(np.asarray(mask)).max() <= 5


def test_the_keys_of_eval(home: Path):
    document = call(home, "eval", "--json").json
    assert set(document) == {"stages", "classes"} and list(document["stages"]) == list(PIPELINE)
    stages = document["stages"]
    scored = {"seed_infer": MAPS, "irn_masks": MASKS, "mask_choice": CHOICE, "segment_predict": VAL}
    for name, keys in scored.items():
        expected = {f"{key}/{metric}" for key in keys for metric in ("mIoU", "mIoU-2")}
        assert {key for key in stages[name] if "mIoU" in key.split("/")[-1]} == expected
        assert all(0 <= stages[name][key] <= 100 for key in expected)
    others = [key for name in PIPELINE if name not in scored for key in stages[name]]
    assert others and not any("mIoU" in key for key in others)
    assert set(document["classes"]) == {f"{key}/mIoU" for keys in scored.values() for key in keys}
    for table in document["classes"].values():
        assert set(table) <= {"background", "zebra", "leopard", "fox", "panda", "mandrill"}
    key = "val/network/crf/mIoU"
    assert stages["segment_predict"][key] == pytest.approx(np.mean(list(document["classes"][key].values())), abs=0.01)


def test_eval_scores_again_to_the_same_numbers(home: Path):
    assert call(home, "eval", "--json", "--recompute", "-q").json == call(home, "eval", "--json").json


def test_a_second_run_computes_nothing(home: Path):
    files = [path for path in (home / "runs/small").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = call(home, "run", recipe(home), "--json")
    assert [stage["state"] for stage in again.json["stages"]] == ["done"] * len(PIPELINE)
    assert all(f"{name:<16} fresh, kept" in again.err for name in PIPELINE)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert {path for path in (home / "runs/small").rglob("*") if path.is_file()} == set(files)


def test_a_changed_setting_makes_what_follows_stale(home: Path):
    shown = call(home, "run", recipe(home), "--set", "irn_train.epochs=5", "--dry-run", "--json").json["stages"]
    states = {stage["name"]: stage["state"] for stage in shown}
    assert [name for name, state in states.items() if state == "done"] == ["seed_train", "seed_infer", "irn_labels"]
    why = {stage["name"]: stage["why"] for stage in shown}
    assert why["irn_train"] == "irn_train.epochs: 4 → 5" and why["irn_masks"] == "its input irn_train is stale"


def test_a_round_of_self_training_keeps_the_first_network_and_is_named(home: Path, tmp_path: Path):
    folder = Path(shutil.copytree(home, tmp_path / "home"))
    run, first = folder / "runs/small", sha256(home / "runs/small/segment_train/network.pth")
    done = call(folder, "segment", "retrain", "--run", str(run), "--set", "segment_retrain.void=0.2")
    assert done.code == 0 and "train/self mIoU-2: crf" in done.err, done.err
    states = {row["name"]: row["state"] for row in call(folder, "status", "--run", str(run), "--json").json["stages"]}
    assert states == dict.fromkeys([*PIPELINE, "self_masks", "segment_retrain"], "done")
    assert sha256(run / "segment_train/network.pth") == first != sha256(run / "segment_retrain/network.pth")
    used = ("--run", str(run), "--set", "segment_predict.trained_by=segment_retrain")
    assert call(folder, "segment", "predict", *used, "-q").code == 0
    metrics = call(folder, "eval", "--run", str(run), "--json").json["stages"]["segment_predict"]
    assert all(key.startswith("val/retrained/") for key in metrics) and "val/retrained/crf/mIoU" in metrics
    cards = [(run / name / "MODEL_CARD.md").read_text() for name in ("segment_train", "segment_retrain")]
    assert "Not scored" in cards[0] and "its own after segment_train" not in cards[0]
    assert "its own after segment_train" in cards[1] and "val/retrained/crf/mIoU" in cards[1]
    assert "bas segment retrain --run NEW" in cards[1]
    photograph = next((run / "data/JPEGImages").iterdir())
    assert call(folder, "predict", str(photograph), "--out", "out", "--run", str(run), "-q").code == 0
    assert sha256(run / "segment_retrain/network.pth") in (folder / "out/predict.json").read_text()


class Killer:
    """A progress display that kills its process in the midst of a stage: at once in training, else after two images."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._left = folder, 0

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Killer]:
        self._left = 1 if label == "training" else 2
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        if (self._folder / "started.json").exists():
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(folder: Path, stage: str) -> None:
    """Go on with `bas run` in a process that is killed in STAGE; every training step keeps its state."""

    def prepare() -> None:
        settings = learn.settings
        learn.settings = lambda recipe, ctx: replace(settings(recipe, ctx), save_seconds=0.0)
        training.SAVE_SECONDS = 0.0
        progress.reporter = lambda quiet: Killer(folder / "runs/small" / stage)

    assert wait(fork(folder, "run", recipe(folder), prepare=prepare)) == -signal.SIGKILL, (folder / "stderr.txt").read_text()


def test_a_kill_in_every_stage_ends_with_the_same_result(home: Path, tmp_path: Path):
    for stage in PIPELINE:
        run_until_killed(tmp_path, stage)
        states = {row["name"]: row["state"] for row in call(tmp_path, "status", "--json").json["stages"]}
        before = list(PIPELINE)[: list(PIPELINE).index(stage)]
        assert states[stage] == "partial" and all(states[name] == "done" for name in before)
    last = call(tmp_path, "run", recipe(tmp_path), "-q")
    assert last.code == 0, last.err
    whole, killed = manifests(home / "runs/small"), manifests(tmp_path / "runs/small")
    for name in PIPELINE:
        assert killed[name]["digest"] == whole[name]["digest"], name
        assert killed[name]["metrics"] == whole[name]["metrics"], name
