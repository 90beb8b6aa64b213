"""A sample of the fault harness: points of three stages under every fault but a full disk, and that it notices what is wrong."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.faults import events
from benchmarks.faults.campaign import Campaign, Tried, table
from benchmarks.faults.scene import Scene
from benchmarks.faults.strikes import FAULTS
from stages.core import training

SAMPLE = {
    "seed_train": [name for name in FAULTS if name != "full"],  # that needs a disk of its own: tests/test_cli.py has one
    "seed_infer": ["kill", "int"],
    "irn_labels": ["torn", "worker", "workermem"],
}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A tiny run and its dataset, nothing finished yet."""
    monkeypatch.setattr(Figure, "savefig", Figure.savefig)  # put back after the scene has replaced it
    (tmp_path / "disk").mkdir()
    yield Scene(tmp_path, tmp_path / "disk")
    gc.unfreeze()  # a scene freezes what its forks share: left so, triton's objects outlive the interpreter, which reports them


def test_a_stage_ends_the_same_after_a_fault_at_any_point(scene: Scene, capsys: pytest.CaptureFixture[str]):
    scene.finish(list(SAMPLE))
    for stage, faults in SAMPLE.items():
        struck = Campaign(scene, faults, every=1000)
        struck.run(stage)
        assert all(tried.points[stage] == 1 and not tried.wrong[stage] for tried in struck.tried.values()), (
            capsys.readouterr().err
        )
        assert f"{stage}: {len(faults)} points in " in capsys.readouterr().err


def test_every_image_and_every_kept_state_is_a_point(scene: Scene):
    scene.finish(["seed_train", "seed_infer"])
    points = scene.points("seed_train")
    assert points["nan"] == 4 and points["torn"] >= 4 + 5  # of 4 steps a state each; network, curves, manifest and its companions
    assert points["kill"] > 2 * points["torn"] and points["worker"] == 4  # 4 images are read once
    points = scene.points("seed_infer")
    assert points["torn"] >= 4 + 2 and points["worker"] == points["nan"] == 0


def test_what_ends_otherwise_is_noticed(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    """A training that does its last step twice has other weights; a call that nothing stopped did not end as a kill does."""
    scene.finish(["seed_train"])
    resume = training._resume
    monkeypatch.setattr(training, "_resume", lambda *given: max(resume(*given) - 1, 0))
    last = scene.points("seed_train")["int"] - 6
    assert scene.strike("seed_train", FAULTS["int"], last).startswith("run again, the digest of seed_train is another")
    silent = FAULTS["kill"]
    assert scene.strike("seed_train", silent, 10**6).startswith("ended with 0")


def test_the_table_counts_by_fault_and_stage():
    tried = {"kill": Tried(), "full": Tried()}
    tried["kill"].points.update({"seed_train": 3, "seed_infer": 2})
    tried["kill"].wrong.update({"seed_infer": 1})
    tried["full"].points.update({"seed_infer": 4})
    assert list(table(tried, ["seed_train", "seed_infer"])) == [
        "| fault | seed_train | seed_infer | together | ended otherwise |",
        "|---|---|---|---|---|",
        "| SIGKILL | 3 | 2 | 5 | 1 |",
        "| full disk | – | 4 | 4 | 0 |",
        "| all | 3 | 6 | 9 | 1 |",
    ]


def test_deeds_are_told_before_they_are_done(tmp_path: Path):
    told = [
        events._event("open", ("a", "w", 1)),
        events._event("open", (b"a", None, 0)),
        events._event("open", (3, "r", 0)),
        events._event("os.rename", ("a", "b", -1, -1)),
        events._event("os.mkdir", ("c", 511, -1)),
        events._event("socket.connect", ()),
    ]
    made = [event and (event.kind, event.path, event.source) for event in told]
    assert made == [("write", "a", ""), ("read", "a", ""), None, ("rename", "b", "a"), ("folder", "c", ""), None]
