"""Pseudo masks to editors and back: every format gives the pixels back, corrections are learnt from, and faults are one line."""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import TINY, Command, Counter
from PIL import Image
from pycocotools.mask import encode

from stages import masks_import, segment_train
from stages.actions.configure import resolve
from stages.actions.run import Run
from stages.core.config import read_yaml
from stages.core.errors import StageError
from stages.core.files import digest, write_json
from stages.core.manifest import MANIFEST
from stages.data import drawings, editors, images
from stages.data.drawings import Drawing
from stages.data.editors import coco, cvat, labelme

SIDE = 64  # of the generated images
FORMATS = ("coco", "cvat", "labelme")
CLASSES = ("zebra", "leopard", "fox", "panda", "mandrill")
EARLIER = ("seed_train", "seed_infer", "irn_labels", "irn_train", "irn_masks")


def adorned(mask: np.ndarray, index: int) -> np.ndarray:
    """A true mask with what is hard to draw: touching classes at the border, a hole, single pixels, void."""
    mask = mask.copy()
    mask[:9, :9] = 1
    mask[:9, 9:15] = 2
    mask[3:6, 3:6] = 0
    mask[4, 4] = 1
    mask[20, 60] = mask[21, 61] = 1 + index % 5
    mask[-4:, -6:] = images.VOID
    return mask


@pytest.fixture
def run(tmp_path: Path, generated: Path) -> Run:
    """A run whose masks are there: adorned true ones; what came before is stated and was never computed."""
    values = {"data": {"root": str(generated)}}
    run = Run(tmp_path / "run", resolve("demo", ["data.reader=voc", "mask_choice.images=0", *TINY], values))
    run.folder.mkdir()
    run.save_config()
    for index, sample in enumerate(run.dataset.split("train")):
        mask = images.read_mask(run.dataset.mask(sample) or Path())
        path = run.folder / "irn_masks/masks" / f"{sample.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_mask(path, adorned(mask, index))
    for name in EARLIER:
        folder = run.folder / name
        files = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*.png")}
        wanted = run.wanted(name)
        stated = {
            "stage": name,
            "fingerprint": wanted,
            "digest": digest(wanted),
            "outputs": {"count": len(files), "files": files},
        }
        write_json(folder / MANIFEST, {**stated, "seconds": 1.0, "metrics": {}, "classes": {}, "notes": {}})
    return run


def masks(run: Run, stage: str = "irn_masks") -> dict[str, np.ndarray]:
    return {path.stem: images.read_mask(path) for path in sorted((run.folder / stage / "masks").glob("*.png"))}


def rerun(run: Run, bas: Command) -> dict[str, str]:
    """Choose the masks anew; returns where each comes from."""
    done = bas("refine", "choose", "--run", str(run.folder), "-q")
    assert done.code == 0, done.err
    return json.loads((run.folder / "mask_choice/choice.json").read_text())


def change(folder: Path, kind: str, image_id: str) -> None:
    """Draw a square of class mandrill over the drawing of one image, as a person would in the editor."""
    corners = [[40, 30], [50, 30], [50, 44], [40, 44]]
    if kind == "labelme":
        content = json.loads((folder / f"{image_id}.json").read_text())
        content["shapes"].append({"label": "mandrill", "shape_type": "polygon", "points": corners})
        (folder / f"{image_id}.json").write_text(json.dumps(content))
    elif kind == "coco":
        content = json.loads((folder / coco.FILE).read_text())
        number = next(entry["id"] for entry in content["images"] if entry["file_name"].startswith(image_id))
        flat = [value for corner in corners for value in corner]
        content["annotations"].append({"id": 10**6, "image_id": number, "category_id": 5, "segmentation": [flat]})
        (folder / coco.FILE).write_text(json.dumps(content))
    else:
        tree = ElementTree.parse(folder / cvat.FILE)
        image = next(entry for entry in tree.iter("image") if entry.get("name", "").startswith(image_id))
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners)
        image.insert(0, ElementTree.Element("polygon", {"label": "mandrill", "points": points, "z_order": "1000"}))
        tree.write(folder / cvat.FILE)


