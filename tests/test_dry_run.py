"""A dry run writes nothing and refuses what the call itself would; `bas status` only looks too."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import Command, settings, wait_for
from PIL import Image

from benchmarks.children import fork, wait
from stages.actions import estimate
from stages.actions.configure import resolve
from stages.actions.run import Run
from stages.core.files import write_json


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def begun(run: Path, **data: str) -> Path:
    """A run's folder of which the first stage was begun with other settings."""
    write_json(run / "seed_train/started.json", {"stage": "seed_train", "config": {}})
    write_json(run / "config.yaml", {"data": data})  # JSON is YAML
    return run


def test_a_folder_is_planned_without_a_word_on_disk(bas: Command, tmp_path: Path):
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (16, 16 + number), colour).save(tmp_path / "photos" / name / f"{number}.png")
    before = tree(tmp_path)
    planned = bas("run", "photos", *settings("data.train=train"), "--dry-run", "--json")
    assert [stage["state"] for stage in planned.json["stages"]] == ["missing"] * 8 and planned.json["total"]["minutes"] > 0
    assert "one sub-folder a class" in planned.err and "nothing yet: the run will write runs/photos/dataset.yaml" in planned.err
    assert tree(tmp_path) == before


def test_images_of_other_settings_are_not_generated_for_a_plan(bas: Command, tmp_path: Path):
    begun(tmp_path / "runs/demo", reader="demo")
    before = tree(tmp_path)
    words = "The images have to be generated: those of these settings are not there"
    assert bas("run", "demo", "--dry-run", "--json").json["stages"][0]["why"] == words
    assert bas("status", "--run", "runs/demo", "--json").json["stages"][0]["why"] == words
    assert tree(tmp_path) == before


def test_a_folder_that_the_run_cannot_have_is_refused_before_it(bas: Command, tmp_path: Path):
    begun(tmp_path / "other", reader="voc", root="/photos")
    (tmp_path / "file").write_text("no folder")
    for folder in ("other", "file"):
        planned, called = (bas("run", "demo", "--run", folder, "-q", *more).error for more in (["--dry-run"], []))
        assert planned.replace(f"{tmp_path}/", "") == called
    assert called == "Cannot use file: File exists. Choose a folder, not a file, with --run DIR."
    assert planned.startswith(f"Cannot use {tmp_path}/file")


def test_an_absent_input_is_refused_before_the_run(bas: Command, tmp_path: Path):
    call = ("refine", "irn", "demo")
    assert bas(*call, "--dry-run").error == bas(*call, "-q").error
    shutil.rmtree(tmp_path / "runs")  # the call itself has kept its settings there
    assert bas("run", "demo", "--dry-run", "--json").code == 0  # what an earlier one of the stages makes is no absent input


def test_another_list_is_looked_for_and_counted(bas: Command, config: Path, tmp_path: Path):
    fault = bas("segment", "predict", str(config), "--split", "absent", "--dry-run").error
    assert fault.startswith("No image list 'absent' in ")
    fault = bas("segment", "predict", "demo", "--split", "test", "--dry-run").error
    assert fault == "No image list 'test': the generated images are in lists train, val. Name one of train, val"
    for name, times in ((str(config), 8 / 2), ("demo", 1000 / 300)):
        run = Run(tmp_path / "r", resolve(name), look=True)
        on_val, on_train = estimate.plan(run, ["segment_predict", "segment_predict@train"], False)
        assert on_val.cost is not None and on_train.cost is not None
        assert on_train.cost.seconds == pytest.approx(times * on_val.cost.seconds)


def test_status_tells_of_images_that_are_being_generated(bas: Command, tmp_path: Path):
    child = fork(tmp_path, "run", "demo", "-q", "--set", "data.generate.train=100000")
    try:
        wait_for(child, tmp_path / "runs/demo/data/generating.txt")
        first, second = bas("status", "--json").json["stages"][:2]
    finally:
        os.kill(child, signal.SIGKILL)
        wait(child)
    assert (first["state"], first["why"]) == ("missing", "about to start: its images are being generated")
    assert second["why"] == "not run yet"
    assert bas("status", "--json").json["stages"][0]["why"] == "not run yet"
