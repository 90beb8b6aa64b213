"""A person's own photographs: class folders, files of labels in every form, splits, and the configuration that is written."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import Command, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.actions.datasets import photographs_config
from stages.actions.datasets.init import Wish, initialise, recognise
from stages.core.errors import StageError
from stages.core.files import HashCache, write_text
from stages.data.dataset import Config, open_dataset
from stages.data.readers import Place, folder, listed, open_reader, table, tables
from stages.data.splits import stratified


def picture(path: Path, colour: int = 0, size: int = 16) -> Path:
    """A square picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (colour % 256, colour * 7 % 256, 90)).save(path)
    return path


def class_folders(root: Path, each: int = 5, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    """EACH pictures in a sub-folder for each of NAMES."""
    for number, name in enumerate(names):
        for index in range(each):
            picture(root / name / f"{index}.png", 40 * number + index)
    return root


def wish(root: Path, **values) -> Wish:
    out = root.parent / "out"
    return Wish(root, out / "c.yaml", out / "lists", str(out / "lists"), **values)


def ids(found: dict, name: str) -> list[str]:
    return (Path(found["config"]).parent / "lists" / f"{name}.txt").read_text().splitlines()


# --- class folders ---


def test_every_sub_folder_is_a_class_whatever_the_files_are_called(tmp_path):
    root = class_folders(tmp_path / "own", 1)
    picture(root / "cat/deep/er/my cat (1).JPG")
    picture(root / "cat/.hidden.jpg")
    picture(root / ".thumbnails/0.jpg")
    (root / "cat/notes.txt").write_text("no picture")
    (root / "dog/link.png").symlink_to(root / "dog/0.png")
    (root / "empty").mkdir()
    reader = open_reader("folder", Place(root))
    assert reader.classes == ("cat", "dog")
    labels, source = reader.labels(("cat-0", "cat-deep-er-my cat (1)", "dog-0", "dog-link", "cat-gone"))
    assert labels == {"cat-0": (0,), "cat-deep-er-my cat (1)": (0,), "dog-0": (1,), "dog-link": (1,)}
    assert source == "the folders' names"
    assert reader.files(("cat-deep-er-my cat (1)",), "x") == [str(root / "cat/deep/er/my cat (1).JPG")]


def test_one_name_in_two_class_folders_is_one_image_only_where_the_bytes_are_the_same(tmp_path):
    root = class_folders(tmp_path / "own", 2)
    shutil.copy(root / "cat/0.png", root / "dog/0.png")
    rows = {row.file: row.classes for row in folder.rows(root)}
    assert rows == {"cat/0.png": ("cat", "dog"), "cat/1.png": ("cat",), "dog/1.png": ("dog",)}
    picture(root / "dog/0.png", 99)
    assert {row.file: row.classes for row in folder.rows(root)}["dog/0.png"] == ("dog",)


def test_a_folder_of_negatives_and_the_classes_that_are_wanted(tmp_path):
    root = class_folders(tmp_path / "own", 1, ("cat", "dog", "background", "zoo"))
    reader = open_reader("folder", Place(root, classes=("dog", "cat")))
    assert reader.classes == ("dog", "cat")
    assert reader.labels(("dog-0", "cat-0", "background-0", "zoo-0"))[0] == {"dog-0": (0,), "cat-0": (1,), "background-0": ()}


def test_a_folder_of_negatives_may_be_called_so_in_any_case(tmp_path):
    reader = open_reader("folder", Place(class_folders(tmp_path / "own", 1, ("cat", "dog", "Background"))))
    assert reader.classes == ("cat", "dog")
    assert reader.labels(("Background-0",))[0] == {"Background-0": ()}


def test_ids_are_lines_of_a_list_whatever_the_files_are_called(tmp_path):
    root = class_folders(tmp_path / "own", 3)
    for name in ("cat/new\nline.png", "cat/end .png", "dog/ begin.png", "dog/u\u2028x.png", "dog/\x1c.png"):
        picture(root / name)
    initialise(wish(root))
    lists = [(tmp_path / "out/lists" / f"{name}.txt").read_text().splitlines() for name in ("train", "val")]
    listed = {i for part in lists for i in part}
    assert listed == set(open_reader("folder", Place(root)).rows)
    assert {"cat-new line", "cat-end", "dog- begin", "dog-u x", "dog-"} < listed


def test_a_name_that_is_no_text_is_refused(tmp_path):
    root = class_folders(tmp_path / "own", 1)
    (root / "cat/0.png").rename(root / "cat" / os.fsdecode(b"\xff.png"))
    with pytest.raises(StageError, match=r"Cannot use image cat/\\udcff: its name is not UTF-8"):
        open_reader("folder", Place(root))


def test_an_id_of_a_deep_folder_is_short_enough_for_the_names_of_outputs(tmp_path):
    deep = "/".join(["köter" * 8] * 8)
    files = [f"cat/{deep}/a.png", f"dog/{deep}/a.png", f"dog/{deep}/a.jpg", "cat/b.png"]
    found = folder.identify(files)
    assert len(set(found.values())) == 4 and found["cat/b.png"] == "cat-b" and found[files[0]].endswith("köter-a")
    assert all(len(image_id.encode()) <= 200 for image_id in found.values())
    assert found[files[0]] == folder.identify(files[:1])[files[0]]
    write_text(tmp_path / f"{found[files[0]]}.json", "")
    longest = tmp_path / f"{'x' * 250}.png"
    write_text(longest, "whole")
    assert longest.read_text() == "whole"


def test_two_files_that_differ_in_suffix_keep_it(tmp_path):
    root = class_folders(tmp_path / "own", 1)
    picture(root / "cat/0.jpg")
    reader = open_reader("folder", Place(root))
    assert [Path(file).name for file in reader.files(("cat-0.jpg", "cat-0.png"), "x")] == ["0.jpg", "0.png"]
    picture(root / "cat/a/b.png")
    picture(root / "cat/a-b.png")
    with pytest.raises(StageError, match=r"Two images would have one name: cat/a-b\.png and cat/a/b\.png"):
        open_reader("folder", Place(root))


def test_masks_are_found_by_path_id_or_name(tmp_path):
    root = class_folders(tmp_path / "own", 2)
    picture(root / "dog/only.png", 3)
    for name in ("cat/0", "dog-1", "only", "1"):
        picture(root / f"masks/{name}.png")
    reader = open_reader("folder", Place(root))
    found = {i: reader.mask(i) for i in ("cat-0", "cat-1", "dog-1", "dog-only", "dog-0")}
    names = {i: path and path.relative_to(root / "masks").as_posix() for i, path in found.items()}
    assert names == {"cat-0": "cat/0.png", "cat-1": None, "dog-1": "dog-1.png", "dog-only": "only.png", "dog-0": None}


# --- files of labels ---

SAID = {"a b.png": ("cat",), "sub/1.PNG": ("cat", "dog"), "sub/2.png": ()}


def photographs(root: Path) -> Path:
    for number, name in enumerate(SAID):
        picture(root / name, number)
    return root


WRITTEN = {
    "header.csv": "image,labels\na b.png,cat\nsub/1.PNG,cat;dog\nsub/2.png,\n",
    "bom.csv": "\ufeffFile Name;Class;split\na b.png;cat;val\nsub/1.PNG;cat|dog;train\nsub/2.png;;train\n",
    "long.csv": "filename,label\na b.png,cat\nsub/1.PNG,dog\nsub/1.PNG,cat\nsub/1.PNG,cat\nsub/2.png,\n",
    "flags.csv": "id,cat,dog\na b,1,0\n1,1,1\n2,0,0\n",
    "bare.csv": "a b.png,cat\nsub/1.PNG,cat,dog\nsub/2.png\n",
    "quoted.tsv": 'path\ttags\n"a b.png"\tcat\nsub\\1.PNG\t"cat, dog"\n2.png\tnone\n',
    "objects.json": json.dumps([{"image": name, "labels": labels} for name, labels in SAID.items()]),
    "table.json": json.dumps(SAID),
    "nested.json": json.dumps({"images": [{"file_name": name, "class": ", ".join(labels)} for name, labels in SAID.items()]}),
    "lines.jsonl": "\n\n".join(
        json.dumps({"file": name, "labels": dict.fromkeys(labels, True)}) for name, labels in SAID.items()
    ),
    "studio.json": json.dumps(
        [
            {
                "data": {"img": f"/data/upload/1/0a1b2c3d-{Path(name).name}"},
                "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}} for label in labels]}],
            }
            for name, labels in SAID.items()
        ]
    ),
    "tags.xml": "<?xml version='1.0'?><annotations>"
    + "".join(f"<image name='{n}'>{''.join(f'<tag label={label!r}/>' for label in labels)}</image>" for n, labels in SAID.items())
    + "</annotations>",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_form_of_labels_says_the_same(tmp_path, name: str):
    root = photographs(tmp_path / "own")
    (root / name).write_text(WRITTEN[name], encoding="utf-8")
    layout, place = recognise(root)
    assert layout == "table" and place.labels == root / name
    reader = open_reader(layout, place)
    assert reader.classes == ("cat", "dog")
    assert reader.labels(("a b", "sub-1", "sub-2"))[0] == {"a b": (0,), "sub-1": (0, 1), "sub-2": ()}


def test_images_in_one_sub_folder_go_by_their_names_and_strangers_are_told_of(tmp_path):
    root = tmp_path / "own"
    for index in range(3):
        picture(root / f"images/{index}.png", index)
    outside = picture(tmp_path / "secret.png")
    (root / "l.csv").write_text(f"image,label\nimages/0.png,cat\n1,dog\n../secret.png,cat\n{outside},cat\n")
    found = table.look_up(root, root / "l.csv")
    assert {i: row.classes for i, row in found.rows.items()} == {"0": ("cat",), "1": ("dog",)}
    assert found.absent == ("../secret.png", str(outside)) and found.unnamed == ("images/2.png",)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.csv", "image,weight\n1.png,3.5\n", "no column is called 'labels', and '3.5' is not 0 or 1"),
        ("l.csv", "photo,label\nx,cat\n", "no column names the image: photo, label"),
        ("l.csv", "image,label\n,cat\n", "row 2 names no image"),
        ("l.csv", "image,label\n", "nothing in it names an image"),
        ("l.json", "{", "Cannot read labels"),
        ("l.json", "7", "neither a list of objects nor a table"),
        ("l.json", '[{"labels": ["cat"]}]', "no image is named"),
        ("l.json", '[{"image": "1.png", "labels": [[1]]}]', "labels that are no names"),
        ("l.json", "[" * 100_000, "tables within tables without end"),
        ("l.json", '{"images": [], "annotations": []}', "a COCO document"),
        ("l.json", '[{"data": {"img": "1.png"}, "annotations": 5}]', "'annotations' is no list: 5"),
        ("l.json", '[{"data": {"img": "1.png"}, "annotations": [{"result": 7}]}]', "'result' is no list: 7"),
        ("l.json", '[{"data": {"i": "1.png"}, "annotations": [{"result": [{"value": {"choices": 3}}]}]}]', "'choices' is no"),
        ("l.jsonl", '{"image": "1.png"}\n[]\n', "line 2: not an object"),
        ("l.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "it has a document type"),
    ],
)
def test_bad_files_of_labels_are_refused_in_words(tmp_path, name: str, text: str, words: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(StageError, match=words.replace("[", r"\[")):
        tables.read(tmp_path / name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(StageError, match="Cannot read labels"):
        tables.read(tmp_path / "l.csv")


def test_a_label_that_is_no_class_is_named_with_the_nearest(tmp_path):
    root = photographs(tmp_path / "own")
    (root / "l.csv").write_text("image,label\na b.png,catt\nsub/1.PNG,dog\n")
    with pytest.raises(StageError, match=r"Unknown class 'catt' in .*Did you mean 'cat'"):
        open_reader("table", Place(root, classes=("cat", "dog")))


# --- splits ---


@given(
    st.lists(st.frozensets(st.sampled_from("abc"), max_size=2), min_size=1, max_size=60),
    st.floats(0.05, 0.5),
    st.integers(0, 5),
)
def test_a_stratified_split(label_sets, share: float, seed: int):
    labels = {f"i{number}": found for number, found in enumerate(label_sets)}
    train, held = stratified(labels, share, seed)
    assert sorted(train + held) == sorted(labels) and not set(train) & set(held)
    assert len(held) <= int(share * len(labels) + 0.5)
    totals, parts = Counter(label_sets), Counter(labels[i] for i in held)
    for found, total in totals.items():
        assert int(share * total) <= parts[found] <= share * total + 1
    assert {label for i in train for label in labels[i]} == {label for found in label_sets for label in found}
    shuffled = list(labels.items())
    random.Random(1).shuffle(shuffled)
    assert stratified(dict(shuffled), share, seed) == (train, held)


def test_the_seed_decides_and_the_share_is_met():
    labels = {f"{name}{number}": (name,) for name in "abc" for number in range(10)}
    train, held = stratified(labels, 0.2, 0)
    assert len(held) == 6 and Counter(i[0] for i in held) == {"a": 2, "b": 2, "c": 2} and len(train) == 24
    assert stratified(labels, 0.2, 1)[1] != held


# --- init ---


def test_init_writes_lists_and_a_configuration_beside_each_other_and_nothing_into_the_folder(bas: Command, tmp_path: Path):
    root = class_folders(tmp_path / "own", 10)
    before = sorted(root.rglob("*"))
    shown = bas("data", "init", str(root))
    assert shown.code == 0 and "cat 10, dog 10" in shown.out and "train 16, val 4 (stratified" in shown.out
    values = yaml.safe_load((tmp_path / "own.yaml").read_text())
    assert values["data"]["classes"] == ["cat", "dog"] and values["data"]["lists"] == str(tmp_path / "own_lists")
    assert (tmp_path / "own_lists/val.txt").read_text().count("\n") == 4 and sorted(root.rglob("*")) == before
    assert "is there already" in bas("data", "init", str(root)).error
    again = bas("data", "init", str(root), "--force", "--json").json
    assert again["lists"] == {"train": 16, "val": 4} and again["estimate"]["minutes"] > 0
    assert "the photographs' folder is left alone" in bas("data", "init", ".").error
    planned = bas("run", "own.yaml", "--dry-run", "--json", "--set", "seed_train.weights=none", "--set", "runtime.device=cpu")
    assert planned.json["stages"][0]["state"] == "missing"


def test_lists_that_were_edited_are_not_written_over(bas: Command, tmp_path: Path):
    root, lists = class_folders(tmp_path / "own", 10), tmp_path / "own_lists"
    assert bas("data", "init", str(root)).code == 0
    edited = lists / "train.txt"
    edited.write_text("cat-0\ndog-0\n")
    (lists / "train_clean.txt").write_text("cat-0\n")
    (tmp_path / "own.yaml").unlink()
    told = bas("data", "init", str(root)).error
    assert told.startswith(f"{edited} is there already: ") and "--force" in told
    assert edited.read_text() == "cat-0\ndog-0\n" and not (tmp_path / "own.yaml").exists()
    assert bas("data", "init", str(root), "--force").code == 0
    assert len(edited.read_text().split()) == 16 and not (lists / "train_clean.txt").exists()
    (tmp_path / "own.yaml").unlink()  # as after a kill before it was written: the lists are those that would be written
    assert bas("data", "init", str(root)).code == 0


def test_a_broken_photograph_does_not_keep_the_configuration_from_being_written(tmp_path):
    root = class_folders(tmp_path / "photographs")
    for broken in sorted((root / "cat").glob("*"))[:2]:
        broken.write_bytes(b"no image")
    found = initialise(wish(root))
    assert found["images"] == 10 and found["side"] == 16 and Path(found["config"]).is_file()
    for broken in root.glob("*/*"):
        broken.write_bytes(b"")
    with pytest.raises(StageError, match="Cannot read the images"):
        initialise(wish(root, force=True))


def test_splits_that_the_data_has_are_kept(tmp_path):
    for part in ("train", "Validation", "test"):
        class_folders(tmp_path / "own" / part, 3)
    found = initialise(wish(tmp_path / "own"))
    assert found["lists"] == {"train": 6, "val": 6, "test": 6} and found["split"] == "as the data has it"
    assert ids(found, "val")[0] == "Validation-cat-0"


def test_images_with_true_masks_are_held_out_and_scored(tmp_path):
    root = class_folders(tmp_path / "own", 10)
    for index in range(4):
        for name in ("cat", "dog"):
            picture(root / f"masks/{name}/{index}.png")
    found = initialise(wish(root))
    assert found["masks"] == 8 and found["lists"] == {"train": 16, "val": 4, "score": 4}
    assert {i[-1] for i in ids(found, "val") + ids(found, "score")} == set("0123")


def test_negatives_are_kept_and_unlabelled_images_are_not_listed(tmp_path):
    root = tmp_path / "own"
    rows = []
    for index in range(20):
        picture(root / f"{index}.png", index)
        rows.append({"image": f"{index}.png", "labels": ["cat"] if index < 8 else ["dog"] if index < 14 else []})
    rows[-1]["labels"] = None
    (root / "labels.json").write_text(json.dumps(rows))
    found = initialise(wish(root))
    assert (found["negatives"], found["unlabelled"], found["images"]) == (5, 1, 20) and sum(found["lists"].values()) == 19
    values = yaml.safe_load(Path(found["config"]).read_text())["data"]
    assert values["negatives"] == "keep"
    values |= {"classes": tuple(values["classes"])}
    kept, out = (open_dataset(Config(**{**values, "negatives": how}), tmp_path) for how in ("keep", "leave out"))
    assert len(kept.split("train")) == 11 and len(kept.split("negatives")) == 4 and kept.unlabelled == ()
    assert kept.split("train") == out.split("train") and out.split("negatives") == () and len(out.unlabelled) == 4
    hashes = HashCache(tmp_path / "hashes.json")
    assert kept.digest("train", hashes) == out.digest("train", hashes) and out.digest("negatives", hashes) is None
    assert kept.digest("negatives", hashes)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "Cannot tell what .* holds: neither two sub-folders with images"),
        (("cat",), "Cannot tell what"),
        (("cat", "background"), "One class alone cannot be learnt"),
    ],
)
def test_too_little_to_learn_from_is_refused(tmp_path, names: tuple[str, ...], words: str):
    (tmp_path / "own").mkdir()
    with pytest.raises(StageError, match=words):
        initialise(wish(class_folders(tmp_path / "own", 5, names)))


