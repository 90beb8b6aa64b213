"""Maps from other tools and for them: every format in, IRN's dictionaries out, and one line for what is no map."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import pickletools
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, call, settings, wait_for
from PIL import Image

from benchmarks.children import fork, wait
from stages.core.errors import StageError
from stages.data import mapfiles, pickled, seedfile
from stages.data.dataset import Config, Dataset, Sample, open_dataset
from stages.formulas import seeds

SIDE = 64  # of the generated images
GRID = SIDE // 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Path:
    """A run up to its seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "own.yaml").write_text("{}")
    words = ("run", "own.yaml", "--run", "run", "--data", str(generated), "--until", "seed_infer", *settings(), "-q")
    done = call(folder, *words)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that the test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def dataset(generated: Path) -> Dataset:
    """The generated dataset as the stages see it."""
    return open_dataset(Config(root=str(generated), train="train", score="train"), generated)


def blocks(sample: Sample, side: int = SIDE) -> np.ndarray:
    """Maps (P,side,side) of one image: each class has its own column of full cells and half of that in the next one."""
    maps = np.zeros((len(sample.labels), side, side), np.float32)
    step = side // 8
    for row, class_id in enumerate(sample.labels):
        maps[row, :, class_id * step : (class_id + 1) * step] = 8
        maps[row, :, (class_id + 1) * step : (class_id + 2) * step] = 4
    return maps


def as_irn(sample: Sample, path: Path) -> None:
    keys, full = torch.tensor(sample.labels), blocks(sample)
    np.save(path / f"{sample.id}.npy", {"keys": keys, "cam": torch.from_numpy(full[:, ::4, ::4]), "high_res": full})  # type: ignore


def as_padded(sample: Sample, path: Path) -> None:
    """Ids from 1 after a 0 for the background, and a tensor of half precision on the stride-4 grid alone."""
    keys = np.pad(np.array(sample.labels) + 1, (1, 0))
    np.save(path / f"{sample.id}.npy", {"keys": keys, "cam": torch.from_numpy(blocks(sample, GRID)).half()})  # type: ignore


def as_table(sample: Sample, path: Path) -> None:
    """One entry a class, among them one that is not there."""
    table = dict(zip(sample.labels, blocks(sample).astype(np.float64), strict=True))
    other = next(i for i in itertools.count() if i not in table)
    np.save(path / f"{sample.id}.npy", table | {other: np.ones((SIDE, SIDE))})  # type: ignore


def as_npz(sample: Sample, path: Path) -> None:
    np.savez_compressed(path / f"{sample.id}.npz", classes=np.array(sample.labels), maps=blocks(sample))


def as_png(sample: Sample, path: Path) -> None:
    """Eight bits, class by number, beside one another."""
    for class_id, array in zip(sample.labels, blocks(sample), strict=True):
        Image.fromarray((array * 31).astype(np.uint8)).save(path / f"{sample.id}_{class_id}.png")


FORMATS = [as_irn, as_padded, as_table, as_npz, as_png]


def save(folder: Path, samples: Sequence[Sample], write: Callable[[Sample, Path], None] = as_irn) -> Path:
    folder.mkdir(exist_ok=True)
    for sample in samples:
        write(sample, folder)
    return folder


def kept(run: Path, name: str, sample: Sample) -> seedfile.Seed:
    return seedfile.read(run / "imports" / name / "seeds" / f"{sample.id}.npz")


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_maps(bas: Command, run: Path, dataset: Dataset, tmp_path: Path, write):
    samples = dataset.split("train")
    done = bas("seed", "import", str(save(tmp_path / "maps", samples, write)), "--name", "x", "--run", str(run), "--json")
    assert done.code == 0, done.err
    assert done.json["imported"] and done.json["images"] == 8
    assert done.json["maps"] == sum(len(sample.labels) for sample in samples)
    assert done.json["maps_dropped"] == (8 if write is as_table else 0)
    for sample in samples:
        seed = kept(run, "x", sample)
        assert seed.classes.tolist() == list(sample.labels) and seed.size == (SIDE, SIDE)
        assert seed.imported["x"].dtype == np.float16
        np.testing.assert_array_equal(seed.imported["x"], blocks(sample, GRID) / 8)


