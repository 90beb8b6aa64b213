"""`bas data prepare voc`: archives of the real layouts, with a handful of images, become a devkit with the field's lists."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Counter, wait_for
from PIL import Image
from scipy.io import savemat

from stages.actions.datasets import prepare_voc
from stages.actions.datasets.preparation import Preparation
from stages.core.errors import StageError
from stages.data import sbd
from stages.data.images import VOID, read_mask, write_mask

TRAIN, VAL = ("2007_000001", "2007_000002"), ("2007_000003", "2008_000004")
SBD_TRAIN, SBD_VAL = ("2007_000002", "2008_000005"), ("2008_000004", "2011_000006")
AUG = ["2007_000001", "2007_000002", "2008_000005", "2011_000006"]  # both, and VOC's training list, without VOC's val
ALL = (*TRAIN, *VAL, "2008_000005", "2011_000006", "2009_000007")  # the last is in no list


def encoded(array: np.ndarray, suffix: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, suffix)
    return stream.getvalue()


def annotation(*names: str) -> bytes:
    objects = "".join(f"<object><name>{name}</name><difficult>1</difficult></object>" for name in names)
    return f"<annotation>{objects}</annotation>".encode()


def mask_of_voc(folder: Path, image_id: str) -> bytes:
    """Six by four pixels: an aeroplane's with a void border."""
    path = folder / f"{image_id}.png"
    write_mask(path, np.array([[0, 0, 255, 1, 1, 255]] * 4, np.uint8))
    return path.read_bytes()


def devkit_files(folder: Path) -> dict[str, bytes]:
    """What VOC's archive holds, by name in it."""
    base = "VOCdevkit/VOC2012"
    files = {f"{base}/JPEGImages/{i}.jpg": encoded(np.full((4, 6, 3), 90, np.uint8), "jpeg") for i in ALL}
    files |= {f"{base}/Annotations/{i}.xml": annotation("aeroplane", "person") for i in ALL}
    files |= {f"{base}/SegmentationClass/{i}.png": mask_of_voc(folder, i) for i in (*TRAIN, *VAL)}
    for name, ids in (("train", TRAIN), ("val", VAL)):
        files[f"{base}/ImageSets/Segmentation/{name}.txt"] = "".join(f"{i}\n" for i in ids).encode()
    return files | {f"{base}/ImageSets/Action/train.txt": b"2009_000007\n", "VOCdevkit/readme.txt": b"not of a devkit's folders"}


def mat(class_id: int) -> bytes:
    """A file of SBD's: a struct GTcls with Segmentation, Boundaries and CategoriesPresent."""
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = class_id
    stream = io.BytesIO()
    content = {"Segmentation": mask, "Boundaries": np.zeros((20, 1), object), "CategoriesPresent": [class_id]}
    savemat(stream, {"GTcls": content}, do_compression=True)
    return stream.getvalue()


def sbd_files() -> dict[str, bytes]:
    base = "benchmark_RELEASE/dataset"
    ids = sorted({*SBD_TRAIN, *SBD_VAL})
    files = {f"{base}/cls/{i}.mat": mat(number + 8) for number, i in enumerate(ids)}
    files |= {f"{base}/img/{i}.jpg": b"never read" for i in ids}
    files |= {f"{base}/inst/{i}.mat": b"never read" for i in ids}
    return files | {f"{base}/{n}.txt": "\n".join(i).encode() for n, i in (("train", SBD_TRAIN), ("val", SBD_VAL))}


