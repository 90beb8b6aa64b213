"""Readers: the devkit's lists and labels, image-level labels from every source, images as they come, masks and seeds."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.core.errors import StageError
from stages.core.files import HashCache
from stages.data import images, scoring, seedfile, sheets
from stages.data.dataset import Config, Dataset, open_dataset
from stages.data.labels import read_labels
from stages.data.pickled import load_npy
from stages.data.readers import voc

CLASSES = ("cat", "dog", "cow")


def open_at(root: Path, **settings) -> Dataset:
    return open_dataset(Config(root=str(root), **{"train": "train", "score": "train", **settings}), root)


def write_list(root: Path, name: str, *lines: str) -> None:
    (root / "ImageSets/Segmentation" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


# --- the devkit ---


def test_lists_in_both_forms_name_the_same_images(devkit):
    write_list(devkit, "bare", "demo_00000", "demo_00001", "", "demo_00000")
    write_list(devkit, "paths", *(f"/JPEGImages/demo_0000{i}.jpg /SegmentationClass/demo_0000{i}.png" for i in (0, 1)))
    assert voc.Devkit(devkit).ids("bare") == voc.Devkit(devkit).ids("paths") == ("demo_00000", "demo_00001")


def test_ids_may_hold_dots(devkit):
    (devkit / "JPEGImages/demo_00000.png").rename(devkit / "JPEGImages/a.b.png")
    write_list(devkit, "dots", "a.b", "demo_00001")
    ids = voc.Devkit(devkit).ids("dots")
    assert ids == ("a.b", "demo_00001")
    assert [Path(file).name for file in voc.Devkit(devkit).files(ids, "dots")] == ["a.b.png", "demo_00001.png"]


def test_suffixes_in_capitals_are_found(devkit):
    (devkit / "JPEGImages/demo_00000.png").rename(devkit / "JPEGImages/demo_00000.PNG")
    assert open_at(devkit).split("train")[0].image.name == "demo_00000.PNG"


def test_the_root_may_be_the_devkit_or_what_holds_it(devkit, tmp_path):
    inner = tmp_path / "outer/VOCdevkit/VOC2012"
    inner.parent.mkdir(parents=True)
    devkit.rename(inner)
    assert voc.check_root(tmp_path / "outer") == voc.check_root(tmp_path / "outer/VOCdevkit") == voc.check_root(inner) == inner


def test_classes_are_vocs_unless_a_file_names_others(devkit):
    assert voc.Devkit(devkit).classes == ("zebra", "leopard", "fox", "panda", "mandrill")
    (devkit / "classes.txt").unlink()
    assert len(voc.Devkit(devkit).classes) == 20 and voc.Devkit(devkit).classes[14] == "person"


def test_samples_hold_id_image_and_labels(generated):
    data = open_at(generated)
    truth = {line.split()[0]: set(line.split()[1:]) for line in (generated / "image_labels.txt").read_text().splitlines()}
    assert len(data.split("train")) == 8 and len(data.split("val")) == 2
    for sample in data.split("train"):
        assert {data.classes[i] for i in sample.labels} == truth[sample.id]
        mask = data.mask(sample)
        assert sample.image.is_file() and mask is not None and mask.is_file()
    assert data.label_source == "image_labels.txt" and data.unlabelled == ()


def test_images_without_a_label_are_left_out_and_counted(devkit):
    lines = (devkit / "image_labels.txt").read_text().splitlines()
    (devkit / "image_labels.txt").write_text("\n".join([lines[0].split()[0], *lines[2:]]))  # one bare, one not named
    data = open_at(devkit)
    assert len(data.split("train")) == 6 and data.unlabelled == ("demo_00000", "demo_00001")
    with pytest.raises(StageError, match="Not every image of list 'train' has a label: 2 of 8"):
        open_at(devkit, require_labels=True).split("train")


def test_a_digest_follows_content_not_dates(devkit):
    def digest() -> str:
        return open_at(devkit).digest("train", HashCache(devkit / "hashes.json"))

    before, image = digest(), devkit / "JPEGImages/demo_00003.png"
    os.utime(image)
    assert digest() == before
    (devkit / "SegmentationClass/demo_00003.png").unlink()
    assert digest() == before  # true masks are no input
    image.write_bytes((devkit / "JPEGImages/demo_00004.png").read_bytes())
    assert digest() != before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "JPEGImages").rename(root / "images"), "Cannot use data .*no folder JPEGImages"),
        (lambda root: (root / "ImageSets/Segmentation/train.txt").unlink(), "No image list 'train'.*Did you mean 'val'"),
        (lambda root: write_list(root, "train"), "is empty: it names no image"),
        (lambda root: (root / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe\x00"), "Cannot read .*train.txt"),
        (lambda root: write_list(root, "train", "demo_00000", "gone"), "List 'train' names absent images: 1 of 2 .*'gone'"),
        (lambda root: write_list(root, "train", "demo_00000", "demo_00008"), "'train' holds images of 'val': 1 image"),
        (lambda root: (root / "image_labels.txt").unlink(), "No image-level labels in"),
        (
            lambda root: (root / "image_labels.txt").write_text("demo_00000 zebra unicorn"),
            "Unknown class 'unicorn'.*Known: zebra",
        ),
        (lambda root: (root / "image_labels.txt").write_text("other zebra"), "No image of list 'train' has a label: 8 of 8"),
    ],
)
def test_bad_datasets_are_refused_in_words(devkit, spoil, words):
    spoil(devkit)
    with pytest.raises(StageError, match=words):
        open_at(devkit).split("train")


def test_scored_images_must_have_seeds(devkit):
    write_list(devkit, "few", "demo_00000")
    with pytest.raises(StageError, match="List 'train' is not part of 'few': 7 of its images get no seeds"):
        open_at(devkit, train="few").split("score")


# --- image-level labels ---


def test_labels_from_the_devkits_xml(tmp_path):
    (tmp_path / "Annotations").mkdir()
    objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in ("dog", "cat", "dog"))
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "Annotations/b.xml").write_text("<annotation></annotation>")
    labels, source = read_labels(tmp_path, None, ["a", "b", "absent"], CLASSES)
    assert labels == {"a": (0, 1), "b": (), "absent": ()} and source.startswith("Annotations")
    (tmp_path / "Annotations/b.xml").write_text("<annotation>")
    with pytest.raises(StageError, match=r"Cannot read annotation .*b.xml"):
        read_labels(tmp_path, None, ["b"], CLASSES)


def test_labels_from_text_by_name_or_number(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a cat cow\nb 1\n\nc\n")
    assert read_labels(tmp_path, path, [], CLASSES) == ({"a": (0, 2), "b": (1,), "c": ()}, "labels.txt")
    with pytest.raises(StageError, match=r"no.* such file|No such file"):
        read_labels(tmp_path, tmp_path / "absent.txt", [], CLASSES)


def save_pickled(path: Path, value) -> Path:
    np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return path


def test_labels_from_irns_npy(tmp_path):
    rows = {2007000032: np.array([1, 0, 1], np.float32), "2008_000001": np.array([0, 1, 0], np.float64), 17: np.zeros(3)}
    labels, source = read_labels(tmp_path, save_pickled(tmp_path / "cls_labels.npy", rows), [], CLASSES)
    assert labels == {"2007_000032": (0, 2), "2008_000001": (1,), "17": ()} and source == "cls_labels.npy"


def test_the_published_label_file_is_read():
    folder = os.environ.get("BAS_DATA")
    path = Path(folder or "") / "voc_lists/cls_labels.npy"
    if not folder or not path.is_file():
        pytest.skip("BAS_DATA is not set or holds no voc_lists/cls_labels.npy")
    labels, _ = read_labels(path.parent, path, [], voc.CLASSES)
    assert labels["2007_000032"] == (0, 14)  # aeroplane, person


@pytest.mark.parametrize("rows", [{"a": np.zeros(4)}, {"a": [[1, 0, 0]]}, {"a": "cat"}, {"a": None}])
def test_npy_rows_of_another_dataset_are_refused(tmp_path, rows):
    with pytest.raises(StageError, match="a row is not 3 numbers"):
        read_labels(tmp_path, save_pickled(tmp_path / "labels.npy", rows), [], CLASSES)


class Hostile:
    """An object that would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_hostile_pickle_is_not_executed(tmp_path):
    path = save_pickled(tmp_path / "hostile.npy", {"a": Hostile(tmp_path / "executed")})
    with pytest.raises(StageError, match=r"not a safe array file .*open, which is not an array"):
        load_npy(path)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_cannot_even_import(tmp_path):
    """A global named like numpy's own, in a submodule that does something at import."""
    path, header = tmp_path / "import.npy", save_pickled(tmp_path / "plain.npy", {}).read_bytes()[:128]
    path.write_bytes(header + b"cnumpy.f2py.__main__\nndarray\n.")
    with pytest.raises(StageError, match=r"numpy.f2py.__main__.ndarray, which is not an array"):
        load_npy(path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not numpy at all", b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}  "])
