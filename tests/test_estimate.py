"""What a dry run says of minutes, memory and disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import CODE, Command, settings

from stages import EXTRAS, PIPELINE
from stages.actions import costs, estimate
from stages.actions.configure import resolve
from stages.actions.run import Run

VOC = costs.Facts({"train": 1000, "score": 400, "val": 300}, pixels=100_000, present=1.0, classes=20)
TWO_CORES = costs.machine(gpu=False, threads=2, workers=2)


def cost(stage: str, *assignments: str, machine: costs.Machine = TWO_CORES) -> costs.Cost:
    return costs.MODELS[stage](resolve("voc_small", assignments), VOC, machine)


def test_every_stage_has_a_model():
    assert set(costs.MODELS) == {*PIPELINE, *EXTRAS}


def test_the_model_gives_back_what_it_was_measured_on():
    """24 epochs of 62 steps at 1.16 s; 550 steps at 1.8 s; two CRFs of .34 s with three labels at 384 x 288, on two processes."""
    assert cost("seed_train").seconds == pytest.approx(24 * 62 * 1.16, rel=0.1)
    three_scales = ("segment_train.steps=550", "segment_train.scales=[1.0,0.5,0.75]")
    assert cost("segment_train", *three_scales).seconds == pytest.approx(550 * 1.8, rel=0.15)
    three = costs.Facts(VOC.images, 384 * 288, 2.0, 20)
    labels = costs.MODELS["irn_labels"](resolve("voc_small"), three, TWO_CORES)
    assert labels.seconds == pytest.approx(1000 * 2 * 0.34 / 2, rel=0.1)


def test_what_costs_scale_with():
    one = cost("seed_train")
    assert cost("seed_train", "seed_train.epochs=12").seconds == pytest.approx(one.seconds / 2)
    assert cost("seed_train", "seed_train.crop=112").seconds == pytest.approx(one.seconds / 4)
    assert cost("seed_train", "seed_train.backbone=resnet50").seconds == pytest.approx(one.seconds * 6.5)
    assert cost("seed_train", machine=costs.machine(gpu=False, threads=8, workers=8)).seconds == pytest.approx(one.seconds / 4)
    assert cost("seed_train", machine=costs.machine(gpu=True, threads=2, workers=2)).seconds < one.seconds / 10
    assert cost("segment_predict", "segment_predict.crf=false").seconds < cost("segment_predict").seconds
    assert cost("irn_masks", "irn_masks.exp_times=6").seconds < cost("irn_masks").seconds
    inferred = cost("seed_infer").seconds
    for less in ("search=none", "images=score", "sources=[average+cam]", "judge_scale=0.25"):
        assert cost("seed_infer", f"seed_infer.{less}").seconds < inferred


def test_a_stage_that_ran_is_scaled_from_what_it_took(bas: Command, config: Path, tmp_path: Path):
    call = ("seed", "train", str(config), "--run", "r", *settings())
    assert bas(*call, "-q").code == 0
    manifest = tmp_path / "r/seed_train/manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "seconds": 60.0, "peak_memory_mb": 700}))
    fresh = bas(*call, "--dry-run", "--json").json
    nothing = {"minutes": 0.0, "memory_mb": 0, "disk_mb": 0, "from": None}
    assert fresh["stages"][0]["estimate"] == nothing and fresh["total"]["minutes"] == 0.0
    longer = bas(*call, "--set", "seed_train.epochs=6", "--dry-run", "--json").json  # it was 2
    assert longer["stages"][0]["estimate"] == {"minutes": 3.0, "memory_mb": 700, "disk_mb": 3, "from": "its last run"}
    assert longer["total"] == {"minutes": 3.0, "memory_mb": 700, "disk_mb": 3}


def test_facts_of_photographs_and_of_a_demo_that_is_not_there_yet(config: Path, tmp_path: Path):
    found = estimate.facts(Run(tmp_path / "r", resolve(str(config))))
    assert found.images == {"train": 8, "score": 8, "val": 2} and found.pixels == 64 * 64 and found.classes == 5
    made = estimate.facts(Run(tmp_path / "d", resolve("demo")))
    assert made.images == {"train": 1000, "score": 1000, "val": 300} and made.pixels == 80 * 80
    assert not (tmp_path / "d").exists()


def test_a_dry_run_does_not_import_torch(process: Command, config: Path):
    probe = "import atexit, sys; atexit.register(lambda: sys.stderr.write('heavy' * ('torch' in sys.modules))); "
    shown = process("run", str(config), "--dry-run", code=probe + CODE)
    assert shown.code == 0 and "estimates" in shown.err and "heavy" not in shown.err
    assert shown.out.splitlines()[-1].startswith("all ")


def test_stages_that_settings_call_for_are_planned_and_checked_too(bas: Command, config: Path):
    irn = ("--set", "seed_infer.sources=[bas,sum,irn]", "--dry-run", "--json")
    assert [row["name"] for row in bas("run", str(config), *irn).json["stages"]][:3] == ["seed_train", "cam_train", "seed_infer"]
    assert [row["name"] for row in bas("seed", "cam", str(config), "--dry-run", "--json").json["stages"]] == ["cam_train"]
    assert "Cannot read weights absent.pth" in bas("run", str(config), *irn, "--set", "cam_train.weights=absent.pth").error


def test_a_second_training_that_is_to_be_tested_comes_first_with_what_it_reads(bas: Command, config: Path):
    words = ("--set", "segment_predict.trained_by=segment_retrain", "--dry-run", "--json")
    stages = bas("run", str(config), *words).json["stages"]
    assert [row["name"] for row in stages][-4:] == ["segment_train", "self_masks", "segment_retrain", "segment_predict"]
    minutes = {row["name"]: row["estimate"]["minutes"] for row in stages}
    assert minutes["segment_retrain"] == minutes["segment_train"] > 0
