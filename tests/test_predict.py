"""Prediction on new photographs: which are meant, what is written, what a bad file does; the network is real and random."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from PIL import Image

from stages.actions.datasets.photographs import Photograph, collect
from stages.actions.predict import Predictor
from stages.core.errors import StageError
from stages.data.detections import covered
from stages.data.images import read_image, read_mask
from stages.formulas.segmentation import resize_logits
from stages.nets.mmseg import inference, network, portable

CLASSES = ("background", "cat", "dog")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights whose classes all occur in its predictions."""
    torch.manual_seed(0)
    spec = network.Network("tiny", classes=CLASSES, crop=64)
    net = network.make(spec)
    for parameter in net.decode_head.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
        if parameter.ndim == 4:  # the middle of its kernels alone: what the head sees does not reach far
            middle = parameter.data[..., 1:2, 1:2].clone()
            parameter.data.zero_()[..., 1:2, 1:2] = middle
    path = tmp_path_factory.mktemp("net") / "network.pth"
    network.save(path, net, spec, {})
    return path


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """A run's folder with that network."""
    folder = tmp_path / "run"
    (folder / "segment_train").mkdir(parents=True)
    (folder / "segment_train" / "network.pth").write_bytes(checkpoint.read_bytes())
    (folder / "segment_train" / "manifest.json").write_text("{}")
    (folder / "config.yaml").write_text(
        "runtime: {device: cpu, precision: 32-true}\nsegment_predict: {scales: [1.0], tile: 64}\n"
    )
    return folder


