"""`bas data prepare coco`: archives of the real layout, with a handful of photographs, become lists, indexes and masks."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, Counter
from PIL import Image

from stages.actions.datasets import prepare_coco
from stages.actions.datasets.preparation import Preparation
from stages.core.errors import StageError
from stages.data.images import VOID, read_mask

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]
COUNTS = {"train2014": 5, "val2014": 3}  # the last of each shows nothing


def document(name: str, count: int) -> dict[str, Any]:
    """Photographs of six by four pixels: a person's left half in the first, a crowd's right half besides."""
    images = [{"id": n, "file_name": f"COCO_{name}_{n:012}.jpg", "height": 4, "width": 6} for n in range(1, count + 1)]
    half = {"segmentation": [[0, 0, 3, 0, 3, 4, 0, 4]], "iscrowd": 0}
    found = [{"image_id": n, "category_id": (1, 13)[n % 2], **half} for n in range(1, count)]
    found.append({"image_id": 1, "category_id": 1, "segmentation": {"size": [4, 6], "counts": [12, 12]}, "iscrowd": 1})
    return {"images": images, "annotations": found, "categories": CATEGORIES}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder with COCO's three archives."""
    folder = tmp_path / "archives"
    folder.mkdir()
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(stream, "jpeg")
    with zipfile.ZipFile(folder / prepare_coco.ANNOTATIONS.file, "w") as made:
        for name, count in COUNTS.items():
            made.writestr(f"annotations/instances_{name}.json", json.dumps(document(name, count)))
            made.writestr(f"annotations/captions_{name}.json", "{}")
    for name, count in COUNTS.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as made:
            for entry in document(name, count)["images"]:
                made.writestr(f"{name}/{entry['file_name']}", stream.getvalue())
    return folder


def prepared(archives: Path, reporter: Counter | None = None) -> Preparation:
    return Preparation(archives.parent / "coco", archives, download=False, unchecked=True, reporter=reporter or Counter())


def test_archives_become_lists_indexes_and_masks(bas: Command, archives: Path, tmp_path: Path) -> None:
    words = ("data", "prepare", "coco", "--root", "coco", "--archives", str(archives), "--unchecked")
    done = bas(*words, "--json")
    assert done.code == 0, done.err
    root = tmp_path / "coco"
    assert done.json["lists"]["train2014"] == {"images": 4, "official": 82081} and done.json["without_object"]["val2014"] == 1
    assert {p.name for p in (root / "annotations").iterdir()} == {
        *(f"instances_{name}.json" for name in COUNTS),
        *(f"instances_{name}.index.json" for name in COUNTS),
    }
    assert len(list((root / "train2014").iterdir())) == 5 and len(list((root / "masks/train2014").iterdir())) == 4
    first = read_mask(root / "masks/train2014/COCO_train2014_000000000001.png")
    assert first.tolist() == [[2, 2, 2, VOID, VOID, VOID]] * 4
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    for path in archives.iterdir():
        path.unlink()
    again = bas(*words)
    assert again.code == 0 and "everything is there already" in again.err and "next: bas run coco --data coco" in again.err
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    planned = bas("run", "coco", "--data", "coco", "--run", "run", "--dry-run", "--until", "seed_train")
    assert planned.code == 0 and "seed_train" in planned.out


def test_photographs_that_lie_in_folders_already_need_no_archive(archives: Path, tmp_path: Path) -> None:
    prepare_coco.prepare(prepared(archives))
    root, elsewhere = tmp_path / "coco", tmp_path / "mine/images"
    elsewhere.mkdir(parents=True)
    (root / "annotations").rename(tmp_path / "mine/annotations")
    for name in COUNTS:
        (root / name).rename(elsewhere / name)
    there = replace(prepared(archives), root=tmp_path / "mine", archives=tmp_path / "mine")
    done = prepare_coco.prepare(there)
    assert done["did"] == ["drew 4 masks of train2014", "drew 2 masks of val2014"]


@pytest.mark.parametrize("stop", range(1, 30, 3))
def test_an_interrupted_preparation_goes_on_and_ends_the_same(archives: Path, stop: int) -> None:
    with suppress(KeyboardInterrupt):
        prepare_coco.prepare(prepared(archives, Counter(stop_after=stop)))
    prepare_coco.prepare(prepared(archives))
    root = archives.parent / "coco"
    assert {name: len(list((root / "masks" / name).iterdir())) for name in COUNTS} == {"train2014": 4, "val2014": 2}
    assert not [p for p in root.rglob("*") if ".tmp" in p.name]
    assert not prepare_coco.prepare(prepared(archives))["did"]


def test_a_download_that_the_disk_cannot_take_is_refused_before_the_first_byte(archives: Path) -> None:
    """Annotations and what they inflate to, photographs twice, masks; nobody listens at these addresses."""
    huge = {n: replace(a, url="http://127.0.0.1:9/x.zip", size=1 << 59) for n, a in prepare_coco.PHOTOGRAPHS.items()}
    asked = replace(prepared(archives), archives=archives.parent / "none", download=True)
    needed = 4 * (1 << 59) + 5 * 252_872_794 + (82081 + 40137) * 8192
    with pytest.raises(StageError, match=f"Not enough room in .*: {needed:,} bytes are needed"):
        prepare_coco.prepare(asked, photographs=huge)
    assert not (archives.parent / "coco").exists()


def test_what_is_not_on_disk_is_named_and_not_fetched(bas: Command) -> None:
    told = bas("data", "prepare", "coco", "--root", "coco").error
    assert "No annotations_trainval2014.zip in coco" in told and "--download" in told