def pack(path: Path, files: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder with both archives."""
    folder = tmp_path / "archives"
    folder.mkdir()
    pack(folder / prepare_voc.TRAINVAL.file, devkit_files(tmp_path), "w")
    pack(folder / sbd.ARCHIVE.file, sbd_files(), "w:gz")
    return folder


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its time and its number on disk: what a call that does nothing leaves alone."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*") if p.is_file()}


def test_archives_become_a_devkit_with_the_lists_of_the_field(bas: Command, archives: Path, tmp_path: Path) -> None:
    done = bas("data", "prepare", "voc", "--root", "voc", "--archives", str(archives), "--unchecked", "--json")
    assert done.code == 0, done.err
    devkit = tmp_path / "voc/VOCdevkit/VOC2012"
    assert (devkit / "ImageSets/Segmentation/train_aug.txt").read_text().split() == AUG
    assert {p.stem for p in (devkit / "SegmentationClassAug").iterdir()} == {*AUG, *VAL}
    assert (devkit / "SegmentationClassAug/2007_000002.png").samefile(devkit / "SegmentationClass/2007_000002.png")
    drawn = read_mask(devkit / "SegmentationClassAug/2008_000005.png")
    assert np.unique(drawn).tolist() == [0, 10] and (drawn == 10).sum() == 6 and VOID not in drawn
    assert {p.stem for p in (devkit / "JPEGImages").iterdir()} == set(ALL)
    assert not list((tmp_path / "voc").rglob("*readme*")) and not list(devkit.glob(".*"))
    assert done.json["root"] == "voc/VOCdevkit/VOC2012"
    assert done.json["lists"]["train_aug"] == {"images": 4, "official": 10582}
    assert done.json["labels"] == "Annotations (XML objects)" and done.json["unlabelled"] == 0
    assert "list 'val' has 2 images, the official one 1449" in done.json["warnings"]


def test_a_second_call_does_nothing_and_says_so(bas: Command, archives: Path, tmp_path: Path) -> None:
    words = ("data", "prepare", "voc", "--root", "voc", "--archives", str(archives), "--unchecked")
    assert bas(*words).code == 0
    before = state(tmp_path / "voc")
    for path in archives.iterdir():
        path.unlink()  # nor are the archives asked for again
    again = bas(*words)
    assert again.code == 0 and "everything is there already" in again.err and state(tmp_path / "voc") == before
    assert "next: bas run voc --data voc/VOCdevkit/VOC2012" in again.err


def test_unpacked_folders_serve_as_well(bas: Command, archives: Path, tmp_path: Path) -> None:
    for name in (prepare_voc.TRAINVAL.file, sbd.ARCHIVE.file):
        with tarfile.open(archives / name) as archive:
            archive.extractall(tmp_path / "data", filter="data")
    done = bas("data", "prepare", "voc", "--root", "data", "--json")
    assert done.code == 0, done.err
    assert done.json["did"] == ["drew 2 masks of SBD", "wrote train_aug.txt"]
    assert (tmp_path / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").read_text().split() == AUG


def test_an_archive_that_is_not_the_published_one_is_refused(bas: Command, archives: Path, tmp_path: Path) -> None:
    told = bas("data", "prepare", "voc", "--root", "voc", "--archives", str(archives)).error
    assert "VOCtrainval_11-May-2012.tar is not the published archive: its md5 is" in told and "--unchecked" in told
    assert not (tmp_path / "voc").exists()


def test_what_is_not_on_disk_is_named_and_not_fetched(bas: Command) -> None:
    told = bas("data", "prepare", "voc", "--root", "voc").error
    assert "No VOCtrainval_11-May-2012.tar in voc" in told and "--download" in told


def preparation(archives: Path, reporter: Counter | None = None) -> Preparation:
    return Preparation(archives.parent / "voc", archives, download=False, unchecked=True, reporter=reporter or Counter())


@pytest.mark.parametrize("stop", range(1, 40, 3))
def test_an_interrupted_preparation_goes_on_and_ends_the_same(archives: Path, stop: int) -> None:
    with suppress(KeyboardInterrupt):
        prepare_voc.prepare(preparation(archives, Counter(stop_after=stop)))
    prepare_voc.prepare(preparation(archives))
    devkit = archives.parent / "voc" / prepare_voc.DEVKIT
    assert {p.stem for p in (devkit / "SegmentationClassAug").iterdir()} == {*AUG, *VAL}
    assert {p.stem for p in (devkit / "JPEGImages").iterdir()} == set(ALL)
    assert not [p for p in devkit.rglob("*") if ".tmp" in p.name or "unpacking" in p.name]


def test_what_a_killed_process_left_half_done_goes_and_another_at_work_is_waited_for(archives: Path) -> None:
    devkit = archives.parent / "voc" / prepare_voc.DEVKIT
    (devkit / "JPEGImages").mkdir(parents=True)
    (devkit / "JPEGImages/.2007_000001.17.tmp.jpg").write_bytes(b"half")
    child = os.fork()
    if not child:  # holds the folder until it is ended
        first = preparation(archives)
        first.begin(devkit)
        (archives / "held").touch()
        signal.pause()
    wait_for(child, archives / "held")
    try:
        with pytest.raises(StageError, match=r"Cannot prepare .*another process is at work in it"):
            prepare_voc.prepare(preparation(archives))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    prepare_voc.prepare(preparation(archives))
    assert not list((archives.parent / "voc").rglob(".*"))


def test_a_download_that_the_disk_cannot_take_is_refused_before_the_first_byte(archives: Path) -> None:
    """Room for the archive, for what it unpacks to, for SBD's and for its masks; nobody listens at this address."""
    prepared = replace(preparation(archives.parent / "none"), download=True)
    huge = replace(prepare_voc.TRAINVAL, url="http://127.0.0.1:9/huge.tar", size=1 << 60)
    needed = 2 * (1 << 60) + 1_419_539_633 + 10582 * 8192
    with pytest.raises(StageError, match=f"Not enough room in .*: {needed:,} bytes are needed and [0-9,]+ are free"):
        prepare_voc.prepare(prepared, huge)
    assert not (archives.parent / "voc").exists()


def test_the_test_list_comes_with_its_archive(archives: Path) -> None:
    prepare_voc.prepare(preparation(archives))
    base = "VOCdevkit/VOC2012"
    files = {f"{base}/ImageSets/Segmentation/test.txt": b"2008_000006\n", f"{base}/JPEGImages/2008_000006.jpg": b"a photograph"}
    pack(archives / prepare_voc.TEST.file, files, "w")
    done = prepare_voc.prepare(preparation(archives))
    assert done["did"] == ["unpacked 2 files of VOC2012test.tar"] and done["lists"]["test"]["images"] == 1
    assert not prepare_voc.prepare(preparation(archives))["did"]


def test_labels_come_from_the_dictionary_where_there_are_no_annotations(archives: Path, tmp_path: Path) -> None:
    files = {name: content for name, content in devkit_files(tmp_path).items() if "Annotations" not in name}
    pack(archives / prepare_voc.TRAINVAL.file, files, "w")
    rows = {np.int32(i.replace("_", "")): np.eye(20, dtype=np.float32)[11] for i in (*AUG, *VAL)}
    np.save(archives / "cls_labels.npy", rows, allow_pickle=True)  # type: ignore[arg-type]
    done = prepare_voc.prepare(preparation(archives))
    assert done["labels"] == "cls_labels.npy" and done["unlabelled"] == 0
    devkit = archives.parent / "voc" / prepare_voc.DEVKIT
    assert (devkit / "image_labels.txt").read_text().splitlines()[0] == "2007_000001 dog"


def test_sbd_that_lacks_masks_is_refused(archives: Path) -> None:
    files = {name: content for name, content in sbd_files().items() if name != "benchmark_RELEASE/dataset/cls/2008_000005.mat"}
    pack(archives / sbd.ARCHIVE.file, files, "w:gz")
    with pytest.raises(StageError, match="1 of its images have no mask, first '2008_000005'"):
        prepare_voc.prepare(preparation(archives))


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", mat(21), mat(3)[:200]], ids=["empty", "text", "id", "cut"])
def test_a_damaged_mask_is_named(content: bytes) -> None:
    with pytest.raises(StageError, match="SBD mask of '2008_000005'"):
        sbd.decode(content, "2008_000005")