def test_the_devkit_is_recognised_with_its_own_lists(generated: Path, tmp_path: Path):
    found = initialise(Wish(generated, tmp_path / "c.yaml", tmp_path / "lists", "lists"))
    assert found["layout"] == "voc" and found["lists"] == {"train": 8, "val": 2} and not (tmp_path / "lists").exists()
    assert found["masks"] == 10


def test_settings_follow_number_size_and_machine():
    def chosen(*data) -> dict:
        base, rows = photographs_config.choose(photographs_config.Photographs(*data))
        return {"base": base} | {f"{s}.{name}": value for s, row in rows.items() for name, (value, _) in row.items()}

    small, many, large = chosen(48, 384, False), chosen(1037, 384, False), chosen(1037, 4096, False)
    assert small["seed_train.batch"] == 12 and small["seed_train.epochs"] == 60 and small["segment_train.steps"] == 300
    assert many["seed_train.epochs"] == 24 and many["irn_train.epochs"] == 3 and many["segment_train.steps"] == 1000
    assert "seed_infer.scales" not in many and large["seed_infer.scales"] == [0.062, 0.094, 0.125]
    paper = chosen(10_582, 500, True)
    assert paper["base"] == "voc" and paper["seed_train.backbone"] == "resnet50" and paper["seed_train.epochs"] == 10
    assert paper["segment_train.backbone"] == "resnet101" and paper["segment_train.crop"] == 321