# --- there and back ---


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shapes", [("--tolerance", "0"), ("--shapes", "masks")])
def test_exact_shapes_give_every_pixel_back(bas: Command, run: Run, tmp_path: Path, kind: str, shapes: tuple[str, str]):
    done = bas("masks", "export", "out", "--format", kind, *shapes, "--run", str(run.folder), "--json")
    assert done.code == 0, done.err
    assert done.json["changed"] == 0 and done.json["images"] == 8
    found = bas("masks", "import", "out", "--all", "--run", str(run.folder), "--json").json
    assert found["format"] == kind and found["images"] == 8 and found["empty"] == 0
    back = masks(run, "corrections/out")
    for image_id, mask in masks(run).items():
        np.testing.assert_array_equal(back[image_id], mask, image_id)


def test_index_pngs_go_there_and_back(bas: Command, run: Run, tmp_path: Path):
    assert bas("masks", "export", "out", "--format", "png", "--run", str(run.folder)).code == 0
    assert bas("masks", "import", "out", "--all", "--name", "mine", "--run", str(run.folder), "-q").code == 0
    for (name, mask), (other, back) in zip(masks(run).items(), masks(run, "corrections/mine").items(), strict=True):
        assert name == other and (mask == back).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_simplified_polygons_state_what_they_change(bas: Command, run: Run, tmp_path: Path, kind: str):
    """What is stated at export is what an import finds; nothing was corrected, so nothing is taken unasked."""
    words = ("masks", "export", "out", "--format", kind, "--tolerance", "1.5", "--run", str(run.folder))
    done = bas(*words, "--json").json
    assert 0 < done["changed"] < 5
    assert "8 are as they were exported" in bas("masks", "import", "out", "--run", str(run.folder)).error
    assert bas("masks", "import", "out", "--all", "--run", str(run.folder), "-q").code == 0
    back = masks(run, "corrections/out")
    different = sum(int((back[image_id] != mask).sum()) for image_id, mask in masks(run).items())
    assert done["changed"] == pytest.approx(100 * different / (8 * SIDE * SIDE), abs=1e-4)


# --- corrections are learnt from ---


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_corrected_is_learnt_from(bas: Command, run: Run, tmp_path: Path, kind: str):
    before = rerun(run, bas)
    assert set(before.values()) == {"refined"}
    first = min(before)
    assert bas("masks", "export", "out", "--format", kind, "--run", str(run.folder), "-q").code == 0
    change(tmp_path / "out", kind, first)
    done = bas("masks", "import", "out", "--run", str(run.folder))
    assert "1 corrected masks of 8 images imported, left out: 7 as they were exported" in done.err
    rows = {row["name"]: row for row in bas("status", "--run", str(run.folder), "--json").json["stages"]}
    assert rows["corrections/out"]["state"] == "done" and rows["irn_masks"]["state"] == "done"
    assert rows["mask_choice"]["state"] == "stale" and "mask_choice.corrected" in rows["mask_choice"]["why"]

    chosen = rerun(run, bas)
    assert [image_id for image_id, origin in chosen.items() if origin == "corrections/out"] == [first]
    assert (masks(run, "mask_choice")[first][30:44, 40:50] == 5).all()
    other = max(before)
    np.testing.assert_array_equal(masks(run, "mask_choice")[other], masks(run)[other])
    ctx = run.context("segment_train", Counter(), logging.getLogger("test"))
    config = run.sections["segment_train"]
    assert isinstance(config, segment_train.Config)
    assert segment_train._supervision(config, ctx) == "pseudo, 1 of 8 corrected by hand"
    words = "image-level labels and 1 of 8 pseudo masks corrected by hand"
    assert bas("eval", "--run", str(run.folder), "--json").json["supervision"] == words
    assert f"supervision: {words}" in bas("status", "--run", str(run.folder)).err


