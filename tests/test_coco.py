"""COCO's documents: who is where, masks by a stated rule, the layouts in circulation, and documents that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, Finished, settings
from PIL import Image

from stages.core.errors import StageError
from stages.data import coco
from stages.data.detections import covered
from stages.data.images import VOID, read_mask
from stages.data.readers import Place, open_reader
from stages.data.readers.coco import Coco

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """A rectangle as COCO's polygons."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(*counts: int, height: int = 4, width: int = 6) -> dict[str, Any]:
    return {"size": [height, width], "counts": list(counts)}


def annotation(image: int, category: int, segmentation: Any, crowd: bool = False) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": int(crowd)}


def content(*annotations: dict[str, Any], names: tuple[str, ...] = ("000000000009.jpg", "000000000025.jpg")) -> dict[str, Any]:
    """A document of photographs of six by four pixels, numbered 9, 25 and so on."""
    images = [{"id": int(Path(n).stem), "file_name": n, "height": 4, "width": 6} for n in names]
    numbered = [{"id": number, **one} for number, one in enumerate(annotations, 1)]
    return {"images": images, "annotations": numbered, "categories": CATEGORIES}


def written(path: Path, document: Any, photographs: Path | None = None) -> Path:
    """The document on disk, its photographs in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for entry in document["images"] if photographs else ():
        assert photographs is not None
        target = photographs / entry["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), 77, np.uint8)).save(target)
    return path


# --- masks ---


def test_smaller_objects_lie_over_larger_ones_and_crowds_under_both() -> None:
    """A table of 24 pixels, a cup of 4 on it although it was annotated first, a crowd where neither is: nowhere."""
    shapes: list[coco.Shape] = [(3, box(1, 1, 3, 3), False), (1, box(0, 0, 4, 4), False), (2, runs(0, 24), True)]
    mask = coco.render("x", (4, 6), shapes)
    assert mask.tolist() == [[1, 1, 1, 1, 255, 255], [1, 3, 3, 1, 255, 255], [1, 3, 3, 1, 255, 255], [1, 1, 1, 1, 255, 255]]
    assert np.array_equal(mask, coco.render("x", (4, 6), shapes[::-1]))  # whatever their order


def test_of_equal_sizes_the_later_lies_on_top() -> None:
    shapes: list[coco.Shape] = [(1, box(0, 0, 2, 4), False), (2, box(1, 0, 3, 4), False)]
    assert coco.render("x", (4, 6), shapes)[0].tolist() == [1, 2, 2, 0, 0, 0]


def test_run_lengths_go_column_after_column_compressed_or_not() -> None:
    expected = np.zeros((4, 6), bool)
    expected[2:, 0] = expected[:1, 1] = True
    assert np.array_equal(covered(runs(2, 3, 19), (4, 6)), expected)
    from pycocotools import mask as coder

    code: Any = coder.encode(np.asfortranarray(expected, dtype=np.uint8))
    assert np.array_equal(covered({"size": [4, 6], "counts": code["counts"].decode()}, (4, 6)), expected)
    assert not covered([[1, 1, 2, 2]], (4, 6)).any()  # two corners cover nothing: they are no box


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 6], "counts": [2, 3]},
        {"size": [4, 6], "counts": [-5, 29]},
        {"size": [4, 6], "counts": [2**40, 2]},
        {"size": [4000, 6000], "counts": [0, 24_000_000]},
        {"size": [4, 6], "counts": "~~~"},
        {"size": [4, 6], "counts": "PPPPPPPPPPPPPPPPPPPPPPPPPPP"},
        [[0, 0, 1e12, 0, 1e12, 1e12]],
        [[0, 0, float("nan"), 0, 1, 1]],
        [[0, 0, 1, 0, 1]],
        ["0 0 1 0 1 1"],
        "none",
        None,
    ],
)
def test_outlines_that_would_lead_astray_are_refused(segmentation: Any) -> None:
    """pycocotools reads run lengths beyond its memory, and walks along edges of any length."""
    with pytest.raises(StageError, match="Cannot draw the true mask of 'x'"):
        coco.render("x", (4, 6), [(1, segmentation, False)])


# --- the document ---


def test_classes_are_categories_by_id_without_gaps_and_images_without_object_are_counted(tmp_path: Path) -> None:
    found = [annotation(9, 90, box(0, 0, 2, 2)), annotation(9, 1, box(0, 0, 1, 1)), annotation(9, 90, runs(0, 24), crowd=True)]
    index = coco.Document(written(tmp_path / "instances_x.json", content(*found))).index()
    assert index.classes == ("person", "stop sign", "toothbrush")
    assert index.labels == {"000000000009": (0, 2), "000000000025": ()}
    assert index.ids == ("000000000009",) and index.empty == 1


def test_a_class_is_present_where_only_a_crowd_of_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "instances_x.json", content(annotation(25, 1, runs(0, 24), crowd=True)))
    document = coco.Document(path)
    assert document.index().labels["000000000025"] == (0,)
    assert (coco.render("000000000025", *document.shapes("000000000025")) == VOID).all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"images": [{"id": 1, "file_name": "../../etc/passwd", "height": 4, "width": 6}]}, "outside its folder"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd", "height": 4, "width": 6}]}, "outside its folder"),
        ({"images": [{"id": 1, "file_name": "..\\x.jpg", "height": 4, "width": 6}]}, "outside its folder"),
        ({"images": [{"id": n, "file_name": f"a.{s}"} for n, s in ((1, "jpg"), (2, "png"))]}, "the same id"),
        ({"annotations": [annotation(7, 1, [])]}, "image 7, which it does not hold"),
        ({"annotations": [annotation(9, 2, [])]}, "category 2, which it does not hold"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "the same name"),
        ({"categories": None}, "'categories' is not a list"),
        ({"annotations": [3]}, "'image_id' is not a whole number"),
    ],
)
def test_a_document_that_is_none_is_told(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = tmp_path / "instances_x.json"
    path.write_text(json.dumps(content() | change))
    with pytest.raises(StageError, match=f"Cannot use COCO document .*{why}"):
        coco.Document(path)


def test_a_kept_index_serves_until_the_document_changes(tmp_path: Path) -> None:
    path = written(tmp_path / "instances_x.json", content(annotation(9, 90, box(0, 0, 2, 2))))
    made = coco.Document(path).index()
    assert coco.kept_index(path) is None
    coco.keep_index(path, made)
    assert coco.kept_index(path) == made
    written(path, content(annotation(25, 1, box(0, 0, 2, 2))))
    assert coco.kept_index(path) is None and coco.read_index(path).ids == ("000000000025",)
    path.with_suffix(coco.INDEX).write_text('{"of": 1}')
    assert coco.kept_index(path) is None


# --- the layouts ---


@pytest.mark.parametrize(
    ("document", "photographs", "name"),
    [
        ("annotations/instances_train2014.json", "train2014", "train2014"),
        ("annotations/instances_train2014.json", "images/train2014", "train2014"),
        ("annotations/instances_train2014.json", "JPEGImages", "train2014"),
        ("coco/annotations/instances_val2017.json", "coco/val2017", "val2017"),
        ("instances_all.json", "images", "all"),
        ("train/_annotations.coco.json", "train", "train"),
    ],
)
def test_the_layouts_in_circulation_are_recognised(document: str, photographs: str, name: str, tmp_path: Path) -> None:
    written(tmp_path / document, content(annotation(9, 90, box(0, 0, 2, 2))), tmp_path / photographs)
    (tmp_path / document).with_name("captions_train2014.json").write_text("{}")
    reader = open_reader("coco", Place(tmp_path, scratch=tmp_path / "run"))
    assert reader.has_list(name) and not reader.has_list("train_aug")
    ids = reader.ids(name)
    assert reader.files(ids, name) == [str(tmp_path / photographs / "000000000009.jpg")]
    labels, source = reader.labels(ids)
    assert labels == {"000000000009": (2,)} and source == f"{Path(document).name} (1 images without object left out)"
    path = reader.mask(ids[0])
    assert path == tmp_path / "run" / name / "000000000009.png"
    assert read_mask(path).tolist() == [[3, 3, 0, 0, 0, 0]] * 2 + [[0] * 6] * 2
    drawn = path.stat().st_mtime_ns
    assert reader.mask(ids[0]) == path and path.stat().st_mtime_ns == drawn
    assert reader.instances() == tmp_path / document and reader.objects(ids[0]) is None


def test_photographs_in_folders_of_their_own_keep_apart(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{folder}/1.jpg", "height": 4, "width": 6} for n, folder in ((1, "a"), (2, "b"))]
    document = content(annotation(1, 1, box(0, 0, 1, 1)), annotation(2, 90, box(0, 0, 1, 1))) | {"images": images}
    written(tmp_path / "annotations/instances_x.json", document, tmp_path / "images")
    reader = Coco(tmp_path)
    assert reader.ids("x") == ("a-1", "b-1")
    assert reader.files(("b-1",), "x") == [f"{tmp_path}/images{os.sep}b/1.jpg"]


def test_masks_that_were_drawn_before_are_taken_and_none_is_drawn_without_a_place(tmp_path: Path) -> None:
    written(tmp_path / "annotations/instances_x.json", content(annotation(9, 1, box(0, 0, 1, 1))), tmp_path / "x")
    assert Coco(tmp_path).mask("000000000009") is None and Coco(tmp_path).mask("000000000025") is None
    drawn = tmp_path / "masks/x/000000000009.png"
    drawn.parent.mkdir(parents=True)
    drawn.write_bytes(b"drawn")
    assert Coco(tmp_path).mask("000000000009") == drawn


def test_boxes_alone_make_labels_and_no_masks(tmp_path: Path) -> None:
    one = annotation(9, 1, []) | {"bbox": [0, 0, 3, 3]}
    written(tmp_path / "annotations/instances_x.json", content(one), tmp_path / "x")
    reader = Coco(tmp_path, scratch=tmp_path / "run")
    assert reader.labels(("000000000009",))[0] == {"000000000009": (0,)} and reader.mask("000000000009") is None


def test_absent_photographs_lists_and_documents_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such folder"):
        open_reader("coco", Place(tmp_path / "none"))
    with pytest.raises(StageError, match=r"neither it nor its folder annotations holds instances_\*.json"):
        open_reader("coco", Place(tmp_path))
    path = written(tmp_path / "annotations/instances_train2014.json", content(annotation(9, 1, box(0, 0, 1, 1))), tmp_path / "x")
    reader = open_reader("coco", Place(tmp_path))
    with pytest.raises(StageError, match=r"1 of 1 are not in .*train2014, first '000000000009'"):
        reader.files(reader.ids("train2014"), "train2014")
    with pytest.raises(StageError, match=r"No image list 'train_2014' .*lists there: train2014.*Did you mean 'train2014'"):
        reader.ids("train_2014")
    written(path, content())
    with pytest.raises(StageError, match="has no annotation"):
        open_reader("coco", Place(tmp_path)).ids("train2014")


def test_lists_of_other_categories_do_not_go_together(tmp_path: Path) -> None:
    written(tmp_path / "annotations/instances_a.json", content())
    written(tmp_path / "annotations/instances_b.json", content() | {"categories": CATEGORIES[:2]})
    with pytest.raises(StageError, match=r"instances_b.json has other categories than instances_a.json"):
        _ = Coco(tmp_path).classes


# --- a run on it ---


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Six photographs of 64 pixels to train on and two for the final numbers, one each without object."""
    rng = np.random.default_rng(0)
    for name, numbers in (("train2014", range(1, 8)), ("val2014", range(11, 14))):
        images = [{"id": n, "file_name": f"COCO_{name}_{n:012}.jpg", "height": 64, "width": 64} for n in numbers]
        found = [annotation(n, (1, 13, 90)[n % 3], box(8, 8, 40, 40)) for n in list(numbers)[1:]]
        document = {"images": images, "annotations": found, "categories": CATEGORIES}
        path = written(tmp_path / f"coco/annotations/instances_{name}.json", document)
        assert path.is_file()
        for entry in images:
            target = tmp_path / "coco" / name / entry["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(target)
    return tmp_path / "coco"


def train(bas: Command, small: Path, *more: str) -> Finished:
    lists = ("data.train=train2014", "data.score=train2014")
    return bas("seed", "train", "coco", "--data", str(small), "--run", "run", *settings(*lists, *more))


def test_coco_trains_on_photographs_with_objects_and_scores_on_its_outlines(bas: Command, small: Path, tmp_path: Path) -> None:
    assert train(bas, small).code == 0
    manifest = json.loads((tmp_path / "run/seed_train/manifest.json").read_text())
    assert manifest["notes"]["images"] == 6
    assert manifest["notes"]["labels"] == "instances_train2014.json (1 images without object left out)"
    shown = bas("seed", "infer", "--run", "run", "--json")
    assert shown.code == 0, shown.err
    assert "train/bas/oracle/mIoU" in json.loads((tmp_path / "run/seed_infer/manifest.json").read_text())["metrics"]
    assert len(list((tmp_path / "run/true_masks/train2014").glob("*.png"))) == 6


def test_a_folder_in_cocos_format_needs_no_configuration(bas: Command, small: Path, tmp_path: Path) -> None:
    """Documents to train and to test on are lists; one alone is split, its images without object counted and in no list."""
    both = bas("data", "init", str(small), "--json").json
    assert both["lists"] == {"train2014": 6, "val2014": 2} and (both["images"], both["unlabelled"]) == (10, 2)
    (small / "annotations/instances_val2014.json").unlink()
    assert bas("run", str(small), "--run", "run", "--dry-run", "--until", "seed_train").code == 0
    assert bas("data", "init", str(small), "--out", "one.yaml").code == 0
    listed = [image_id for path in (tmp_path / "one_lists").glob("*.txt") for image_id in path.read_text().split()]
    assert sorted(listed) == [f"COCO_train2014_{n:012}" for n in range(2, 8)]
    assert "reader: coco" in (tmp_path / "one.yaml").read_text()


def test_weights_trained_on_cocos_pixels_are_refused_on_coco(bas: Command, small: Path) -> None:
    """On COCO's eighty classes, whatever the stage; other classes in COCO's format may start from them."""
    words = ("run", "coco", "--data", str(small), "--run", "run", "--dry-run", "--set", "segment_train.weights=coco")
    assert bas(*words, "--until", "seed_infer").code == 0
    for path in (small / "annotations").iterdir():
        document = json.loads(path.read_text())
        others = [{"id": 100 + number, "name": name} for number, name in enumerate(coco.CLASSES) if name not in _names()]
        path.write_text(json.dumps(document | {"categories": [*document["categories"], *others]}))
    told = bas(*words).error
    assert told.startswith("Refused segment_train.weights=coco on COCO: ") and "segment_train.weights=imagenet" in told


def _names() -> set[Any]:
    return {one["name"] for one in CATEGORIES}