def photograph(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    """A picture of noise in large patches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST).save(path)
    return path


def names(found: list[Photograph]) -> list[str]:
    return [one.name.as_posix() for one in found]


def test_folders_files_and_patterns_keep_their_names(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/sub/b.PNG", "in/sub/c.d.jpeg", "in/.hidden/x.jpg", "in/out/old.png", "other/e.bmp"):
        photograph(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert names(collect([str(tmp_path / "in")], tmp_path / "in" / "out")) == ["a", "sub/b", "sub/c.d"]
    assert names(collect([str(tmp_path / "in/**/*.jp*g"), str(tmp_path / "other/e.bmp")], tmp_path / "o")) == [
        "a",
        "sub/c.d",
        "e",
    ]
    assert names(collect([str(tmp_path / "in/a.jpg"), str(tmp_path / "in/sub")], tmp_path / "o")) == ["a", "b", "c.d"]
    assert Photograph(Path("x"), Path("sub/c.d")).output(Path("o"), ".png") == Path("o/sub/c.d.png")


def test_one_stem_with_two_suffixes_keeps_both_and_equal_names_are_refused(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "x/a.png", "y/a.jpg"):
        photograph(tmp_path / name)
    assert names(collect([str(tmp_path / "x")], tmp_path / "o")) == ["a.jpg", "a.png"]
    with pytest.raises(StageError, match=r"written to a\.jpg"):
        collect([str(tmp_path / "x"), str(tmp_path / "y/a.jpg")], tmp_path / "o")
    assert names(collect([str(tmp_path / "x"), str(tmp_path / "x/a.jpg")], tmp_path / "o")) == ["a.jpg", "a.png"]  # once


@pytest.mark.parametrize("argument", ["absent.jpg", "empty", "empty/*.jpg"])
def test_an_argument_that_names_nothing_is_refused(tmp_path: Path, argument: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="No photograph in"):
        collect([str(tmp_path / argument)], tmp_path / "o")


def test_python_in_three_lines(run: Path, tmp_path: Path) -> None:
    prediction = Predictor(run)(photograph(tmp_path / "a.png"))
    assert prediction.labels.shape == (40, 56) and prediction.labels.dtype == np.uint8
    assert prediction.classes == CLASSES
    assert np.array_equal(prediction.probabilities.argmax(0), prediction.labels)
    assert prediction.probabilities.sum(0) == pytest.approx(1, abs=2e-3)
    shares = [float((prediction.labels == index).mean()) for index in (1, 2)]
    assert prediction.found() == {name: share for name, share in zip(CLASSES[1:], shares, strict=True) if share}


def test_labels_rule_other_classes_out(checkpoint: Path, tmp_path: Path) -> None:
    predictor = Predictor(checkpoint)
    image = read_image(photograph(tmp_path / "a.png"))
    everything = predictor(image)
    assert len(np.unique(everything.labels)) > 1
    cat = predictor(image, ["cat"])
    assert set(np.unique(cat.labels)) <= {0, 1} and cat.probabilities[2].max() == 0
    assert predictor(image, []).labels.max() == 0
    with pytest.raises(StageError, match=r"Unknown class 'cow'.*Known: cat, dog"):
        predictor(image, ["cow"])


def test_the_crf_changes_labels_and_probabilities_together(checkpoint: Path, tmp_path: Path) -> None:
    image = read_image(photograph(tmp_path / "a.png"))
    refined = Predictor(checkpoint, crf=True)(image)
    assert np.array_equal(refined.probabilities.argmax(0), refined.labels)
    assert not np.array_equal(refined.probabilities, Predictor(checkpoint)(image).probabilities)


def test_a_large_image_in_squares_is_nearly_the_whole(checkpoint: Path, tmp_path: Path) -> None:
    net = network.load(checkpoint, "cpu")
    image = read_image(photograph(tmp_path / "a.png", 200, 264))
    whole = inference.tiled_logits(net, image, (1.0,), False, 0)
    tiled = inference.tiled_logits(net, image, (1.0,), False, 160)
    assert tiled.shape == whole.shape
    labels = [resize_logits(each[None], (200, 264))[0].argmax(0) for each in (whole, tiled)]
    assert (labels[0] == labels[1]).float().mean() > 0.9
    assert torch.equal(inference.tiled_logits(net, image, (1.0,), False, 264), whole)


def test_the_command_writes_masks_overlays_probabilities_and_goes_on(bas: Command, run: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "in/a.jpg")
    photograph(tmp_path / "in/sub/b.png", 100, 72)
    (tmp_path / "in/broken.jpg").write_bytes(b"no picture at all")
    words = ("predict", "in", "--out", "out", "--run", str(run), "--overlays", "--probabilities")
    done = bas(*words)
    assert done.code == 2 and "1 of 3 photographs could not be predicted" in done.err and "broken.jpg" in done.err
    assert "2 masks written to out" in done.err and "images a second" in done.err
    mask = read_mask(tmp_path / "out/sub/b.png")
    assert mask.shape == (100, 72)
    with np.load(tmp_path / "out/probabilities/sub/b.npz") as stored:
        assert (stored["probabilities"].argmax(0) == mask).mean() > 0.99  # half precision: a few are equal
        assert tuple(stored["classes"]) == CLASSES
    assert read_image(tmp_path / "out/overlays/a.jpg").shape == (40, 56, 3)
    (tmp_path / "in/broken.jpg").unlink()
    (tmp_path / "out/sub/b.png").unlink()
    again = bas(*words, "--json").json
    assert (again["written"], again["kept"], again["bad"]) == (1, 1, {})


def test_coco_masks_are_those_of_the_pngs(bas: Command, run: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "in/a.jpg")
    photograph(tmp_path / "in/sub/b.png", 100, 72)
    assert bas("predict", "in", "--out", "out", "--run", str(run), "--coco", "-q").code == 0
    document = json.loads((tmp_path / "out/coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.jpg", "sub/b.png"]
    assert [entry["name"] for entry in document["categories"]] == ["cat", "dog"]
    drawn = {1: np.zeros((40, 56), np.uint8), 2: np.zeros((100, 72), np.uint8)}
    for found in document["annotations"]:
        mask = drawn[found["image_id"]]
        mask[covered(found["segmentation"], mask.shape)] = found["category_id"]
    assert np.array_equal(drawn[1], read_mask(tmp_path / "out/a.png"))
    assert np.array_equal(drawn[2], read_mask(tmp_path / "out/sub/b.png")) and drawn[2].any()


def test_other_settings_and_younger_photographs_are_predicted_anew(bas: Command, run: Path, tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.png")
    words = ("predict", "a.png", "--out", "out", "--run", str(run), "--json")
    assert bas(*words).json["written"] == 1
    assert bas(*words).json["kept"] == 1
    assert bas(*words, "--crf").json["written"] == 1
    assert bas(*words).json["written"] == 1
    later = path.stat().st_mtime + 100
    os.utime(path, (later, later))
    assert bas(*words).json["written"] == 1


def test_the_command_takes_labels_and_says_where_one_is_missing(bas: Command, run: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "in/a.jpg")
    photograph(tmp_path / "in/b.jpg", seed=1)
    (tmp_path / "labels.txt").write_text("a dog\n")
    done = bas("predict", "in", "--out", "out", "--run", str(run), "--labels", "labels.txt")
    assert done.code == 2 and "No label for 'b'" in done.err
    assert set(np.unique(read_mask(tmp_path / "out/a.png"))) <= {0, 2}
    (tmp_path / "labels.txt").write_text("a dgo\n")
    assert "Unknown class 'dgo' of 'a'" in bas("predict", "in", "--out", "out", "--run", str(run), "--labels", "labels.txt").error


def test_without_a_network_it_says_what_to_run(bas: Command, run: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    (run / "segment_train" / "manifest.json").unlink()
    assert "Run `bas segment train` first" in bas("predict", "a.png", "--out", "out", "--run", str(run)).error
    assert not (tmp_path / "out").exists()


def test_orientation_is_applied(run: Path, bas: Command, tmp_path: Path) -> None:
    image = Image.open(photograph(tmp_path / "flat.png"))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright
    image.convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    assert bas("predict", "a.jpg", "--out", "out", "--run", str(run), "-q").code == 0
    assert read_mask(tmp_path / "out/a.png").shape == (56, 40)
    record = json.loads((tmp_path / "out/predict.json").read_text())
    assert record["settings"]["tile"] == 64 and len(record["network"]) == 64 and record["classes"] == list(CLASSES)


@pytest.mark.parametrize("format", ["onnx", "torchscript", "torch-export"])
def test_an_export_has_dynamic_sizes_classes_and_agrees(checkpoint: Path, tmp_path: Path, format: str) -> None:
    net = network.load(checkpoint, "cpu")
    path = (tmp_path / "net").with_suffix(portable.SUFFIXES[format])
    portable.write(net, format, path)
    look, classes = portable.read(path)
    assert classes == CLASSES
    for height, width in ((40, 56), (97, 33), (64, 64)):
        batch = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height)) * 255
        with torch.no_grad():
            expected = portable.Portable(net).eval()(batch)
        found = look(batch)
        assert found.shape == (1, 3, height, width)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_the_command_exports_what_agrees_and_keeps_nothing_else(bas: Command, run: Path, generated: Path) -> None:
    (run / "config.yaml").write_text(f"runtime: {{device: cpu}}\ndata: {{root: {generated}, train: train, score: train}}\n")
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = bas("export", "--run", str(run), "--format", "torchscript", "--json").json
    torch.set_warn_always(False)
    assert not [str(one.message) for one in said if "not writable" in str(one.message)]
    assert done["label_agreement"] == 1 and done["images"] == 50 and done["sizes"] >= 5
    listed = (generated / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    assert done["photographs"] == len(listed) < 50
    path = run / "segment_train" / "network.ts"
    assert path.stat().st_size == done["bytes"]
    assert "ends in .onnx" in bas("export", "--run", str(run), "--out", "net.bin").error
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portable, "read", lambda path, read=portable.read: (lambda images: -read(path)[0](images), CLASSES))
        assert "disagrees with the network" in bas("export", "--run", str(run), "--format", "torchscript").error
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir() if "tmp" in p.name] == []


def test_the_exported_network_predicts_without_a_run(bas: Command, checkpoint: Path, tmp_path: Path) -> None:
    net = network.load(checkpoint, "cpu")
    portable.write(net, "onnx", tmp_path / "net.onnx")
    photograph(tmp_path / "a.png", 100, 72)
    photograph(tmp_path / "tiny.png", 16, 24)
    assert bas("predict", "a.png", "tiny.png", "--model", "net.onnx", "--out", "out", "-q").code == 0
    assert read_mask(tmp_path / "out/tiny.png").shape == (16, 24)
    batch = torch.from_numpy(read_image(tmp_path / "a.png")).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = portable.Portable(net).eval()(batch)[0].argmax(0).numpy()
    assert (read_mask(tmp_path / "out/a.png") == expected).mean() > 0.999
    settings = json.loads((tmp_path / "out/predict.json").read_text())["settings"]
    assert settings["scales"] == [1.0] and not settings["flip"]
    views = ("--set", "segment_predict.scales=[1,0.5]", "--set", "segment_predict.flip=false")
    told = bas("predict", "a.png", "--model", "net.onnx", "--out", "out", *views)
    words = "warning: segment_predict.scales: no effect, an .onnx file sees photographs at scale 1 and not mirrored\n"
    assert told.code == 0 and told.err.startswith(words)


def test_files_that_are_programs_or_no_network_are_refused(bas: Command, tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    for name, reason in (("net.ts", "it is a program"), ("net.onnx", "Cannot read network"), ("net.pth", "Cannot read the segm")):
        (tmp_path / name).write_bytes(b"rubbish")
        assert reason in bas("predict", "a.png", "--model", name, "--out", "out").error
    assert "no such file" in bas("predict", "a.png", "--model", "absent.onnx", "--out", "out").error


@pytest.mark.parametrize("crf", [False, True])
def test_a_network_of_no_numbers_is_refused(run: Path, crf: bool):
    path = run / "segment_train" / "network.pth"
    value = torch.load(path, weights_only=True)
    torch.save({**value, "state_dict": {key: entry * float("nan") for key, entry in value["state_dict"].items()}}, path)
    with pytest.raises(StageError, match="Cannot predict: the network gives values that are no numbers"):
        Predictor(path, crf=crf)(np.zeros((40, 56, 3), np.uint8))