def test_corrections_of_several_sittings_add_up(bas: Command, run: Run, tmp_path: Path):
    ids = sorted(masks(run))
    for name, chosen in (("monday", ids[:2]), ("tuesday", ids[1:3])):
        for image_id in chosen:
            save_png(tmp_path / name, image_id, 3 if name == "monday" else 4)
        assert bas("masks", "import", name, "--run", str(run.folder), "-q").code == 0
    origins = rerun(run, bas)
    assert [origins[i] for i in ids[:4]] == ["corrections/monday", "corrections/tuesday", "corrections/tuesday", "refined"]
    assert bas("masks", "import", "monday", "--run", str(run.folder), "-q").code == 0  # the latest import goes first
    assert rerun(run, bas)[ids[1]] == "corrections/monday"

    # a configuration that says nothing of corrections does not drop them
    config = tmp_path / "again.yaml"
    values = read_yaml((run.folder / "config.yaml").read_text())
    del values["mask_choice"]["corrected"]
    config.write_text(json.dumps(values))
    assert bas("run", str(config), "--run", str(run.folder), "--from", "mask_choice", "--until", "mask_choice", "-q").code == 0
    assert json.loads((run.folder / "mask_choice/choice.json").read_text())[ids[0]] == "corrections/monday"
    shutil.rmtree(run.folder / "corrections/tuesday")
    line = bas("refine", "choose", "--run", str(run.folder)).error
    assert "corrections/tuesday is not there" in line and "masks import DIR --name tuesday" in line


def save_png(folder: Path, image_id: str, label: int, size: int = SIDE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size, size), np.uint8)
    mask[10:30, 10:40] = label
    images.write_mask(folder / f"{image_id}.png", mask)
    return folder / f"{image_id}.png"


def test_importing_again_changes_nothing_until_a_file_does(bas: Command, run: Run, tmp_path: Path):
    first, second, *_ = sorted(masks(run))
    save_png(tmp_path / "mine", first, 3)
    words = ("masks", "import", "mine", "--run", str(run.folder), "--json")
    done = bas(*words).json
    assert done["imported"] and done["images"] == 1 and not bas(*words).json["imported"]
    assert "corrections/mine" in rerun(run, bas)[first]
    save_png(tmp_path / "mine", second, 2)
    again = bas(*words).json
    assert again["imported"] and again["images"] == 2 and again["why"] == "the files that were imported changed"
    rows = {row["name"]: row for row in bas("status", "--run", str(run.folder), "--json").json["stages"]}
    assert rows["mask_choice"]["why"] == "corrections/mine was imported again or is missing"
    assert rows["irn_masks"]["state"] == "done"


def test_a_faulty_import_leaves_the_former_one(bas: Command, run: Run, tmp_path: Path):
    first, second, *_ = sorted(masks(run))
    save_png(tmp_path / "mine", first, 3)
    words = ("masks", "import", "mine", "--run", str(run.folder))
    assert bas(*words, "-q").code == 0
    kept = {p: p.read_bytes() for p in (run.folder / "corrections/mine").rglob("*") if p.is_file()}
    save_png(tmp_path / "mine", second, 77)
    assert "it holds label 77 in a dataset of 5 classes" in bas(*words).error
    save_png(tmp_path / "mine", second, 2)
    (tmp_path / "mine" / f"{first}.png").unlink()
    line = bas(*words).error
    assert f"1 images would be lost, first '{first}'" in line and "--name" in line
    assert kept == {p: p.read_bytes() for p in (run.folder / "corrections/mine").rglob("*") if p.is_file()}
    aside = run.folder / "corrections/.mine.former"
    (run.folder / "corrections/mine").rename(aside)  # as a kill in the middle would leave it
    assert f"1 images would be lost, first '{first}'" in bas(*words).error
    assert kept.keys() == {p for p in (run.folder / "corrections/mine").rglob("*") if p.is_file()} and not aside.exists()
    assert bas(*words, "--force", "-q").code == 0 and list(masks(run, "corrections/mine")) == [second]