# --- bas run DIR ---


def test_a_folder_runs_continues_and_serves_the_commands_after_it(bas: Command, tmp_path: Path):
    root = class_folders(tmp_path / "my photos", 4, ("cat", "dog", "none"))
    tiny = settings("data.train=train", "seed_train.epochs=1")
    first = bas("seed", "train", "my photos", *tiny)
    assert first.code == 0, first.err
    run = tmp_path / "runs/my photos"
    assert "one sub-folder a class" in first.err and (run / "dataset.yaml").is_file() and (run / "lists/train.txt").is_file()
    picture(root / "cat/new.png", 7)  # in no list: nothing is stale
    again = bas("seed", "train", "my photos", *tiny)
    assert again.code == 0 and "fresh, kept" in again.err and "sub-folder" not in again.err
    assert bas("status", "--json").json["stages"][0]["state"] == "done"
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert bas("status", "--run", "elsewhere/my photos", "--json").json["stages"][0]["state"] == "done"
    assert sorted(path.name for path in root.iterdir()) == ["cat", "dog", "none"]


def coco_document(root: Path, name: str, images: int) -> None:
    """Photographs of cats and dogs in turn, the last one of nothing, and their document of instances."""
    named = [picture(root / "images" / name / f"{name}{index:03d}.png", index).name for index in range(images)]
    document = {
        "images": [{"id": index, "file_name": file, "width": 16, "height": 16} for index, file in enumerate(named)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": (7, 9)[i % 2], "iscrowd": 0, "area": 16, "bbox": [0, 0, 4, 4],
             "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
            for i in range(images - 1)
        ],
    }  # fmt: skip
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{name}.json").write_text(json.dumps(document))


