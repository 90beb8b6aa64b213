"""What a run keeps: nothing stale for what cannot change a result, every damaged file named, leftovers removed and no more."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import Finished, call, settings, wait_for
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from benchmarks.children import fork, wait
from stages.core import manifest as manifests
from stages.core.files import read_json
from stages.nets import backbones

MADE = ("seed_train", "seed_infer")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Path:
    """A folder with a dataset, a file of weights and a run as far as the seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(generated, folder / "data")
    done = infer(folder, "--data", "data", "--run", "run", *settings())
    assert done.code == 0, done.err
    return folder


def infer(folder: Path, *words: str) -> Finished:
    """`bas run own.yaml --until seed_infer` in FOLDER."""
    (folder / "own.yaml").write_text("{}")
    return call(folder, "run", "own.yaml", "--until", "seed_infer", "-q", *words)


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def states(folder: Path, *words: str) -> dict[str, str]:
    """What a further call would do with the stages that are there."""
    rows = call(folder, "run", "--until", "seed_infer", "--dry-run", "--json", *words).json["stages"]
    return {row["name"]: row["state"] for row in rows}


FRESH = dict.fromkeys(MADE, "done")


@pytest.mark.parametrize(
    "setting",
    ["runtime.workers=3", "runtime.threads=2", "runtime.device=auto", "runtime.precision=auto", "eval.subset={pair: [0, 1]}"],
)
def test_a_setting_that_changes_no_result_makes_nothing_stale(home: Path, setting: str):
    assert states(home, "--run", "run", "--set", setting) == FRESH
    assert states(home, "--run", "run", "--set", "seed_infer.fixed=0.4")["seed_infer"] == "stale"


def test_a_moved_data_folder_and_a_moved_run_are_as_they_were(home: Path):
    (home / "data").rename(home / "elsewhere")
    assert states(home, "--run", "run", "--data", "elsewhere") == FRESH
    (home / "run").rename(home / "moved")
    assert states(home, "--run", "moved", "--data", "elsewhere") == FRESH
    done = infer(home, "--run", "moved", "--data", "elsewhere", *settings(), "--json")
    assert [row["state"] for row in done.json["stages"][:2]] == ["done", "done"] and done.json["stages"][0]["seconds"] is not None
    shown = call(home, "status", "--run", "moved", "--json").json["stages"][:2]  # where the data lies was kept
    assert [row["state"] for row in shown] == ["done", "done"]


def test_a_generated_dataset_moves_with_its_run(tmp_path: Path):
    small = ("--set", "data.generate={train: 6, val: 2, size: 64}", "--set", "data.reader=demo", *settings())
    assert infer(tmp_path, "--run", "a", *small).code == 0
    (tmp_path / "a").rename(tmp_path / "b")
    assert states(tmp_path, "--run", "b") == FRESH


def test_weights_of_the_same_content_elsewhere_are_the_same_weights(home: Path):
    (home / "w").mkdir()
    save_weights(home / "w/one.pth")
    assert infer(home, "--run", "own", "--data", "data", *settings("seed_train.weights=w/one.pth")).code == 0
    (home / "w").rename(home / "v")
    assert states(home, "--run", "own", "--set", "seed_train.weights=v/one.pth") == FRESH
    save_weights(home / "v/one.pth")
    assert states(home, "--run", "own", "--set", "seed_train.weights=v/one.pth")["seed_train"] == "stale"


def save_weights(path: Path) -> None:
    """Other weights of the tiny trunk at every call."""
    torch.save(backbones.build("tiny").state_dict(), path)


# --- verify ---


def verify(folder: Path, *words: str) -> Finished:
    return call(folder, "cache", "verify", "--run", "run", "-q", *words)


def test_a_sound_run_is_told_to_be_sound(home: Path):
    done = call(home, "cache", "verify", "--run", "run")
    assert done.code == 0 and not done.out
    assert done.err.endswith("every output of every finished stage is what was written\n")
    for name in MADE:
        digests, manifest = (read_json(home / f"run/{name}/{file}") for file in ("digests.json", "manifest.json"))
        assert digests.keys() == manifest["outputs"]["files"].keys()


def outputs(folder: Path) -> list[Path]:
    """Every file of the run that `verify` answers for."""
    names = [(name, manifests.read_manifest(folder / "run" / name)) for name in MADE]
    return [folder / "run" / name / file for name, manifest in names for file in (*manifest["outputs"]["files"], "manifest.json")]