def test_empty_drawings_are_not_taken(bas: Command, run: Run, tmp_path: Path):
    first, second, *_ = sorted(masks(run))
    save_png(tmp_path / "mine", first, 0)
    line = bas("masks", "import", "mine", "--run", str(run.folder)).error
    assert "of 1 images 0 are as they were exported and 1 empty" in line
    save_png(tmp_path / "mine", second, 1)
    assert bas("masks", "import", "mine", "--run", str(run.folder), "--json").json["empty"] == 1


# --- export ---


def test_the_least_confident_masks_come_first(bas: Command, run: Run, tmp_path: Path):
    words = ("masks", "export", "out", "--format", "coco", "--run", str(run.folder))
    assert "no confidence.json" in bas(*words, "--only", "worst:2").error
    assert "not of the form worst:N" in bas(*words, "--only", "best:2").error
    ids = sorted(masks(run))
    write_json(run.folder / "irn_masks/confidence.json", {image_id: 1 - i / 10 for i, image_id in enumerate(ids)})
    assert bas(*words, "--only", "worst:2", "-q").code == 0
    content = json.loads((tmp_path / "out" / coco.FILE).read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{ids[-1]}.png", f"{ids[-2]}.png"]
    assert [entry["name"] for entry in content["categories"]] == [*CLASSES, "void"]


def test_files_are_not_written_over_unasked(bas: Command, run: Run, tmp_path: Path):
    for kind in ("coco", "labelme", "png"):
        words = ("masks", "export", kind, "--format", kind, "--run", str(run.folder), "-q")
        assert bas(*words).code == 0
        assert "they may have been corrected" in bas(*words).error
        assert bas(*words, "--force").code == 0


def test_labelme_finds_the_photographs(bas: Command, run: Run, tmp_path: Path):
    assert bas("masks", "export", "deep/out", "--format", "labelme", "--run", str(run.folder), "-q").code == 0
    for path in (tmp_path / "deep/out").glob("*.json"):
        content = json.loads(path.read_text())
        assert content["imageData"] is None and (content["imageHeight"], content["imageWidth"]) == (SIDE, SIDE)
        with Image.open(path.parent / content["imagePath"]) as photograph:
            assert photograph.size == (SIDE, SIDE) and Path(content["imagePath"]).stem == path.stem
    assert (tmp_path / "deep/out/labels.txt").read_text().split() == [*CLASSES, "background", "void"]


def test_a_run_without_masks_says_what_to_run(bas: Command, run: Run, tmp_path: Path):
    shutil.rmtree(run.folder / "irn_masks")
    line = bas("masks", "export", "out", "--format", "png", "--run", str(run.folder)).error
    assert "irn_masks is not complete" in line and "bas refine irn" in line


# --- what others write ---


def square(label: str = "fox", **changes: Any) -> dict[str, Any]:
    return {"label": label, "points": [[1, 1], [9, 1], [9, 9], [1, 9]], "shape_type": "polygon", **changes}


def of_labelme(folder: Path, name: str, *shapes: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"shapes": list(shapes), "imagePath": f"{name}.png", "imageHeight": SIDE, "imageWidth": SIDE, **changes}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"


def painted(path: Path, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    _, (drawing, *_) = editors.read([path])
    assert isinstance(drawing, Drawing)
    return drawings.paint(drawing, size, drawings.labels_of(CLASSES))


def test_later_shapes_lie_over_earlier_ones_and_background_cuts(tmp_path: Path):
    inner = {"points": [[3, 3], [7, 3], [7, 7], [3, 7]]}
    last = square("__ignore__", points=[[5, 5], [6, 6]], shape_type="rectangle")
    mask = painted(of_labelme(tmp_path, "a", square(), square("_background_", **inner), last))
    assert (mask == 3).sum() == 64 - 16 and (mask == 0).sum() == SIDE * SIDE - 64 + 16 - 1 and mask[5, 5] == images.VOID


def test_a_class_that_is_called_void_is_that_class():
    labels = drawings.labels_of(("void", "cat"))
    assert labels["void"] == 1 and labels["__ignore__"] == images.VOID
    shape, *_ = drawings.draw(np.full((2, 2), images.VOID, np.uint8), ("void", "cat"), "polygons", 0)
    assert shape.label == "__ignore__"


def test_masks_wait_as_run_lengths():
    """A class of 3 x 2 pixels without one of them: from its corner, one in, one out, four in."""
    mask = np.zeros((500, 400), np.uint8)
    mask[10:13, 20:22] = 2
    mask[10, 21] = 0
    (shape,) = drawings.draw(mask, CLASSES, "masks", 0)
    assert isinstance(shape.area, drawings.Runs) and shape.label == "leopard"
    assert (shape.area.top, shape.area.left, shape.area.height, shape.area.width) == (10, 20, 3, 2)
    assert list(shape.area.counts) == [0, 1, 1, 4]
    np.testing.assert_array_equal(
        drawings.paint(Drawing("", None, [shape], Path()), mask.shape, drawings.labels_of(CLASSES)), mask
    )


def test_labelme_masks_lie_from_their_first_to_their_last_pixel(tmp_path: Path):
    picture = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 1], [1, 1, 0]], np.uint8)).save(picture, format="PNG")
    text = base64.b64encode(picture.getvalue()).decode()
    mask = painted(of_labelme(tmp_path, "a", {"label": "fox", "shape_type": "mask", "points": [[5, 7], [7, 8]], "mask": text}))
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True)) == [(7, 6), (7, 7), (8, 5), (8, 6)]


