"""Files of strangers: no pickle is executed, no name leaves its folder, nothing unfolds without end. Real hostile files, each."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command

from stages.core import training
from stages.core.documents import read_yaml
from stages.core.errors import StageError
from stages.core.files import HashCache, read_json
from stages.core.manifest import STATE
from stages.data import archives, images, inspection, markup, seedfile
from stages.data.labels import read_labels
from stages.data.mapfiles import MapFile
from stages.data.mapfiles import read as read_maps
from stages.data.pickled import load_npy
from stages.data.readers import Place, open_reader
from stages.nets import pretrained
from stages.nets.mmseg import network, state


class Hostile:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


def is_refused(read: Callable[[], object]) -> str:
    """The words of the error for the user, which came at once."""
    began = time.monotonic()
    with pytest.raises(StageError) as refusal:
        read()
    assert time.monotonic() - began < 10
    return str(refusal.value)


# --- pickles ---


def of_torch(path: Path, trap: Path) -> None:
    torch.save({"state_dict": Hostile(trap), "net": Hostile(trap), "step": 1, "meta": {}}, path)


def of_old_torch(path: Path, trap: Path) -> None:
    torch.save({"state_dict": Hostile(trap), "step": 1}, path, _use_new_zipfile_serialization=False)


def bare(path: Path, trap: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Hostile(trap)}))


@pytest.mark.parametrize("write", [of_torch, of_old_torch, bare])
def test_no_file_of_weights_or_state_is_executed(tmp_path: Path, write: Callable[[Path, Path], None]) -> None:
    trap, path = tmp_path / "executed", tmp_path / STATE
    write(path, trap)
    readers: list[Callable[[], object]] = [
        lambda: pretrained.read_state(path),
        lambda: network.load(path, "cpu"),
        lambda: state.read(tmp_path),
        lambda: state.kept_step(tmp_path),
        lambda: training.load_tensors(path, "cpu"),
    ]
    for read in readers:
        assert STATE in is_refused(read)
    assert not trap.exists()


def test_a_checkpoint_is_not_executed_by_way_of_mmengine(tmp_path: Path) -> None:
    from mmengine.runner import load_checkpoint

    of_torch(tmp_path / "a.pth", tmp_path / "executed")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / "a.pth"), map_location="cpu")
    assert not (tmp_path / "executed").exists()


def test_a_kept_state_that_was_replaced_ends_in_one_line(bas: Command, config: Path, tmp_path: Path) -> None:
    words = ("seed", "train", str(config), "--run", "run", "-q")
    assert bas(*words).code == 0
    of_torch(tmp_path / "run/seed_train/state.pth", tmp_path / "executed")
    (tmp_path / "run/seed_train/manifest.json").unlink()
    assert "state.pth" in bas(*words).error and not (tmp_path / "executed").exists()


def test_no_array_file_is_executed(tmp_path: Path) -> None:
    trap, hostile = tmp_path / "executed", np.empty((), object)
    hostile[()] = {"keys": Hostile(trap)}
    np.save(tmp_path / "a.npy", hostile, allow_pickle=True)
    np.savez(tmp_path / "a.npz", keys=np.array([Hostile(trap)], object), classes=np.array([Hostile(trap)], object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"classes": Hostile(trap)}))
    readers: list[Callable[[], object]] = [
        lambda: load_npy(tmp_path / "a.npy"),
        lambda: read_labels(tmp_path, tmp_path / "a.npy", (), ("cat",)),
        *(lambda name=name: read_maps(tmp_path, [MapFile(name, None)], 3) for name in ("a.npy", "a.npz", "pickle.npz")),
        *(lambda name=name: seedfile.read(tmp_path / name) for name in ("a.npz", "pickle.npz")),
    ]
    for read in readers:
        is_refused(read)
    assert not trap.exists()


# --- names ---


@pytest.mark.parametrize("line", ["../../secret", "/JPEGImages/../../secret.jpg", "..", ".", "JPEGImages/..\\..\\secret"])
def test_a_list_names_nothing_beside_the_images(devkit: Path, line: str) -> None:
    (devkit.parent / "secret.png").write_bytes((devkit / "JPEGImages/demo_00000.png").read_bytes())
    (devkit / "ImageSets/Segmentation/evil.txt").write_text(f"demo_00000\n{line}\n")
    reader = open_reader("voc", Place(devkit))
    assert "names absent images" in is_refused(lambda: reader.files(reader.ids("evil"), "evil"))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..\\secret.jpg"])
def test_a_coco_document_names_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    document = {
        "images": [{"id": 1, "file_name": name, "width": 4, "height": 4}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**box, "segmentation": [[0, 0, 2, 0, 2, 2]]}],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(document))

    def read() -> list[str]:
        reader = open_reader("coco", Place(root))
        return reader.files(reader.ids("train"), "train")

    is_refused(read)


def tape(path: Path, name: str, link: str = "") -> None:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        else:
            member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))


def test_no_archive_writes_outside_its_folder(tmp_path: Path) -> None:
    for name in ("../evil", "/evil", "a/../../evil"):
        tape(tmp_path / "a.tar", name)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            packed.writestr(name, "evil")
        for file in ("a.tar", "a.zip"):
            assert "outside its folder" in is_refused(lambda file=file: names_in(tmp_path / file))
    tape(tmp_path / "a.tar", "link", "/etc/passwd")
    assert names_in(tmp_path / "a.tar") == [] and not list(tmp_path.rglob("evil"))


def names_in(path: Path) -> list[str]:
    with archives.opened(path) as archive:
        return [str(member.name) for member in archive]


# --- what unfolds ---


def test_yaml_holds_plain_values_alone(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    for text in (f"!!python/object/apply:os.system ['touch {trap}']", f"a: !!python/object/new:pathlib.Path [{trap}]"):
        with pytest.raises(ValueError, match="could not determine a constructor"):
            read_yaml(text)
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["laughs", "itself", "deep"])
def test_yaml_does_not_unfold_without_end(bas: Command, tmp_path: Path, kind: str) -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]
    text = {"laughs": "\n".join(laughs), "itself": "&a [*a]", "deep": "[" * 100_000 + "]" * 100_000}[kind]
    with pytest.raises(ValueError, match=r"unfold|nested"):
        read_yaml(text)
    (tmp_path / "evil.yaml").write_text(text)
    assert "evil.yaml" in bas("run", "evil.yaml", "--data", "x").error
    assert read_yaml("base: &b [1, 2]\nother: *b") == {"base": [1, 2], "other": [1, 2]}


LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
XML = {
    "laughs": f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]><annotation><object><name>&a9;</name></object></annotation>',
    "outside": '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><object><name>&a;</name></object></annotation>',
    "long": '<!DOCTYPE a [<!ENTITY a "' + "x" * 50_000 + '">]><annotation>' + "&a;" * 50_000 + "</annotation>",
}


@pytest.mark.parametrize("kind", XML)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_entity_of_an_annotation_unfolds(tmp_path: Path, kind: str, encoding: str) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_bytes(XML[kind].encode(encoding))
    assert "declares a document type" in is_refused(lambda: read_labels(tmp_path, None, ("a",), ("cat",)))


def test_plain_xml_is_read_and_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<annotation><object><name>cat</name><part><name>head</name></part></object></annotation>")
    assert [one.findtext("name") for one in markup.read(path).iter("object")] == ["cat"]
    for text in ("", "<a>", "cat"):
        path.write_text(text)
        with pytest.raises(ValueError, match="not XML"):
            markup.read(path)
    with path.open("wb") as file:
        file.truncate(markup.LARGEST + 1)
    with pytest.raises(ValueError, match="it holds 16 MB"):
        markup.read(path)


def test_json_within_json_without_end_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    assert read_json(tmp_path / "a.json") is None


def test_a_pipe_or_device_among_photographs_is_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.jpg", tmp_path / "device.jpg"):
        assert inspection.inspect(str(path)).fault == "no regular file"
        with pytest.raises(StageError, match="no regular file"):
            images.read_image(path)
        with pytest.raises(OSError, match="no regular file"):
            HashCache(tmp_path / "hashes.json").of(path)
