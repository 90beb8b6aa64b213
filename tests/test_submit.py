"""The archive for Pascal VOC's server: its layout, the same bytes every time, and every fault in words."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Counter
from PIL import Image

from stages.actions import submit
from stages.core import lists
from stages.core.errors import StageError
from stages.data.dataset import Sample
from stages.data.images import write_mask

IDS = ("2008_000006", "2008_000011", "2008_000012")


@pytest.fixture
def samples(tmp_path: Path) -> tuple[Sample, ...]:
    """Three photographs of 6 x 4, 7 x 4 and 8 x 4 pixels."""
    for width, name in enumerate(IDS, 6):
        Image.new("RGB", (width, 4)).save(tmp_path / f"{name}.png")
    return tuple(Sample(name, str(tmp_path / f"{name}.png"), ()) for name in IDS)


@pytest.fixture
def predictions(tmp_path: Path) -> dict[str, Path]:
    """A prediction of each, whose largest id is VOC's last class."""
    paths = {name: tmp_path / f"predicted_{name}.png" for name in IDS}
    for width, path in enumerate(paths.values(), 6):
        write_mask(path, (np.arange(4 * width, dtype=np.uint8) % 21).reshape(4, width))
    return paths


def test_the_archive_is_the_servers_and_its_bytes_are_the_same_every_time(
    samples: tuple[Sample, ...], predictions: dict[str, Path], tmp_path: Path
) -> None:
    first, again = tmp_path / "first.tar.gz", tmp_path / "again.tar.gz"
    submit._pack(first, predictions)
    next(iter(predictions.values())).touch()
    submit._pack(again, predictions)
    assert first.read_bytes() == again.read_bytes()
    with tarfile.open(first) as archive:
        assert archive.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in IDS]
        assert all((entry.mtime, entry.uid, entry.uname) == (0, 0, "") for entry in archive)
        image = Image.open(io.BytesIO(archive.extractfile(archive.getmembers()[0]).read()))
        assert image.mode == "P" and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        assert np.array_equal(np.asarray(image).ravel(), np.arange(24) % 21)
    submit.check(first, samples, "test", Counter())


def spoilt(kind: str, predictions: dict[str, Path], tmp_path: Path) -> Path:
    """An archive with one fault of a KIND, in the second prediction where it is in one."""
    second = list(predictions.values())[1]
    if kind == "size":
        write_mask(second, np.zeros((4, 6), np.uint8))
    elif kind == "void":
        write_mask(second, np.full((4, 7), 255, np.uint8))
    elif kind == "grey":
        Image.fromarray(np.zeros((4, 7), np.uint8)).save(second)
    elif kind == "damaged":
        second.write_bytes(second.read_bytes()[:40])
    elif kind == "missing":
        predictions = {name: path for name, path in predictions.items() if path != second}
    elif kind == "stranger":
        predictions = {**predictions, "2008_000001": second}
    path = tmp_path / "archive.tar.gz"
    submit._pack(path, predictions)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("size", r"submit 2008_000011: its prediction has 6 x 4 pixels, its image has 7 x 4"),
        ("void", r"submit 2008_000011: its prediction has ids up to 255, where 0 to 20 are meant"),
        ("grey", r"submit 2008_000011: its prediction has a grey image, not an index PNG"),
        ("damaged", r"Cannot read mask .*2008_000011\.png"),
        ("missing", r"not complete: 1 of 3 images \(2008_000011\) are missing"),
        ("stranger", r"comp6_test_cls/2008_000001\.png is no prediction of list 'test'"),
        ("cut", r"Cannot read archive .*archive\.tar\.gz"),
    ],
)
def test_every_fault_is_named(
    kind: str, words: str, samples: tuple[Sample, ...], predictions: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=words):
        submit.check(spoilt(kind, predictions, tmp_path), samples, "test", Counter())


def test_names_of_stages_on_other_lists() -> None:
    name = lists.on("segment_predict", "test")
    assert (name, lists.stage_of(name), lists.list_of(name)) == ("segment_predict@test", "segment_predict", "test")
    assert lists.stage_of("seed_train") == "seed_train" and lists.list_of("seed_train") is None


def test_other_classes_and_a_list_without_predictions_are_refused(bas: Command, devkit: Path, tmp_path: Path) -> None:
    (devkit / "ImageSets/Segmentation/test.txt").write_text((devkit / "ImageSets/Segmentation/val.txt").read_text())
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps({"data": {"root": str(devkit), "train": "train", "score": "train"}}))
    line = bas("submit", "voc", "--run", str(folder)).error
    assert re.search(r"has \d classes, and not VOC's 20", line)
    (devkit / "classes.txt").unlink()
    line = bas("submit", "voc", "--run", str(folder)).error
    assert "No predictions of list 'test'" in line and "Run `bas segment predict --split test` first" in line
    assert "Let its name end in .tar.gz" in bas("submit", "voc", "--run", str(folder), "--out", "x.zip").error