@pytest.mark.parametrize(
    ("counts", "pixels"),
    [
        ([1, 2, 9], [(1, 0), (2, 0)]),  # three rows, four columns, column after column
        ("129", [(1, 0), (2, 0)]),
        (
            "03122",
            [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)],
        ),  # 0 3 1 5 3: to the last two 3 and 1 are added
    ],
)
def test_coco_run_lengths_plain_and_compressed(tmp_path: Path, counts: Any, pixels: list[tuple[int, int]]):
    entry = {"id": 1, "image_id": 4, "category_id": 9, "segmentation": {"size": [3, 4], "counts": counts}}
    content = {
        "images": [{"id": 4, "file_name": "a.png", "height": 3, "width": 4}],
        "categories": [{"id": 9, "name": "fox"}],
        "annotations": [entry],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    mask = painted(tmp_path / "a.json", (3, 4))
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True)) == sorted(pixels)


def test_negative_differences_are_decompressed():
    """40 pixels take two characters (8 + continuation, 1); the fourth length is 39 less than the second."""
    assert coco.decompressed("0X11") == [0, 40, 1]
    assert coco.decompressed("0X11iN") == [0, 40, 1, 1]


def test_compressed_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (40, 60)):
        inside = rng.random(size) < 0.3
        code = encode(np.asfortranarray(inside.astype(np.uint8)))
        counts = coco.decompressed(code["counts"].decode())
        np.testing.assert_array_equal(drawings.Runs(0, 0, *size, counts, by_column=True).cover(size).inside, inside)
        assert drawings.run_lengths(inside.T) == counts