def test_pngs_in_folders_of_classes_of_sixteen_bits(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    for sample in dataset.split("train"):
        for class_id, array in zip(sample.labels, blocks(sample), strict=True):
            folder = tmp_path / "maps" / dataset.classes[class_id]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((array * 8000).astype(np.uint16)).save(folder / f"{sample.id}.png")
    assert bas("seed", "import", "maps", "--name", "x", "--run", str(run)).code == 0
    for sample in dataset.split("train"):
        np.testing.assert_array_equal(kept(run, "x", sample).imported["x"], blocks(sample, GRID) / 8)


def test_an_import_is_scored_in_sums_and_refined(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    """Imported true masks score near 100 alone, and image-specific thresholds are found for every source."""
    for sample in dataset.split("train"):
        mask = np.asarray(Image.open(dataset.mask(sample)))  # type: ignore
        maps = np.stack([(mask == class_id + 1).astype(np.float32) for class_id in sample.labels])
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.savez(tmp_path / "masks" / f"{sample.id}.npz", keys=np.array(sample.labels), high_res=maps)
    assert bas("seed", "import", "masks", "--name", "x", "--run", str(run), "--stride", "1").code == 0
    chosen = ("--set", "seed_infer.sources=[bas,x,bas+x]", "--set", "refine.seed=bas+x", "--set", "irn_labels.iterations=1")
    words = ("run", str(run / "config.yaml"), "--run", str(run), "--until", "irn_labels", *chosen, "--json")
    done = bas(*words)
    assert done.code == 0, done.err
    stages = {stage["name"]: stage for stage in done.json["stages"]}
    assert stages["imports/x"]["state"] == stages["seed_infer"]["state"] == stages["irn_labels"]["state"] == "done"
    metrics = stages["seed_infer"]["metrics"]
    assert metrics["train/x/oracle/mIoU"] == 100 and metrics["train/x/image-specific/mIoU"] == 100
    assert metrics["train/bas+x/oracle/mIoU"] > metrics["train/bas/oracle/mIoU"]
    seed = seedfile.read(run / "seed_infer/seeds" / f"{dataset.split('train')[0].id}.npz")
    assert set(seed.thresholds) == {"bas", "x", "bas+x"}
    manifest = json.loads((run / "irn_labels/manifest.json").read_text())
    assert manifest["notes"]["seed"] == "bas+x" and manifest["outputs"]["count"] == 9


def test_a_new_run_begins_with_an_import(bas: Command, config: Path, dataset: Dataset, tmp_path: Path):
    save(tmp_path / "maps", dataset.split("train"))
    done = bas("seed", "import", "maps", str(config), "--name", "x", "--run", "new")
    assert done.code == 0 and "imported" in done.err, done.err
    extra = ("--set", "seed_infer.sources=[x]", "--set", "refine.seed=x")
    assert bas("run", str(config), "--run", "new", "--until", "seed_infer", *extra, "-q").code == 0
    line = bas("run", str(config), "--run", "other", "--set", "seed_infer.sources=[sum,x]").error
    assert "imports/x is not there" in line
    assert not (tmp_path / "other").exists()  # said before anything is trained


# --- what is there already, what changed ---


def test_importing_again_changes_nothing_until_a_file_does(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples)
    words = ("seed", "import", "maps", "--name", "x", "--run", str(run), "--json")
    first = bas(*words).json
    before = {path: path.stat().st_mtime_ns for path in (run / "imports").rglob("*") if path.is_file()}
    again = bas(*words).json
    assert first["imported"] and not again["imported"] and first["digest"] == again["digest"]
    assert before == {path: path.stat().st_mtime_ns for path in (run / "imports").rglob("*") if path.is_file()}
    chosen = ("--run", str(run), "--set", "seed_infer.sources=[sum,x]")
    assert bas("seed", "infer", *chosen, "-q").code == 0

    shutil.copytree(tmp_path / "maps", tmp_path / "elsewhere")
    moved = bas("seed", "import", "elsewhere", "--name", "x", "--run", str(run), "--json").json
    assert not moved["imported"] and moved["digest"] == first["digest"]

    maps = blocks(samples[3])[:, :, ::-1]
    np.savez(tmp_path / "maps" / f"{samples[3].id}.npz", keys=np.array(samples[3].labels), high_res=maps)
    (tmp_path / "maps" / f"{samples[3].id}.npy").unlink()
    changed = bas(*words).json
    assert changed["imported"] and changed["digest"] != first["digest"]
    assert changed["why"] == "the files that were imported changed"
    rows = {row["name"]: row for row in bas("status", "--run", str(run), "--json").json["stages"]}
    assert rows["imports/x"]["state"] == "done"
    assert rows["seed_infer"]["state"] == "stale" and rows["seed_infer"]["why"] == "imports/x was imported again or is missing"


def test_status_tells_of_imports_of_other_labels(bas: Command, run: Path, devkit: Path, dataset: Dataset, tmp_path: Path):
    save(tmp_path / "maps", dataset.split("train"))
    chosen = ("--run", str(run), "--set", "seed_infer.sources=[sum,x]")
    assert bas("seed", "import", "maps", "--name", "x", "--run", str(run), "-q").code == 0
    assert bas("seed", "infer", *chosen, "-q").code == 0
    first, second = dataset.split("train")[:2]
    lines = [f"{s.id} {' '.join(dataset.classes[i] for i in s.labels)}" for s in dataset.split("train")[2:]]
    only = next(name for i, name in enumerate(dataset.classes) if (i,) != first.labels)
    lines += [f"{first.id} {only}", f"{second.id} {' '.join(dataset.classes[i] for i in second.labels)}"]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    line = bas("seed", "infer", *chosen, "--labels", "labels.txt").error
    assert "The imported maps 'x' are not of these images and labels" in line and first.id in line
    rows = {row["name"]: row for row in bas("status", "--run", str(run), "--json").json["stages"]}
    assert rows["imports/x"] | {"state": "stale", "why": "the images or labels of split 'train' changed"} == rows["imports/x"]


def test_a_damaged_import_is_to_be_imported_again(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples)
    again = ("seed", "import", "maps", "--name", "x", "--run", str(run), "-q")
    assert bas(*again).code == 0
    seed = run / "imports/x/seeds" / f"{samples[2].id}.npz"
    seed.write_bytes(bytes(seed.stat().st_size))
    infer = ("seed", "infer", "--run", str(run), "--set", "seed_infer.sources=[sum,x]", "-q")
    line = bas(*infer).error
    assert line.startswith(f"Cannot read seed {seed}: ")
    assert line.endswith("Run `bas seed import DIR --name x` again with --force")
    assert bas(*again, "--force").code == 0 and bas(*infer).code == 0


def test_a_killed_import_starts_over(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples)
    words = ("seed", "import", "maps", "--name", "x", "--run", str(run))

    def slow() -> None:
        read = mapfiles.read
        mapfiles.read = lambda *values: (__import__("time").sleep(0.05), read(*values))[1]  # type: ignore

    child = fork(tmp_path, *words, prepare=slow)
    wait_for(child, run / "imports/x/seeds" / f"{samples[1].id}.npz")
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert not (run / "imports/x/manifest.json").exists()
    line = bas("seed", "infer", "--run", str(run), "--set", "seed_infer.sources=[sum,x]").error
    assert "imports/x is not there" in line
    done = bas(*words, "--json").json
    assert done["imported"] and done["maps"] == sum(len(sample.labels) for sample in samples)
    other = bas("seed", "import", "maps", "--name", "y", "--run", str(run), "--json").json
    assert {k: v for k, v in done.items() if k.startswith("maps")} == {k: v for k, v in other.items() if k.startswith("maps")}
    assert not list((run / "imports").rglob("*.tmp*"))


# --- faults in one line ---


def spoil(dataset: Dataset, folder: Path, **changes: Any) -> Sample:
    """Write all maps as `.npz`, two of them with CHANGES; returns the first of these."""
    samples = dataset.split("train")
    save(folder, samples, as_npz)
    for sample in samples[2:4]:
        arrays = {"keys": np.array(sample.labels), "high_res": blocks(sample)} | {k: v(sample) for k, v in changes.items()}
        np.savez(folder / f"{sample.id}.npz", **arrays)
    return samples[2]


def nan(sample: Sample) -> np.ndarray:
    maps = blocks(sample)
    maps[0, 3, 5] = np.nan
    return maps


BAD = [
    ({"high_res": lambda s: blocks(s)[:, :40]}, "they are 40 x 64, the image is 64 x 64 (H x W)"),
    ({"high_res": nan}, "values that are not finite"),
    ({"high_res": lambda s: blocks(s)[0]}, "class ids and 64 maps"),
    ({"high_res": lambda s: blocks(s)[:, 0]}, "not numbers of shape (h, w)"),
    ({"high_res": lambda s: blocks(s).astype(str)}, "not numbers of shape (h, w)"),
    ({"keys": lambda s: np.array(s.labels) + 50}, "it holds class 5"),
    ({"keys": lambda s: np.array(s.labels, float)}, "not a list of whole numbers"),
    ({"keys": lambda s: np.array([s.labels[0]] * 2), "high_res": lambda s: np.ones((2, SIDE, SIDE))}, "a class twice"),
    ({"keys": lambda s: np.zeros(0, int), "high_res": lambda s: np.ones((0, SIDE, SIDE))}, "no map of class '"),
]


@pytest.mark.parametrize(("changes", "why"), BAD)
def test_what_is_no_map_is_refused(bas: Command, run: Path, dataset: Dataset, tmp_path: Path, changes, why):
    first = spoil(dataset, tmp_path / "maps", **changes)
    line = bas("seed", "import", "maps", "--name", "x", "--run", str(run)).error
    assert why in line and f"maps/{first.id}.npz" in line
    assert "2 of 8 images cannot be imported" in line
    assert not (run / "imports/x/manifest.json").exists()


def test_the_first_damaged_file_is_named(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples)
    for sample, content in zip(samples[1:5], (b"", b"PK\x03\x04", b"not an array", pickle.dumps({})), strict=True):
        (tmp_path / "maps" / f"{sample.id}.npy").write_bytes(content)
    line = bas("seed", "import", "maps", "--name", "x", "--run", str(run)).error
    assert f"{samples[1].id}.npy" in line and "4 of 8 images" in line
    np.save(tmp_path / "maps" / f"{samples[0].id}.npy", {"keys": [0], "cams": np.zeros((1, 9, 9))})  # type: ignore
    line = bas("seed", "import", "maps", "--name", "x", "--run", str(run)).error  # a refused import is not remembered
    assert "it holds keys, cams, and no maps (high_res or cam)" in line


def test_colour_and_index_images_are_no_maps(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples, as_png)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "maps" / f"{samples[0].id}_{samples[0].labels[0]}.png")
    line = bas("seed", "import", "maps", "--name", "x", "--run", str(run)).error
    assert "mode RGB, not a grey image of 8 or 16 bits" in line and "1 of 8 images" in line


def test_missing_images_and_classes(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    words = ("seed", "import", "maps", "--name", "x", "--run", str(run))
    assert "no such folder" in bas(*words).error
    (tmp_path / "maps").mkdir()
    assert f"none of the 8 images has a file there, first '{samples[0].id}'" in bas(*words, "--allow-missing").error
    save(tmp_path / "maps", samples[:6])
    assert f"2 of 8 images have none, first '{samples[6].id}'" in bas(*words).error
    np.savez(tmp_path / "maps" / f"{samples[6].id}.npz", keys=np.zeros(0, int), cam=np.ones((0, 4, 4)))
    done = bas(*words, "--allow-missing", "--json")
    assert done.json["images_missing"] == 2 and done.json["maps_zero"] == 0
    assert "2 images have no maps: theirs are zero" in done.err
    assert all(not kept(run, "x", sample).imported["x"].any() for sample in samples[6:])


def test_a_missing_class_is_zero_where_that_is_allowed(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples, as_png)
    several = next(sample for sample in samples if len(sample.labels) > 1)
    (tmp_path / "maps" / f"{several.id}_{several.labels[0]}.png").unlink()
    words = ("seed", "import", "maps", "--name", "x", "--run", str(run))
    assert f"no map of class '{dataset.classes[several.labels[0]]}'" in bas(*words).error
    done = bas(*words, "--allow-missing")
    assert done.code == 0 and "1 maps of present classes are missing: they are zero" in done.err
    maps = kept(run, "x", several).imported["x"]
    assert not maps[0].any() and maps[1:].max() == 1


def test_values_below_zero_count_as_zero(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    spoil(dataset, tmp_path / "maps", high_res=lambda sample: -blocks(sample))
    done = bas("seed", "import", "maps", "--name", "x", "--run", str(run), "--json")
    count = sum(len(sample.labels) for sample in dataset.split("train")[2:4])
    assert done.json["maps_negative"] == done.json["maps_zero"] == count
    assert f"{count} maps hold values below zero" in done.err and f"{count} maps are zero everywhere" in done.err


@pytest.mark.parametrize("name", ["bas", "sum", "average", "irn", "agnostic", "a b", "../x", "1x", "", "threshold_x", "a+b"])
def test_names_that_cannot_be(bas: Command, run: Path, tmp_path: Path, name: str):
    (tmp_path / "maps").mkdir()
    assert f"Imported maps cannot be called '{name}'" in bas("seed", "import", "maps", "--name", name, "--run", str(run)).error


# --- pickles ---


class Hostile:
    """An object that would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class WithBytes:
    """An object that hands bytes to torch's loader of storages when unpickled."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def test_a_hostile_file_is_refused_and_not_executed(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    samples = dataset.split("train")
    save(tmp_path / "maps", samples)
    inner = pickle.dumps(Hostile(tmp_path / "executed"), protocol=2)
    real = pickled_storage()
    for value in (Hostile(tmp_path / "executed"), WithBytes(inner), WithBytes(real[: real.index(b"(X")] + inner)):
        np.save(tmp_path / "maps" / f"{samples[5].id}.npy", {"keys": [0], "high_res": value})  # type: ignore
        line = bas("seed", "import", "maps", "--name", "x", "--run", str(run)).error
        assert f"{samples[5].id}.npy: not a safe array file" in line and "open, which is not an array" in line
    assert not (tmp_path / "executed").exists()


def pickled_storage() -> bytes:
    """What torch hands its loader for four floats."""
    content = torch.zeros(4).untyped_storage().__reduce__()[1][0]
    assert isinstance(content, bytes)
    return content


class Rebuilt:
    """A tensor that states a size, strides and an offset of its own."""

    def __init__(self, *layout: Any) -> None:
        self.layout = layout

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (torch.zeros(4).storage(), *self.layout, False, {})


@pytest.mark.parametrize(
    "layout", [(0, (5,), (1,)), (3, (2,), (1,)), (0, (2,), (4,)), (-1, (2,), (1,)), (0, (2, 10**12), (1, 0))]
)
def test_a_tensor_stays_within_its_storage(tmp_path: Path, layout):
    np.save(tmp_path / "a.npy", {"a": Rebuilt(*layout)})  # type: ignore
    with pytest.raises(Exception, match="not a safe array file"):
        pickled.load_npy(tmp_path / "a.npy")


class Calls:
    """What a pickle may ask for: a function and its arguments, and a state for what it returns."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def unflagged() -> Calls:
    """The type of objects, said to hold none."""
    return Calls(np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 8, 0))


POINTER, RECONSTRUCT = b"A" * 8, np.zeros(1).__reduce__()[0]
FORGED = {
    "array": lambda: Calls(np.ndarray, ((1,), np.dtype("O"), POINTER)),
    "state": lambda: Calls(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), unflagged(), False, POINTER)),
    "buffer": lambda: Calls(np.zeros(1).__reduce_ex__(5)[0], (POINTER, unflagged(), (1,), "C")),
    "scalar": lambda: Calls(np.float64(0).__reduce__()[0], (unflagged(), POINTER)),
    "struct": lambda: Calls(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype([("a", "O")]), False, POINTER)),
}


@pytest.mark.parametrize("way", FORGED)
def test_bytes_are_never_taken_for_pointers(tmp_path: Path, way: str):
    """Such an array would make numpy follow an address of a stranger's choice; nothing here touches its values."""
    np.save(tmp_path / "a.npy", {"a": FORGED[way]()})  # type: ignore
    try:
        read = pickled.load_npy(tmp_path / "a.npy")["a"]
    except StageError as fault:
        assert "not a safe array file" in str(fault)
    else:
        assert read.size == 0


def test_arrays_and_scalars_come_as_numpy_pickles_them(tmp_path: Path):
    arrays = {
        "floats": np.arange(6.0).reshape(2, 3),
        "columns first": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        "words": np.array(["cat", "sheep"]),
        "objects": np.array([None, (1, 2)], dtype=object),
        "none": np.zeros((0, 4), np.float16),
        "number": np.float32(0.5),
    }
    for protocol in (3, 4, 5):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            pickle.dump(np.array(arrays, dtype=object), file, protocol=protocol)
        read = pickled.load_npy(tmp_path / "a.npy")
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array, name)
            assert np.asarray(read[name]).dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


def test_tensors_of_every_type_come_as_arrays(tmp_path: Path):
    numbers = torch.arange(24).reshape(2, 3, 4)
    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    tensors = {str(kind): numbers.to(kind)[:, 1:, ::2] for kind in types}
    np.save(tmp_path / "a.npy", tensors)  # type: ignore
    read = pickled.load_npy(tmp_path / "a.npy")
    for kind, tensor in tensors.items():
        np.testing.assert_array_equal(read[kind], tensor.double().numpy(), kind)


# --- export ---


def test_export_is_what_irn_reads(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    words = ("seed", "export", "out", "--run", str(run), "--source", "sum")
    done = bas(*words, "--json").json
    samples = dataset.split("train")
    assert done["source"] == "sum" and done["images"] == len(list((tmp_path / "out").glob("*.npy"))) == 8
    assert done["maps"] == sum(len(sample.labels) for sample in samples)
    for sample in samples:
        path = tmp_path / "out" / f"{sample.id}.npy"
        table = np.load(path, allow_pickle=True).item()
        keys = np.pad(table["keys"] + 1, (1, 0), mode="constant")
        assert keys.tolist() == [0, *(class_id + 1 for class_id in sample.labels)]
        assert isinstance(table["cam"], torch.Tensor) and table["cam"].shape == (len(sample.labels), GRID, GRID)
        seed = seedfile.read(run / "seed_infer/seeds" / f"{sample.id}.npz")
        np.testing.assert_array_equal(table["high_res"], seedfile.full_maps(seed, "sum").numpy())
        assert table["high_res"].dtype == np.float32
        names = [str(name) for code, name, _ in pickletools.genops(path.read_bytes()[128:]) if code.name == "GLOBAL"]
        assert "numpy.core.multiarray _reconstruct" in names and not any("_core" in name for name in names)
    assert f"8 of 8, first '{samples[0].id}.npy'" in bas(*words).error
    assert bas(*words, "--force", "-q").code == 0


def test_export_and_import_give_the_same_maps(bas: Command, run: Path, dataset: Dataset, tmp_path: Path):
    """With every pixel kept to half precision; on the grid of stride 4 each value is the mean of its pixels."""
    assert bas("seed", "export", "out", "--run", str(run), "-q").code == 0
    for name, stride in (("whole", "1"), ("thin", "4")):
        assert bas("seed", "import", "out", "--name", name, "--run", str(run), "--stride", stride, "-q").code == 0
    for sample in dataset.split("train"):
        full = seedfile.full_maps(seedfile.read(run / "seed_infer/seeds" / f"{sample.id}.npz"), "sum")
        torch.testing.assert_close(seedfile.full_maps(kept(run, "whole", sample), "whole"), full, rtol=1e-3, atol=1e-4)
        means = seeds.normalise(torch.nn.functional.avg_pool2d(full, 4))
        torch.testing.assert_close(
            torch.from_numpy(kept(run, "thin", sample).imported["thin"]).float(), means, rtol=1e-3, atol=1e-4
        )


def test_what_cannot_be_exported(bas: Command, run: Path, tmp_path: Path):
    assert "No seeds of source 'mine'" in bas("seed", "export", "out", "--run", str(run), "--source", "mine").error
    shutil.rmtree(run / "seed_infer")
    assert "seed_infer is not complete" in bas("seed", "export", "out", "--run", str(run)).error