def test_one_document_of_coco_is_split_and_two_are_the_lists(tmp_path):
    root = tmp_path / "own"
    coco_document(root, "train", 11)
    found = initialise(wish(root))
    assert found["layout"] == "coco" and found["lists"] == {"train": 8, "val": 2} and found["classes"] == {"cat": 5, "dog": 5}
    data = yaml.safe_load(Path(found["config"]).read_text())["data"]
    opened = open_dataset(Config(**data), tmp_path)
    assert [sample.id for sample in opened.split("val")] == ids(found, "val")
    assert sorted(len(sample.labels) for sample in opened.split("train")) == [1] * 8
    mask = opened.mask(opened.split("val")[0])
    assert mask is not None and mask.is_file()
    coco_document(root, "val", 5)
    found = initialise(wish(root))
    assert found["lists"] == {"train": 10, "val": 4} and found["split"] == "the data's own lists"


# --- faults of labels ---


def test_class_folders_do_not_take_the_place_of_broken_labels(tmp_path):
    root = class_folders(tmp_path / "own")
    (root / "labels.csv").write_bytes(b"image,labels\ncat/0.png,cat\n\xff")
    with pytest.raises(StageError, match="Cannot read labels"):
        recognise(root)
    (root / "labels.csv").write_text("rate,loss\n1,2\n")
    assert recognise(root)[0] == "folder"


def test_labels_in_a_pipe_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "l.csv")
    with pytest.raises(StageError, match="no regular file"):
        tables.read(tmp_path / "l.csv")


def test_a_folder_that_cannot_be_listed_is_named():
    with pytest.raises(StageError, match="Cannot read folder own/dog"):
        listed.unreadable(PermissionError(13, "Permission denied", "own/dog"))