def test_cvat_shapes_are_painted_by_height(tmp_path: Path):
    text = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
    <image id="0" name="sub/a.jpg" width="6" height="4">
    <polygon label="fox" points="0.0,0.0;4.0,0.0;4.0,4.0;0.0,4.0" z_order="2"/>
    <box label="zebra" xtl="2" ytl="1" xbr="6" ybr="3" z_order="1"/>
    <mask label="panda" rle="1, 2, 1" left="4" top="0" width="2" height="2" z_order="3"/></image></annotations>"""
    (tmp_path / "a.xml").write_text(text)
    mask = painted(tmp_path / "a.xml", (4, 6))
    assert mask.tolist() == [[3, 3, 3, 3, 0, 4], [3, 3, 3, 3, 4, 1], [3, 3, 3, 3, 1, 1], [3, 3, 3, 3, 0, 0]]


@pytest.mark.parametrize(
    "name", ["{0}", "{0}.png", "photos/{0}.png", "..\\photos\\{0}.jpg", "../../../etc/{0}.png", "C:\\é\\{0}.png"]
)
def test_images_are_found_by_their_id(bas: Command, run: Run, tmp_path: Path, name: str):
    """No path in a file is followed: only the id in it counts."""
    first = min(masks(run))
    path = of_labelme(tmp_path / "mine", "other", square(), imagePath=name.format(first))
    assert path.exists() and bas("masks", "import", "mine", "--run", str(run.folder), "-q").code == 0
    assert (masks(run, "corrections/mine")[first][1:9, 1:9] == 3).all()


def test_ids_with_dots_and_letters_of_any_script(tmp_path: Path):
    for image_id in ("a.b.c", "猫 01", "x" * 60):
        shapes = drawings.draw(np.eye(4, dtype=np.uint8), CLASSES, "polygons", 1)
        drawing = Drawing(f"{image_id}.jpg", (4, 4), shapes, tmp_path)
        for path in (coco.write(tmp_path, [drawing], CLASSES), cvat.write(tmp_path, [drawing], CLASSES)):
            (back,) = editors.read([path])[1]
            assert isinstance(back, Drawing) and back.name == f"{image_id}.jpg"
        assert labelme.write(tmp_path, drawing, image_id, f"../{image_id}.jpg").name == f"{image_id}.json"


# --- faults in one line ---

BAD = {
    "class": (square("foxx"), "unknown class 'foxx', did you mean 'fox'"),
    "outside": (square(points=[[70, 70], [80, 70], [80, 80]]), "a polygon outside the image, x 70 to 80, y 70 to 80"),
    "two corners": (square(points=[[1, 1], [5, 5]]), "a polygon of 2 corners"),
    "words": (square(points=[["a", "b"]]), "corners that are not pairs of numbers"),
    "infinite": (square(points=[[0, 0], [5, 1e308], [1, 1]]), "no places near an image"),
    "line": (square(shape_type="linestrip"), "a shape of type 'linestrip' covers no area"),
    "mask": (square(shape_type="mask", points=[[0, 0], [5, 5]], mask="bm9uZQ=="), "a mask that cannot be used"),
    "label": (square(label=3), "'label' is not text"),
    "points": (square(points=None), "'points' is not a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_shapes_are_told_in_one_line(bas: Command, run: Run, tmp_path: Path, case: str):
    shape, why = BAD[case]
    first, second, *_ = sorted(masks(run))
    of_labelme(tmp_path / "mine", first, square())
    of_labelme(tmp_path / "mine", second, shape)
    line = bas("masks", "import", "mine", "--run", str(run.folder)).error
    assert why in line and f"{second}.json" in line
    assert not (run.folder / "corrections/mine/manifest.json").exists()


def test_a_mask_that_claims_to_be_large_is_not_decoded(tmp_path: Path):
    picture = io.BytesIO()
    Image.new("1", (4000, 3000)).save(picture, format="PNG")
    text = base64.b64encode(picture.getvalue()).decode()
    path = of_labelme(tmp_path, "a", square(shape_type="mask", points=[[0, 0], [5, 5]], mask=text))
    with pytest.raises(Exception, match="outside the image, 4000 x 3000"):
        painted(path)
    huge = drawings.Runs(0, 0, 10**9, 10**9, [10**18])
    with pytest.raises(ValueError, match="outside the image"):
        huge.cover((SIDE, SIDE))
    with pytest.raises(ValueError, match="runs of"):
        drawings.Runs(0, 0, 4, 4, [10**18]).cover((SIDE, SIDE))


def test_images_that_are_not_of_the_list(bas: Command, run: Run, tmp_path: Path):
    held_out = run.dataset.split("val")[0].id
    of_labelme(tmp_path / "mine", held_out, square())
    line = bas("masks", "import", "mine", "--run", str(run.folder)).error
    assert f"'{held_out}.png' is none of the 8 images of the training list" in line
    shutil.rmtree(tmp_path / "mine")
    first = min(masks(run))
    of_labelme(tmp_path / "mine", first, square())
    of_labelme(tmp_path / "mine", "copy", square(), imagePath=first)
    assert f"image '{first}' is in" in bas("masks", "import", "mine", "--run", str(run.folder)).error


def test_names_of_absurd_depth_are_looked_up_at_once(run: Run, tmp_path: Path):
    samples, deep = {sample.id: sample for sample in run.dataset.split("train")}, "a/" * 200_000
    taking = masks_import._Import(masks_import.Config(), tmp_path, samples, CLASSES, {})
    with pytest.raises(StageError, match=r"'no\.png' is none of the 8 images"):
        taking.take(Drawing(f"{deep}no.png", None, [], tmp_path))
    taking.take(Drawing(f"{deep}{min(samples)}.png", None, [], tmp_path))
    assert taking.noticed == {"empty": 1}


def test_sizes_must_agree(bas: Command, run: Run, tmp_path: Path):
    first = min(masks(run))
    of_labelme(tmp_path / "mine", first, square(), imageHeight=32)
    assert "it is 64 x 32, the image is 64 x 64" in bas("masks", "import", "mine", "--run", str(run.folder)).error
    save_png(tmp_path / "png", first, 2, 48)
    assert "it is 48 x 48, the image is 64 x 64" in bas("masks", "import", "png", "--run", str(run.folder)).error


def test_hostile_xml_is_refused(tmp_path: Path):
    bomb = (
        '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotations><image name="&c;" width="1" height="1"/></annotations>'
    )
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;</annotations>'
    for text in (bomb, outside, bomb.encode("utf-16")):
        path = tmp_path / "a.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(Exception, match="declares a document type"):
            editors.read([path])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<svg/>", "its root is 'svg'"),
        ("<annotations>", "not XML"),
        ("<annotations><track/></annotations>", "an element 'track'"),
        ('<annotations><polygon label="fox" points="0,0"/></annotations>', "a polygon that is of no image"),
        ('<annotations><image name="a" width="1e3" height="9"/></annotations>', "'1e3' is not a whole number"),
        ('<annotations><image name="a" width="9" height="9"><polygon points="0,0"/></image></annotations>', "without 'label'"),
    ],
)
def test_xml_that_is_not_of_cvat(tmp_path: Path, text: str, why: str):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(Exception, match=why):
        editors.read([tmp_path / "a.xml"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "without end"),
        ("[]", "no file is of COCO, CVAT or LabelMe"),
        (
            '{"images": [], "annotations": [{"image_id": 1, "category_id": 1}], "categories": []}',
            "an image that is not in the file",
        ),
        ('{"images": 3, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [], "annotations": []}', "'categories' is not a list"),
        ('{"shapes": {}}', "'shapes' is not a list"),
    ],
)
def test_json_that_cannot_be_used(tmp_path: Path, text: str, why: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Exception, match=why):
        editors.read([tmp_path / "a.json"])


def test_folders_without_masks_or_with_two_formats(bas: Command, run: Run, tmp_path: Path):
    words = ("masks", "import", "mine", "--run", str(run.folder))
    assert "no such folder or file" in bas(*words).error
    (tmp_path / "mine").mkdir()
    assert "no .json, .xml or .png is there" in bas(*words).error
    of_labelme(tmp_path / "mine", min(masks(run)), square())
    (tmp_path / "mine/a.xml").write_text('<annotations><image name="a" width="9" height="9"/></annotations>')
    assert "two formats in one folder: labelme and cvat" in bas(*words).error or "cvat and labelme" in bas(*words).error
    assert "Corrections cannot be called 'a b'" in bas(*words, "--name", "a b").error
    with (tmp_path / "mine/large.json").open("wb") as file:
        file.truncate(editors.LARGEST + 1)
    assert "large.json: 1024 MB" in bas(*words).error


def test_colour_pictures_are_no_masks(bas: Command, run: Run, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "mine" / f"{min(masks(run))}.png")
    assert "mode RGB" in bas("masks", "import", "mine", "--run", str(run.folder)).error