def test_damaged_npy_files_are_refused(tmp_path, content):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(StageError, match="not a safe array file"):
        load_npy(tmp_path / "bad.npy")


def test_plain_and_missing_npy_files_are_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(StageError, match="it holds an array, not a dictionary"):
        load_npy(tmp_path / "plain.npy")
    with pytest.raises(StageError, match="no such file"):
        load_npy(tmp_path / "absent.npy")


# --- images ---

PICTURE = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientations_are_applied(tmp_path, turn: int):
    image = Image.fromarray(PICTURE)
    exif = image.getexif()
    exif[0x0112] = turn
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(images.read_image(tmp_path / "turned.jpg"), expected)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("LA", "png"), ("1", "png")]
)
def test_every_colour_mode_comes_as_rgb(tmp_path, mode: str, suffix: str):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(PICTURE).convert(mode).save(path)
    image = images.read_image(path)
    assert image.shape == (6, 9, 3) and image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    if mode == "L":
        assert np.array_equal(image[..., 0], np.asarray(Image.fromarray(PICTURE).convert("L")))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_damaged_images_name_the_file(tmp_path, suffix: str):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.tile(PICTURE, (20, 20, 1))).save(whole)
    content, cut = whole.read_bytes(), tmp_path / f"cut.{suffix}"
    for length in (0, 1, 10, 60, len(content) // 4, len(content) // 2, 3 * len(content) // 4):
        cut.write_bytes(content[:length])
        with pytest.raises(StageError, match=f"Cannot read image .*cut.{suffix}: .*Replace the file or take it off the list"):
            images.read_image(cut)
    cut.write_bytes(b"no picture at all")
    for read in (images.read_image, images.size, images.read_mask):
        with pytest.raises(StageError, match=f"cut.{suffix}: empty, damaged or no image at all"):
            read(cut)
    with pytest.raises(StageError, match="no such file"):
        images.read_image(tmp_path / "absent.jpg")
    with pytest.raises(StageError, match="Cannot read image"):
        images.read_image(tmp_path)


def test_flipped_bytes_give_an_image_or_a_plain_fault(tmp_path):
    path, random = tmp_path / "noise.png", np.random.default_rng(1)
    Image.fromarray(PICTURE).save(path)
    content = path.read_bytes()
    faults = 0
    for _ in range(200):
        spoilt = bytearray(content)
        spoilt[random.integers(len(spoilt))] ^= 1 << random.integers(8)
        path.write_bytes(spoilt)
        try:
            assert images.read_image(path).shape[2] == 3
        except StageError:
            faults += 1
    assert faults > 20


# --- masks, sheets, seeds ---


def test_the_palette_is_vocs():
    colours = images.palette()
    assert colours[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


def test_masks_keep_their_ids(tmp_path):
    ids = np.array([[0, 1, 20], [255, 2, 0]], np.uint8)
    images.write_mask(tmp_path / "mask.png", ids)
    assert np.array_equal(images.read_mask(tmp_path / "mask.png"), ids)
    with Image.open(tmp_path / "mask.png") as stored:
        assert stored.mode == "P" and stored.getpalette()[3:6] == [128, 0, 0]
    Image.fromarray(PICTURE).save(tmp_path / "colour.png")
    with pytest.raises(StageError, match=r"Cannot read mask .*mode RGB, not an index or grey image"):
        images.read_mask(tmp_path / "colour.png")


def test_overlays_leave_background_alone_and_whiten_void():
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = images.overlay(image, np.array([[0, 1, 255]], np.uint8), opacity=0.5)
    assert mixed[0].tolist() == [[100, 100, 100], [114, 50, 50], [177, 177, 177]]


def test_directions_have_hues_and_what_stands_still_is_black():
    field = np.zeros((2, 1, 5), np.float32)
    field[:, 0, :4] = [[0, 3, 0, -3], [3, 0, -3, 0]]  # right, down, left, up
    picture = sheets.directions(field, np.zeros((4, 18, 3), np.uint8))
    assert picture.shape == (4, 18, 3) and (picture[:, 16:] == 0).all()
    right, down, left, up = (picture[0, column].astype(int) for column in (0, 4, 8, 12))
    assert right.argmax() == 0 and down.argmax() == 1 and up.argmax() == 2
    assert left.argmin() == 0 and left[1] == left[2]


def test_sheets_have_a_tile_a_picture(tmp_path):
    tall, wide = (
        np.zeros((40, 10, 3), np.uint8),
        sheets.heat(np.zeros((10, 40, 3), np.uint8), np.linspace(0, 1, 400).reshape(10, 40)),
    )
    sheets.write_sheet(tmp_path / "sheet.png", ["a", "b"], [[tall, wide], [wide, tall], [tall, tall]])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 182 + 6, 3 * 182 + 30)


def seed_of(classes: int = 2) -> seedfile.Seed:
    random = np.random.default_rng(0)
    maps = {name: [random.random((classes, s, s + 1)).astype(np.float16) for s in (4, 2)] for name in ("bas", "cam")}
    thresholds = {"bas": np.full(classes, 0.25, np.float32)}
    return seedfile.Seed(np.arange(classes), (32, 40), maps, thresholds, strides={"bas": 8})


def test_seeds_are_read_as_written(tmp_path):
    seed = seed_of()
    seedfile.write(tmp_path / "deep/a.npz", seed)
    again = seedfile.read(tmp_path / "deep/a.npz")
    assert again.size == (32, 40) and again.classes.tolist() == [0, 1] and again.thresholds["bas"].tolist() == [0.25, 0.25]
    assert again.strides == {"bas": 8}
    for name in ("bas", "cam"):
        assert all(np.array_equal(a, b) for a, b in zip(seed.maps[name], again.maps[name], strict=True))
    for maps in (seedfile.full_maps(again, "sum"), seedfile.strided_maps(again, "bas")):
        assert float(maps.amax()) == pytest.approx(1, abs=1e-4)
    assert seedfile.full_maps(again, "cam").shape == (2, 32, 40) and seedfile.strided_maps(again, "cam").shape == (2, 8, 10)


def test_damaged_seeds_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    seedfile.write(path, seed_of())
    content = path.read_bytes()
    for length in (0, 3, 100, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(StageError, match=r"Cannot read seed .*Run `bas seed infer` again"):
            seedfile.read(path)
    with pytest.raises(StageError, match="No seeds of source 'other': this run holds bas, cam"):
        seedfile.full_maps(seed_of(), "other")


# --- scores ---


def test_scores_have_their_keys_and_no_empty_means(generated):
    """One class, one wrong pixel in four, one void: IoU 2/3 and 1/2; a subset of absent classes has no key."""
    scores, data = scoring.Scores(), open_at(generated)
    count = scoring.MapScores(data, {"mIoU-1": [1], "mIoU-none": [4, 5]}, fixed=0.5)
    truth = np.array([[0, 0, 0, 1, 255]], np.uint8)
    count.add("a", truth, np.array([[[0.1, 0.2, 0.6, 0.9, 0.0]]], np.float32), [0], None)
    count.enter(scores, "train/bas")
    assert scores.metrics == {
        "train/bas/oracle/mIoU": 100.0,
        "train/bas/oracle/mIoU-1": 100.0,
        "train/bas/oracle/threshold": 0.6,
        "train/bas/fixed/mIoU": 58.33,
        "train/bas/fixed/mIoU-1": 50.0,
        "train/bas/fixed/threshold": 0.5,
    }
    assert scores.classes["train/bas/fixed/mIoU"] == {"background": 66.67, "zebra": 50.0}


def test_details_by_threshold_class_and_object(generated, tmp_path):
    """The truth of the test above with a second class that no map finds: it is in the means, and an object of IoU 0."""
    count = scoring.MapScores(open_at(generated), {"mIoU-1": [1]}, fixed=0.5)
    truth = np.array([[0, 0, 0, 1, 2]], np.uint8)
    count.add("a", truth, np.array([[[0.1, 0.2, 0.6, 0.9, 0.0]]], np.float32), [0], np.array([[0, 0, 0, 1, 2]], np.uint8))
    scoring.keep(tmp_path, "train", {"own": count})
    detail = json.loads((tmp_path / "scores.json").read_text())
    own, first, second = detail["sources"]["own"], *open_at(generated).classes[:2]
    assert detail["split"] == "train"
    at = own["curve"]["threshold"].index(0.5)
    assert {name: values[at] for name, values in own["curve"].items()} == {
        **{"threshold": 0.5, "mIoU": 33.33, "mIoU-1": 50.0},  # (2/4 + 1/2 + 0) / 3 and 1/2
        **{"precision": 58.33, "recall": 55.56},  # (2/3 + 1/2) / 2, nothing being predicted as the second; (2/3 + 1 + 0) / 3
    }
    assert own["kinds"]["fixed"]["threshold"] == 0.5 and own["kinds"]["image-specific"]["threshold"] is None
    assert own["kinds"]["fixed"]["classes"] == {
        "background": {"IoU": 50.0, "precision": 66.67, "recall": 66.67},
        first: {"IoU": 50.0, "precision": 50.0, "recall": 100.0},
        second: {"IoU": 0.0, "precision": None, "recall": 0.0},
    }
    assert own["objects"] == {
        **{"image": ["a", "a"], "class": [first, second], "share": [20.0, 20.0]},
        **{"oracle": [100.0, 0.0], "fixed": [50.0, 0.0], "image-specific": [100.0, 100.0]},
    }
    filled = [row for row in own["kinds"]["fixed"]["sizes"] if row["objects"]]
    assert filled == [{"from": 10.0, "to": 20.0, "objects": 2, "IoU": 25.0}]
    with Image.open(tmp_path / "curves.png") as plot:
        assert plot.width > 4 * 300


def test_masks_without_a_counted_pixel_give_no_numbers(generated):
    scores = scoring.Scores()
    count = scoring.MapScores(open_at(generated), {"mIoU-2": [1, 2]}, fixed=0.5)
    count.add("a", np.full((2, 2), 255, np.uint8), np.zeros((1, 2, 2), np.float32), [0], None)
    count.enter(scores, "train/bas")
    assert scores.metrics == {} and scores.classes == {}
    assert count.detail()["kinds"] == {}


def test_a_mask_of_another_size_is_refused(generated):
    count = scoring.MapScores(open_at(generated), {}, fixed=0.5)
    with pytest.raises(StageError, match="its mask has 3x2 pixels, the image 2x2"):
        count.add("a", np.zeros((2, 3), np.uint8), np.zeros((1, 2, 2), np.float32), [0], None)


def test_without_masks_there_is_nothing_to_score(devkit, caplog):
    log = logging.getLogger("test")
    pairs = scoring.with_truth(open_at(devkit), "score", log)
    assert (
        pairs is not None
        and [[sample.id for sample, _ in pairs] for _ in range(2)] == [[f"demo_{index:05d}" for index in range(len(pairs))]] * 2
    )
    (devkit / "SegmentationClass/demo_00002.png").unlink()
    with caplog.at_level(logging.INFO, "test"):
        assert scoring.with_truth(open_at(devkit), "score", log) is None
    assert "1 of 8 images have no true mask, first 'demo_00002'" in caplog.text
