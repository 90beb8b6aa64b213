"""`bas data check`: each fault is found, named and weighed; a clean set passes however small; clean lists leave the rest."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, Counter, settings
from PIL import Image, PngImagePlugin

import configs
from stages.actions.datasets import check, clean_lists
from stages.actions.datasets.check import Report
from stages.actions.datasets.init import Wish, initialise
from stages.actions.datasets.place import open_census
from stages.core.errors import StageError
from stages.data import images, inspection, outlines
from stages.data.dataset import Config, open_dataset
from stages.data.readers import Place, voc
from stages.formulas import perceptual

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


def checked(root: Path) -> Report:
    return check.check(open_census(str(root), None, None), Counter())


def kinds(report: Report) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in report.findings}


def files_of(report: Report, kind: str) -> list[tuple[str, ...]]:
    cases = next(finding.cases for finding in report.findings if finding.kind == kind)
    return [tuple(Path(file).name for file in case.files) for case in cases]


def image(root: Path, number: int) -> Path:
    return root / IMAGES / f"demo_0000{number}.png"


def test_labels_that_a_run_refuses_are_an_error_and_a_plain_folder_is_none(generated: Path, tmp_path: Path) -> None:
    shutil.copy(image(generated, 1), tmp_path)
    assert checked(tmp_path).sound
    (tmp_path / "l.json").write_text('{"a":')
    assert kinds(checked(tmp_path))["unreadable list or labels"] == "error" and not checked(tmp_path).sound


def test_a_class_and_none_of_the_same_bytes_are_a_conflict(generated: Path, tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path / "own", generated)
    first = next(file for file in sorted(root.rglob("*.png")))
    (root / "background").mkdir()
    shutil.copy(first, root / "background" / "other.png")
    assert kinds(checked(root))["same bytes, other labels"] == "error"


def test_a_side_below_zero_is_a_broken_outline() -> None:
    found = outlines.faults(outlines.Outlined("a.png", (4, 4), (4, -4), [(1, [[0, 0, 1, 0, 1, 1]], False)]))
    assert "broken outline" in [kind for kind, _ in found]


# --- codes ---


def test_near_pairs_are_those_of_every_comparison() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (60, perceptual.BITS // 8), dtype=np.uint8)
    codes[20:40] = codes[:20] ^ np.packbits(random.random((20, perceptual.BITS)) < 0.06, axis=1)
    codes[40:45] = codes[0]
    bits = np.unpackbits(codes, axis=1).astype(int)
    for most in (0, 3, 12, 20):
        near = [(i, j) for i, j in itertools.combinations(range(60), 2) if (bits[i] != bits[j]).sum() <= most]
        assert perceptual.near_pairs(codes, most).tolist() == [list(pair) for pair in near] and near
    assert perceptual.near_pairs(codes[:1], 12).shape == perceptual.near_pairs(codes[:0], 12).shape == (0, 2)


def test_a_code_says_where_a_picture_becomes_brighter() -> None:
    ramp = np.arange(perceptual.SIDE)[None].repeat(perceptual.SIDE, 0)
    assert np.unpackbits(perceptual.difference_code(ramp)).tolist() == [1] * 64 + [0] * 64
    assert np.unpackbits(perceptual.difference_code(ramp.T)).tolist() == [0] * 64 + [1] * 64
    picture = np.random.default_rng(0).random((9, 9))
    assert np.array_equal(perceptual.difference_code(picture), perceptual.difference_code(picture * 3 + 7))
    both = perceptual.difference_code(np.stack([ramp, ramp.T]))
    assert np.array_equal(both, [perceptual.difference_code(ramp), perceptual.difference_code(ramp.T)])


def test_near_pairs_may_share_no_part() -> None:
    """Bits that differ spread over all parts, as far from each other as can be."""
    codes = np.zeros((3, perceptual.BITS), np.uint8)
    codes[1, :14], codes[2, 100:115] = 1, 1
    pairs = perceptual.near_pairs(np.packbits(codes, axis=1), 14)
    assert pairs.tolist() == [[0, 1]]


# --- one file ---


def test_facts_agree_with_the_decode_of_every_stage(tmp_path: Path) -> None:
    random, path = np.random.default_rng(5), tmp_path / "a.jpg"
    picture = Image.fromarray(np.kron(random.integers(0, 255, (6, 9, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8)))
    picture.save(path, exif=_turned(picture))
    content = path.read_bytes()
    for length in (*range(0, len(content), len(content) // 25), len(content)):
        path.write_bytes(content[:length])
        facts = inspection.inspect(str(path))
        assert bool(facts.fault) == (length < len(content))
    assert facts.size == images.size(path) == images.read_image(path).shape[:2] == (360, 240)
    assert facts.traits == {"turned"} and facts.bytes == len(content) and facts.format == "JPEG"


def _turned(picture: Image.Image) -> Image.Exif:
    exif = picture.getexif()
    exif[images.ORIENTATION] = 6
    return exif


# --- a dataset ---


def test_a_clean_set_passes_however_small(bas: Command, devkit: Path, tmp_path: Path) -> None:
    done = bas("data", "check", "data")
    line = "10 images (train 8, val 2), 10 masks: can be trained on, but look at: few images of a class\n"
    assert done.code == 0 and done.out.startswith(line)
    (tmp_path / "one").mkdir()
    shutil.copy(image(devkit, 0), tmp_path / "one/a.png")
    done = bas("data", "check", "one", "--json", "-q")
    assert done.code == 0 and done.json["images"] == 1 and done.json["sound"] and not done.err
    assert bas("data", "check", "one", "-q").out.startswith("1 images, 0 masks: nothing that would spoil a training\n")


def test_classes_and_pixels_are_counted(devkit: Path) -> None:
    report = checked(devkit)
    reader = voc.open_at(Place(devkit))
    labels = reader.labels(reader.ids("train"))[0]
    for index, name in enumerate(reader.classes):
        assert (
            report.counts["train"][name] == sum(index in labels[i] for i in reader.ids("train")) == report.together[index][index]
        )
    masks = [images.read_mask(path) for path in sorted((devkit / MASKS).iterdir())]
    shares = report.plain()["masks"]["share of pixels"]
    assert shares["background"] == pytest.approx(np.mean([(mask == 0).mean() for mask in masks]), abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def spoil_empty(root: Path) -> None:
    image(root, 0).write_bytes(b"")


def spoil_cut(root: Path) -> None:
    image(root, 0).write_bytes(image(root, 0).read_bytes()[:500])


def spoil_absent(root: Path) -> None:
    image(root, 0).unlink()


def spoil_labels(root: Path) -> None:
    (root / "image_labels.txt").write_text("demo_00000 unicorn\n")


def spoil_leak(root: Path) -> None:
    with (root / LISTS / "val.txt").open("a") as file:
        file.write("demo_00000\n")


def spoil_same_in_two(root: Path) -> None:
    shutil.copy(image(root, 0), image(root, 9))


def spoil_alike_in_two(root: Path) -> None:
    with Image.open(image(root, 0)) as picture:
        half = picture.convert("RGB").resize((48, 48))
    image(root, 9).unlink()
    (root / MASKS / "demo_00009.png").unlink()
    half.save(image(root, 9).with_suffix(".jpg"), quality=80)


def spoil_conflict(root: Path) -> None:
    shutil.copy(image(root, 0), image(root, 1))
    shutil.copy(root / MASKS / "demo_00000.png", root / MASKS / "demo_00001.png")
    lines = dict(line.split(maxsplit=1) for line in (root / "image_labels.txt").read_text().splitlines())
    classes = (root / "classes.txt").read_text().split()
    lines |= {"demo_00000": classes[1], "demo_00001": classes[2]}
    (root / "image_labels.txt").write_text("".join(f"{key} {value}\n" for key, value in lines.items()))


def spoil_mask(root: Path) -> None:
    (root / MASKS / "demo_00000.png").write_bytes(b"no mask")


def spoil_mask_size(root: Path) -> None:
    images.write_mask(root / MASKS / "demo_00000.png", np.zeros((64, 63), np.uint8))


def spoil_mask_ids(root: Path) -> None:
    images.write_mask(root / MASKS / "demo_00000.png", np.full((64, 64), 77, np.uint8))


ERRORS: dict[str, tuple[Callable[[Path], None], int]] = {  # what is spoilt, and what a clean training list keeps of eight
    "empty file": (spoil_empty, 7),
    "broken image": (spoil_cut, 7),
    "absent image": (spoil_absent, 7),
    "unreadable list or labels": (spoil_labels, 8),
    "same id in two splits": (spoil_leak, 7),
    "same bytes in two splits": (spoil_same_in_two, 7),
    "near-duplicate in two splits": (spoil_alike_in_two, 7),
    "same bytes, other labels": (spoil_conflict, 6),
    "broken mask": (spoil_mask, 7),
    "mask of another size": (spoil_mask_size, 7),
    "mask with unknown ids": (spoil_mask_ids, 7),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_would_spoil_a_training_is_an_error_and_stays_off_clean_lists(devkit: Path, kind: str) -> None:
    spoil, kept = ERRORS[kind]
    spoil(devkit)
    before = {path: path.read_bytes() for path in devkit.rglob("*") if path.is_file()}
    report = checked(devkit)
    errors = [name for name, severity in kinds(report).items() if severity == "error"]
    assert errors == [kind] and not report.sound
    assert kind != "absent image" or [case.words for case in report.findings[0].cases] == ["demo_00000 in train"]
    written = clean_lists.write(report)
    assert len(written["train"].path.read_text().split()) == written["train"].kept == kept
    assert {path: path.read_bytes() for path in before} == before
    again = checked(devkit)
    idle = {"broken mask", "mask of another size", "mask with unknown ids", "unreadable list or labels"}
    assert again.sound or kind in idle


def test_a_bad_mask_costs_the_scored_list_alone(devkit: Path) -> None:
    shutil.copy(devkit / LISTS / "train.txt", devkit / LISTS / "train_aug.txt")
    spoil_mask(devkit)
    written = clean_lists.write(checked(devkit))
    lists = voc.open_at(Place(devkit))
    assert [written[role].path.stem for role in ("train", "score", "val")] == ["train_aug_clean", "train_clean", "val_clean"]
    assert lists.ids("train_aug_clean") == lists.ids("train_aug")
    assert lists.ids("train_clean") == lists.ids("train")[1:] and lists.ids("val_clean") == lists.ids("val")


def test_the_command_says_what_to_do_and_exits_with_two(bas: Command, devkit: Path) -> None:
    spoil_cut(devkit)
    spoil_same_in_two(devkit)
    shown = bas("data", "check", "data", "-q")
    assert shown.code == 2 and "a training would fail or be misled" in shown.out and "Traceback" not in shown.err
    assert "replace it or take it off the lists" in shown.out and "JPEGImages/demo_00000.png" in shown.out
    shutil.copy(image(devkit, 2), image(devkit, 8))
    done = bas("data", "check", "data", "--json", "--fix", "-q")
    found = {finding["kind"]: finding for finding in json.loads(done.out)["findings"]}
    named = [sorted(Path(file).name for file in case["files"]) for case in found["same bytes in two splits"]["cases"]]
    assert done.code == 2 and named == [["demo_00000.png", "demo_00009.png"], ["demo_00002.png", "demo_00008.png"]]
    assert "train_clean.txt, 6 of 8 images" in done.err and "val_clean.txt, 1 of 2 images" in done.err
    assert done.json["written"]["score"].endswith("ImageSets/Segmentation/train_clean.txt")


def test_oddities_are_notes_and_warnings(devkit: Path, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    picture = Image.fromarray(images.read_image(image(devkit, 0)))
    grey = np.asarray(picture.convert("L"))
    clear = Image.fromarray(np.dstack([images.read_image(image(devkit, 1)), np.full((64, 64), 200, np.uint8)]))
    saved: dict[str, Any] = {
        "grey.png": picture.convert("L"),
        "grey_as_colour.jpg": picture.convert("L").convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "ink.jpg": picture.convert("CMYK").transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        "deep.png": Image.fromarray(grey.T.astype(np.uint16) << 8),
        "clear.webp": clear,
        "blank.png": Image.new("RGB", (64, 64), "red"),
        "tiny.png": picture.resize((20, 40)).transpose(Image.Transpose.ROTATE_90),
    }
    for name, one in saved.items():
        one.save(root / name)
    picture.save(root / "moving.gif", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    picture.transpose(Image.Transpose.TRANSPOSE).save(root / "png.jpg", "PNG")
    picture.save(root / "lying.jpg", exif=_turned(picture))
    (root / "phone.heic").write_bytes(b"\0" * 20)
    (root / "notes.txt").write_text("no image")
    report = checked(root)
    expected = {
        **dict.fromkeys(("greyscale", "CMYK", "16 bits", "transparent", "several pictures", "wrong suffix", "turned"), "note"),
        **dict.fromkeys(("unsupported format", "one colour", "tiny"), "warning"),
    }
    assert expected.items() <= kinds(report).items() and report.sound and len(report.census.entries) == len(saved) + 3
    assert {name for (name,) in files_of(report, "greyscale")} == {"grey.png", "grey_as_colour.jpg", "deep.png"}
    assert files_of(report, "turned") == [("lying.jpg",)] and files_of(report, "wrong suffix") == [("png.jpg",)]


def test_doubles_within_a_split_and_images_in_no_list_are_no_errors(devkit: Path) -> None:
    shutil.copy(image(devkit, 0), devkit / IMAGES / "stray.png")
    (devkit / IMAGES / "broken.png").write_bytes(b"broken")
    lines = (devkit / "image_labels.txt").read_text().splitlines()
    (devkit / "image_labels.txt").write_text("\n".join(lines[1:]))
    report = checked(devkit)
    expected = {"broken image": "warning", "same bytes twice": "warning", "no label": "warning", "in no list": "note"}
    assert expected.items() <= kinds(report).items() and report.sound
    assert files_of(report, "same bytes twice") == [("demo_00000.png", "stray.png")]
    assert files_of(report, "no label") == [("demo_00000.png",)]


def test_doubles_have_the_same_bytes_and_not_only_their_number_and_picture(devkit: Path, tmp_path: Path) -> None:
    root = tmp_path / "two"
    root.mkdir()
    for name in "abcd":
        notes = PngImagePlugin.PngInfo()
        notes.add_text("author", name.replace("d", "c"))
        with Image.open(image(devkit, 0)) as picture:
            picture.save(root / f"{name}.png", pnginfo=notes)
    (root / "broken.png").write_bytes(b"no image")
    (root / "cut.png").write_bytes(b"no image")
    assert len({path.stat().st_size for path in root.iterdir()}) == 2
    report = checked(root)
    assert files_of(report, "same bytes twice") == [("c.png", "d.png"), ("broken.png", "cut.png")]
    assert files_of(report, "near-duplicates") == [("a.png", "b.png", "c.png")]


def test_what_is_no_dataset_is_refused(bas: Command, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert "it holds no image" in bas("data", "check", "nothing").error
    assert "its images are generated" in bas("data", "check", "demo").error
    assert "No data folder given" in bas("data", "check", "voc_small").error


def test_a_configuration_names_its_own_lists(bas: Command, devkit: Path, config: Path) -> None:
    done = bas("data", "check", str(config), "--data", str(devkit), "--json", "-q")
    assert done.code == 0 and done.json["splits"]["train"] == {"list": "train", "images": 8}


def test_processes_find_the_same(devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number, side in itertools.product(range(10), range(8)):
        with Image.open(image(devkit, number)) as picture:
            picture.crop((side, 0, 64, 64)).save(many / f"{number}_{side}.png")
    (many / "3_3.png").write_bytes(b"")
    alone = []
    for processes in (1, 2):
        monkeypatch.setattr(check, "cores", lambda processes=processes: processes)
        alone.append(checked(many).plain())
    assert alone[0] == alone[1] and alone[0]["images"] == 80
    assert alone[0]["findings"][0]["kind"] == "empty file"


def folder_of_classes(root: Path, generated: Path) -> Path:
    """Four images of two classes, a folder each."""
    for number, name in enumerate(("cat", "cat", "dog", "dog")):
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(generated / IMAGES / f"demo_0000{number}.png", root / name / f"{number}.png")
    return root


def test_a_folder_a_class_is_checked_as_it_is_and_as_it_was_configured(bas: Command, generated: Path, tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path / "pets", generated)
    report = checked(root)
    assert report.sound and report.counts == {"train": {"cat": 2, "dog": 2}} and report.census.lists == {"train": "train"}
    shutil.copy(root / "cat/0.png", root / "dog/other.png")
    assert files_of(checked(root), "same bytes, other labels") == [("0.png", "other.png")]
    assert "dog/other.png" in bas("data", "check", "pets").out
    (root / "dog/other.png").unlink()
    assert bas("data", "init", "pets").code == 0
    found = bas("data", "check", next(str(path) for path in tmp_path.rglob("*.yaml")), "--json", "-q")
    assert found.code == 0 and found.json["images"] == 4 and set(found.json["splits"]) >= {"train", "val"}


def test_splits_that_folders_tell_must_not_share_pictures(generated: Path, tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "pets/train", generated)
    folder_of_classes(tmp_path / "pets/val", generated)
    report = checked(tmp_path / "pets")
    assert len(files_of(report, "same bytes in two splits")) == 4 and report.counts["val"] == {"cat": 2, "dog": 2}


def test_a_copy_in_two_classes_is_a_conflict_and_a_link_is_meant(generated: Path, tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path / "pets", generated)
    shutil.copy(root / "cat/0.png", root / "dog/0.png")
    (root / "dog/1.png").symlink_to(root / "cat/1.png")
    report = checked(root)
    assert [finding.kind for finding in report.findings if finding.severity == "error"] == ["same file in two classes"]
    cases = next(finding.cases for finding in report.findings if finding.kind == "same file in two classes")
    assert [case.files for case in cases] == [(str(root / "cat/0.png"), str(root / "dog/0.png"))]
    assert report.counts["train"] == {"cat": 2, "dog": 4}
    assert not any("twice" in kind or "no list" in kind for kind in kinds(report))
    assert clean_lists.write(report)["all"].path.read_text().split() == ["cat/1.png", "dog/2.png", "dog/3.png"]


def test_rows_without_a_photograph_are_told_of_once_each(generated: Path, tmp_path: Path) -> None:
    root = folder_of_classes(tmp_path / "pets", generated)
    rows = ["cat/0.png,cat", "dog/2.png,dog", "cat/gone.png,cat", "lost.jpg,dog", "lost.jpg,dog"]
    (root / "labels.csv").write_text("\n".join(["image,label", *rows]))
    report = checked(root)
    found = {finding.kind: (finding.severity, [case.words for case in finding.cases]) for finding in report.findings}
    assert found["label without image"] == ("warning", ["cat/gone.png", "lost.jpg"]) and report.sound


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def outlined(root: Path, generated: Path, *segmentations: Any, category: int = 1, height: int = 64) -> Report:
    """The report on a document of one photograph of 64 pixels, with an object for each of SEGMENTATIONS."""
    root.mkdir()
    shutil.copy(generated / IMAGES / "demo_00000.png", root / "a.png")
    found = [{"id": n, "image_id": 1, "category_id": category, "segmentation": one} for n, one in enumerate(segmentations)]
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": height}
    document = {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": found}
    (root / "instances_all.json").write_text(json.dumps(document))
    return checked(root)


@pytest.mark.parametrize(
    ("segmentation", "kind", "severity", "words"),
    [
        (square(40, 40, 70, 60), "outline beyond the image", "warning", "object 2: 6 pixels"),
        (square(-9, 0, 30, 30), "outline beyond the image", "warning", "object 2: 9 pixels"),
        (square(0, 0, 6400, 10), "broken outline", "error", "object 2: corners far outside of the image"),
        ([[1, 2, "x", 4, 5, 6]], "broken outline", "error", "object 2: corners that are not pairs of numbers"),
        ({"size": [64, 64], "counts": [0, 7]}, "broken outline", "error", "object 2: run lengths that do not fill the image"),
        ({"size": [64, 64], "counts": [64 * 64]}, "empty outline", "warning", "object 2"),
        ([[3, 3, 4, 4]], "empty outline", "warning", "object 2"),
        ([], "object without an outline", "warning", "object 2"),
    ],
)
def test_outlines_are_looked_at_before_a_mask_is_drawn(
    generated: Path, tmp_path: Path, segmentation: Any, kind: str, severity: str, words: str
) -> None:
    report = outlined(tmp_path / "own", generated, square(8, 8, 64, 40), segmentation)
    found = {finding.kind: finding for finding in report.findings if "outline" in finding.kind}
    assert list(found) == [kind] and found[kind].severity == severity
    assert [(Path(case.files[0]).name, case.words) for case in found[kind].cases] == [("a.png", words)]


def test_a_document_of_another_size_or_with_a_stranger_is_told_and_boxes_alone_are_well(generated: Path, tmp_path: Path) -> None:
    other = outlined(tmp_path / "other", generated, square(0, 0, 9, 9), height=48)
    assert kinds(other)["outlines for another size"] == "error" and not other.masks
    stranger = outlined(tmp_path / "stranger", generated, square(0, 0, 9, 9), square(0, 0, 9, 9), category=3)
    (case,) = next(finding.cases for finding in stranger.findings if finding.kind == "unreadable list or labels")
    assert "2 of 2 annotations: one of category 3, which it does not hold" in case.words
    assert not any("outline" in kind for kind in kinds(outlined(tmp_path / "boxes", generated, [], [])))


# --- clean lists are followed ---


def pets(root: Path, generated: Path) -> Path:
    """Eight pictures of two classes; one of each class is broken."""
    for number in range(8):
        target = root / ("cat", "dog")[number % 2] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(generated / IMAGES / f"demo_0000{number}.png", target)
    for spoilt in ("cat/0.png", "dog/1.png"):
        (root / spoilt).write_bytes(b"no picture")
    return root


def listed(folder: Path) -> list[str]:
    """All ids of the lists that init wrote into FOLDER."""
    return sorted(i for name in ("train", "val") for i in (folder / f"{name}.txt").read_text().split())


SOUND = ["cat-2", "cat-4", "cat-6", "dog-3", "dog-5", "dog-7"]


def test_what_check_refused_in_a_folder_is_left_out_by_the_run_after_it(bas: Command, generated: Path, tmp_path: Path) -> None:
    root = pets(tmp_path / "pets", generated)
    fixed = bas("data", "check", "pets", "--fix", "-q")
    assert fixed.code == 2 and "written: pets/clean.txt, 6 of 8 images" in fixed.err
    assert (root / "clean.txt").read_text().split() == [i.replace("-", "/") + ".png" for i in SOUND]
    again = bas("data", "check", "pets", "--json", "-q")
    assert again.code == 0 and again.json["left out"] == {"pets/clean.txt": 2} and again.json["splits"]["train"]["images"] == 6
    done = bas("seed", "train", "pets", *settings("data.train=train", "seed_train.epochs=1"))
    assert done.code == 0 and f"2 images are left out, as they are not in {root}/clean.txt" in done.err
    assert listed(tmp_path / "runs/pets/lists") == SOUND
    assert f"2 more are left out, as they are not in {root}/clean.txt" in (tmp_path / "runs/pets/dataset.yaml").read_text()


def test_a_clean_list_that_comes_after_the_configuration_is_followed_all_the_same(
    bas: Command, generated: Path, tmp_path: Path
) -> None:
    root, tiny = pets(tmp_path / "pets", generated), settings("data.train=train", "seed_train.epochs=1")
    failed = bas("seed", "train", "pets", *tiny)
    assert failed.code == 2 and len(listed(tmp_path / "runs/pets/lists")) == 8
    assert bas("data", "check", "pets", "--fix", "-q").code == 2
    done = bas("seed", "train", "pets", *tiny)
    assert done.code == 0 and f"2 images are left out, as they are not in {root}/clean.txt" in done.err, done.err
    manifest = json.loads((tmp_path / "runs/pets/seed_train/manifest.json").read_text())
    assert manifest["notes"]["images"] == sum(i in SOUND for i in (tmp_path / "runs/pets/lists/train.txt").read_text().split())


def test_of_a_configuration_the_clean_lists_lie_beside_its_lists(bas: Command, generated: Path, tmp_path: Path) -> None:
    root = pets(tmp_path / "pets", generated)
    assert bas("data", "init", "pets").code == 0
    before = (tmp_path / "pets.yaml").read_text()
    fixed = bas("data", "check", "pets.yaml", "--fix", "--json", "-q").json
    assert {Path(path).name for path in fixed["written"].values()} == {"train_clean.txt", "val_clean.txt"}
    assert not (root / "clean.txt").exists() and (tmp_path / "pets.yaml").read_text() == before
    again = bas("data", "check", "pets.yaml", "--json", "-q")
    assert again.code == 0 and sum(again.json["left out"].values()) == 2
    data = configs.load(str(tmp_path / "pets.yaml"))["data"]
    opened = open_dataset(Config(**{**data, "classes": tuple(data["classes"])}), tmp_path)
    assert sorted(sample.id for role in ("train", "val") for sample in opened.split(role)) == SOUND
    (tmp_path / "pets_lists/train_clean.txt").write_text("other\n")
    with pytest.raises(StageError, match=r"No image of list 'train' is left: none of them is in .*train_clean.txt"):
        open_dataset(opened.config, tmp_path).split("train")


def test_a_file_of_labels_and_a_document_of_coco_follow_the_list_of_files(generated: Path, tmp_path: Path) -> None:
    root = pets(tmp_path / "pets", generated)
    files = [f"{('cat', 'dog')[number % 2]}/{number}.png" for number in range(8)]
    boxes = [{"id": n, "image_id": n, "category_id": n % 2 + 1, "segmentation": []} for n in range(8)]
    document = {
        "images": [{"id": n, "file_name": file, "width": 64, "height": 64} for n, file in enumerate(files)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": boxes,
    }
    for name, text in {
        "labels.csv": "image,label\n" + "".join(f"{file},{file[:3]}\n" for file in files),
        "instances_all.json": json.dumps(document),
    }.items():
        (root / name).write_text(text)
        written = clean_lists.write(check.check(open_census(str(root), None, None, anew=True), Counter()))
        assert written["all"].path == root / "clean.txt" and (written["all"].kept, written["all"].of) == (6, 8)
        found = initialise(Wish(root, tmp_path / name / "c.yaml", tmp_path / name / "lists", "lists"))
        assert found["left_out"] == {str(root / "clean.txt"): 2} and listed(tmp_path / name / "lists") == SOUND
        assert checked(root).sound
        (root / "clean.txt").unlink()
        (root / name).unlink()


def test_where_nothing_may_be_written_a_configuration_elsewhere_is_advised(generated: Path, tmp_path: Path) -> None:
    root = pets(tmp_path / "pets", generated)
    report = checked(root)
    (root / "clean.txt").mkdir()
    with pytest.raises(StageError, match=r"Cannot write .*clean.txt.*`bas data init DIR`"):
        clean_lists.write(report)