@trials(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_and_its_file_named(made: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(outputs(made)))
    whole = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    flipped = whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
    try:
        path.write_bytes(flipped)
        found = {one.file for one in manifests.verify(path.parent.parent if path.parent.name == "seeds" else path.parent, int)}
    finally:
        path.write_bytes(whole)
    spaces = path.name == "manifest.json" and same(whole, flipped)
    assert spaces or found == {path.name if path.parent.name != "seeds" else f"seeds/{path.name}"}


def same(one: bytes, other: bytes) -> bool:
    """Whether both are the same JSON: a space for another is no damage."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_a_cut_and_a_flipped_file_are_named_and_made_again(home: Path):
    before = {name: read_json(home / f"run/{name}/manifest.json")["digest"] for name in MADE}
    first, second, *_ = sorted((home / "run/seed_infer/seeds").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(second.read_bytes()[:-1] + b"\x7f")
    done = verify(home)
    assert done.code == 2
    size = first.stat().st_size
    assert done.out.splitlines() == [
        f"seed_infer/seeds/{first.name} has {size} bytes, {size + 1} were written",
        f"seed_infer/seeds/{second.name} has other bytes than were written",
    ]
    assert done.err.startswith("error: 2 outputs are damaged: stages seed_infer. Run them again: `bas cache verify --drop` ")
    assert verify(home, "--json").json["stages"] == ["seed_infer"]
    kept = {path: path.stat().st_mtime_ns for path in (home / "run/seed_infer/seeds").iterdir()}
    assert verify(home, "--drop").err.endswith("They are removed: `bas run` makes them again\n")
    assert infer(home, "--run", "run", "--data", "data", *settings()).code == 0
    assert verify(home).code == 0
    assert {name: read_json(home / f"run/{name}/manifest.json")["digest"] for name in MADE} == before
    made_again = {path for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert made_again == {first, second}


def test_a_run_of_before_digests_were_kept_tells_that_something_changed(home: Path):
    for name in MADE:
        (home / f"run/{name}/digests.json").unlink()
    assert verify(home).code == 0
    path = next((home / "run/seed_infer/seeds").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    done = verify(home)
    assert done.out == "seed_infer/? some output has other bytes than were written; no digests by file tell which\n"
    assert done.code == 2 and "Run them again with `bas run --from seed_infer --force`" in done.err


def test_damaged_digests_are_no_damaged_outputs(home: Path):
    path = home / "run/seed_infer/digests.json"
    path.write_text(path.read_text().replace('": "', '": "0', 1))
    assert verify(home).out == "seed_infer/digests.json was changed\n"
    assert verify(home, "--drop").code == 2
    assert verify(home).code == 0


# --- list, gc ---


def test_leftovers_are_listed_and_removed_and_nothing_else(home: Path):
    run = home / "run"
    (run / "seed_infer/seeds/.train_0001.4711.tmp.npz").write_bytes(bytes(1000))
    state = (run / "seed_train/state.pth").stat().st_size
    (run / "cam_train").mkdir()
    (run / "cam_train/started.json").write_text("{}")
    (run / "cam_train/state.pth").write_bytes(bytes(500))  # interrupted: it goes on from it
    before = {path for path in run.rglob("*") if path.is_file()}
    listed = call(home, "cache", "list", "--run", "run", "--json").json
    rows = {row["name"]: row for row in listed["stages"]}
    assert rows["seed_infer"]["state"] == "done" and rows["seed_infer"]["files"] == len(list((run / "seed_infer").rglob("*.*")))
    assert listed["bytes"] == sum(path.stat().st_size for path in before)
    expected = [
        {"kind": "temporary", "path": "seed_infer/seeds/.train_0001.4711.tmp.npz", "bytes": 1000},
        {"kind": "state", "path": "seed_train/state.pth", "bytes": state},
    ]
    assert listed["leftovers"] == expected
    shown = call(home, "cache", "list", "--run", "run")
    assert f"left over: 1 ({state / 1e6:.1f} MB) states of finished trainings" in shown.err
    asked = call(home, "cache", "gc", "--run", "run", "--dry-run", "--json").json
    assert (asked["leftovers"], asked["bytes"], asked["removed"]) == (expected, 1000 + state, False)
    assert {path for path in run.rglob("*") if path.is_file()} == before
    assert call(home, "cache", "gc", "--run", "run", "--json").json == {**asked, "removed": True}
    gone = {run / row["path"] for row in expected}
    assert {path for path in run.rglob("*") if path.is_file()} == (before - gone) | {run / ".lock"}
    assert states(home, "--run", "run") == FRESH and verify(home).code == 0


def test_trainings_of_an_ablation_go_when_asked_for_alone(home: Path):
    cell = home / "run/ablate/fusion/seed0/configured"
    shutil.copytree(home / "run/seed_train", cell / "seed_train")
    (cell / "seed_train/state.pth").unlink()
    os.link(home / "run/seed_train/network.safetensors", cell / "seed_train/shared")
    assert [row["kind"] for row in call(home, "cache", "gc", "--run", "run", "--json").json["leftovers"]] == ["state"]
    size = sum(path.stat().st_size for path in cell.rglob("*") if path.is_file() and path.name != "shared")
    row = {"kind": "cells", "path": "ablate/fusion", "bytes": size}
    assert call(home, "cache", "gc", "--run", "run", "--cells", "--json").json["leftovers"] == [row]
    assert not (home / "run/ablate/fusion").exists() and states(home, "--run", "run") == FRESH


def test_nothing_is_removed_from_under_another_process(home: Path):
    words = ("seed", "train", "own.yaml", "--run", "run", "--data", "data", *settings("seed_train.epochs=5000"))
    shutil.rmtree(home / "run/seed_train")
    child = fork(home, *words)
    try:
        wait_for(child, home / "run/seed_train/curves.jsonl", text=True)
        for words in (("gc",), ("verify", "--drop")):
            (home / "run/seed_infer/seeds.png").write_bytes(b"damaged")
            assert call(home, "cache", *words, "--run", "run", "-q").err.startswith("error: Run folder run is in use")
        assert call(home, "cache", "gc", "--run", "run", "--dry-run").code == 0
    finally:
        os.kill(child, signal.SIGKILL)
        wait(child)
    assert call(home, "cache", "gc", "--run", "run").code == 0
