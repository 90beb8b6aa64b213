"""Ablations: the tables' rows, the cells that they need, means and paired differences, and a grid from command to numbers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Command, Finished, call, wait_for

from benchmarks.children import fork, wait
from stages.actions import ablate, cells
from stages.actions.ablate import Place, Spread
from stages.actions.configure import resolve
from stages.actions.run import Run
from stages.actions.tables import KINDS, TABLES, Row, Table
from stages.core.config import merge, parse_assignment

CAM = {"backbone": "tiny", "weights": "none", "long_side": [48, 64], "crop": 48, "batch": 4, "epochs": 1}


# --- numbers ---


def test_the_spread_is_the_sample_standard_deviation():
    assert ablate.spread([50.0, 52.0, 54.0]) == Spread(52.0, 2.0, 3)
    assert ablate.spread([50.0]) == Spread(50.0, None, 1)
    assert ablate.spread([]) is None


def test_differences_are_taken_seed_by_seed():
    """Seeds differ by up to 9, the two rows by 1 to 3 within a seed: paired, the gain is 2 ± 1."""
    ours, base = {0: 50.0, 1: 52.0, 2: 59.0}, {0: 48.0, 1: 51.0, 2: 56.0}
    assert ablate.paired(ours, base) == Spread(2.0, 1.0, 3)
    assert ablate.paired(ours, {2: 56.0, 5: 1.0}) == Spread(3.0, None, 1)
    assert ablate.paired(ours, {}) is None


def test_a_row_is_compared_with_the_better_of_its_bases():
    table = Table("", (Row("a"), Row("b"), Row("c", base=("a", "b"))))
    means = {"a": {0: 10.0, 1: 20.0}, "b": {0: 14.0, 1: 18.0}, "c": {0: 20.0, 1: 30.0}}
    values = {Place(row, kind): means[row] if kind == "oracle" else {} for row in means for kind in KINDS}
    lines = {line.place: line for line in ablate.compare(table, values)}
    assert lines[Place("c", "oracle")].differences == {"b": Spread(9.0, 4.243, 2)}  # 6 and 12
    assert lines[Place("c", "oracle")].ours == Spread(25.0, 7.071, 2)
    assert lines[Place("c", "fixed")].ours is None and not lines[Place("c", "fixed")].differences
    assert not lines[Place("a", "oracle")].differences


def test_kinds_of_threshold_are_compared_within_a_row():
    values = {Place("a", "oracle"): {0: 60.0}, Place("a", "fixed"): {0: 55.0}, Place("a", "image-specific"): {0: 58.0}}
    lines = ablate.compare(Table("", (Row("a"),), thresholds=True), values)
    assert [{name: d.mean for name, d in line.differences.items()} for line in lines] == [
        {},
        {"oracle": -5.0},
        {"oracle": -2.0, "fixed": 3.0},
    ]


# --- rows and cells ---


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("config", ["voc_small_ablation", "demo"])
def test_every_row_of_every_table_makes_a_cell(name: str, config: str, tmp_path: Path):
    table = TABLES[name]
    labels = [row.label for row in table.rows]
    assert len(set(labels)) == len(labels) and all(base in labels for row in table.rows for base in row.base)
    grid = cells.grid(Run(tmp_path, resolve(config)), name, table, 2)
    assert [row.label for cell in grid for row in cell.rows if cell.seed == 0] != [] and {cell.seed for cell in grid} == {0, 1}
    assert sorted(row.label for cell in grid for row in cell.rows) == sorted(2 * labels)
    assert not list(tmp_path.iterdir())


def test_one_training_serves_all_rows_but_those_without_l_bas(tmp_path: Path):
    grid = cells.grid(Run(tmp_path, resolve("voc_small_ablation")), "seeds", TABLES["seeds"], 1)
    chosen = {cell.variant: cell for cell in grid}
    assert list(chosen) == ["configured", "lam=0", "lam=0,beta=0.2"] and len(chosen["configured"].rows) == 9
    assert chosen["configured"].stages == ["seed_train", "cam_train", "seed_infer"]
    assert chosen["lam=0"].stages == ["seed_train", "seed_infer"]
    trained = {name: vars(cell.run.sections["seed_train"]) for name, cell in chosen.items()}
    weights = {name: (one["alpha"], one["beta"], one["lam"]) for name, one in trained.items()}
    assert weights == {"configured": (0.2, 1.2, 1.0), "lam=0": (0.2, 1.2, 0.0), "lam=0,beta=0.2": (0.2, 0.2, 0.0)}
    assert [one["agnostic"] for one in trained.values()] == ["detached", "none", "none"]


# --- the command ---


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Path:
    """A folder with a configuration of the tiny settings."""
    folder = tmp_path_factory.mktemp("home")
    values: dict[str, Any] = {"data": {"root": str(generated)}, "cam_train": CAM, "eval": {"subset": {"mIoU-2": [0, 1]}}}
    for (section, key), value in map(parse_assignment, TINY):
        values = merge(values, {section: {key: value}})
    (folder / "tiny.yaml").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def resumed(home: Path) -> Finished:
    """What the second call said: the first was killed after the first of its four cells."""
    words = ("ablate", "fig11", "tiny.yaml", "--seeds", "2")
    child = fork(home, *words)
    try:
        wait_for(child, home / "runs/tiny/ablate/fig11/seed0/masked=features/seed_infer/manifest.json")
    finally:
        os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in home.glob("runs/tiny/ablate/*/*/*/*/manifest.json")}
    assert 2 <= len(before) < 8
    done = call(home, *words, "--json")
    assert done.code == 0, done.err
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    return done


def folders(home: Path, table: str) -> dict[str, dict[str, float]]:
    """Metrics of every cell's seeds by `seed/variant`."""
    found = sorted((home / "runs/tiny/ablate" / table).glob("seed*/*/seed_infer/manifest.json"))
    return {"/".join(path.parts[-4:-2]): json.loads(path.read_text())["metrics"] for path in found}


def test_the_numbers_are_those_of_the_run_folders(home: Path, resumed: Finished):
    metrics = folders(home, "fig11")
    assert len(metrics) == 4 and resumed.json["metric"] == "mIoU-2" and resumed.json["seeds"] == [0, 1]
    rows = {(row["row"], row["kind"]): row for row in resumed.json["rows"]}
    assert list(rows) == [(label, kind) for label in ("features", "image") for kind in KINDS] and not resumed.json["missing"]
    for (label, kind), row in rows.items():
        first, second = (metrics[f"seed{k}/masked={label}"][f"train/bas/{kind}/mIoU-2"] for k in (0, 1))
        assert row["values"] == {"0": first, "1": second} and row["ours"]["count"] == 2
        assert row["ours"]["mean"] == pytest.approx((first + second) / 2, abs=1e-3)
    difference = rows["image", "fixed"]["differences"]["features"]["mean"]
    assert difference == pytest.approx(
        rows["image", "fixed"]["ours"]["mean"] - rows["features", "fixed"]["ours"]["mean"], abs=2e-3
    )


def test_what_is_finished_is_kept_and_what_is_missing_is_said(home: Path, resumed: Finished):
    assert resumed.err.count("fresh, kept") >= 2 and resumed.err.count("cell ") == 4
    again = call(home, "ablate", "fig11", "--run", "runs/tiny", "--seeds", "2")
    assert again.code == 0 and again.err.count("fresh, kept") == 8 and "done" not in again.err
    assert again.out.startswith("Fig. 11: masking the image or the features. mIoU-2 in percent on the scored list")
    more = call(home, "ablate", "fig11", "--seeds", "3", "--report")  # of the last run
    assert more.code == 0 and "2 cells are not finished" in more.err and "2 of 3" in more.out
    plan = call(home, "ablate", "fig11", "--seeds", "3", "--dry-run", "--json").json["stages"]
    assert len(plan) == 12 and [row["name"] for row in plan if row["state"] != "done"] == [
        f"seed2/masked={variant}/{stage}" for variant in ("features", "image") for stage in ("seed_train", "seed_infer")
    ]


def test_a_cell_is_an_ordinary_run(home: Path, resumed: Finished):
    status = call(home, "status", "--run", "runs/tiny/ablate/fig11/seed1/masked=image", "--json").json
    assert [row["state"] for row in status["stages"]][:3] == ["done", "done", "missing"]


def test_sources_of_one_training_which_another_table_has_finished(home: Path, resumed: Finished):
    """IRN's CAM, BAS and their sum come from one CAM network and one seed network: that of Fig. 11, linked."""
    done = call(home, "ablate", "table9", "--run", "runs/tiny", "--seeds", "1", "--json")
    assert done.code == 0 and done.err.count("finished elsewhere in the run, linked") == 1
    (metrics,) = folders(home, "table9").values()
    assert [row["values"] for row in done.json["rows"] if row["kind"] == "fixed"] == [
        {"0": metrics[f"train/{source}/fixed/mIoU-2"]} for source in ("irn", "bas", "bas+irn")
    ]
    assert [row["paper"] for row in done.json["rows"] if row["kind"] == "oracle"] == [48.8, 57.7, 58.2]
    cells_of = home / "runs/tiny/ablate"
    network = cells_of / "table9/seed0/configured/seed_train/network.safetensors"
    assert network.samefile(cells_of / "fig11/seed0/masked=features/seed_train/network.safetensors")
    assert (cells_of / "table9/seed0/configured/cam_train/manifest.json").is_file()


def test_the_class_agnostic_map_leaves_the_others_as_they_are(home: Path, resumed: Finished):
    """Rows are paired: a training with the class-agnostic map beside the rest gives the same BAS maps as one without."""
    assert call(home, "ablate", "table13", "--run", "runs/tiny", "--seeds", "1", "-q").code == 0
    own = "train/bas/oracle/mIoU-2"
    assert folders(home, "table13")["seed0/configured"][own] == folders(home, "fig11")["seed0/masked=features"][own]


def test_the_demo_is_generated_once_for_all_cells(bas: Command, tmp_path: Path):
    recipe = ("data.generate={train: 4, val: 1, size: 64}", "seed_train.resize=64", "seed_train.crop=48", "seed_train.batch=2")
    short = ("seed_train.epochs=1", "seed_train.warmup_epochs=0", "seed_infer.scales=[1.0]", "seed_infer.thresholds=2")
    words = [word for one in (*recipe, *short, "runtime.workers=0") for word in ("--set", one)]
    planned = bas("ablate", "fig11", "demo", "--run", "r", "--seeds", "1", *words, "--dry-run", "--json")
    assert len(planned.json["stages"]) == 4 and not (tmp_path / "r").exists()
    done = bas("ablate", "fig11", "demo", "--run", "r", "--seeds", "1", *words, "--json", "-q", "--device", "cpu")
    assert done.code == 0, done.err
    assert [row["ours"]["count"] for row in done.json["rows"]] == 6 * [1]
    assert [path.parent.name for path in tmp_path.rglob("generated.txt")] == ["data"]


# --- what is refused ---


def test_an_unknown_table_is_named(bas: Command, config: Path):
    error = bas("ablate", "tabel8", str(config)).error
    assert error.startswith("Unknown table 'tabel8'") and "Did you mean 'table8'?" in error


def test_without_true_masks_there_is_nothing_to_compare(bas: Command, devkit: Path, config: Path, tmp_path: Path):
    mask = next((devkit / "SegmentationClass").iterdir())
    mask.unlink()
    error = bas("ablate", "table6", str(config), "--data", str(devkit), "--run", "r", "-q").error
    assert error.startswith(f"Cannot compare anything: image '{mask.stem}' of the scored list has no true mask")
    assert not (tmp_path / "r/ablate").exists()


def test_seeds_of_the_scored_list_alone_are_not_refined(bas: Command, config: Path, tmp_path: Path):
    error = bas("run", str(config), "--run", "r", "--set", "seed_infer.images=score").error
    assert error.startswith("Cannot run irn_labels: seed_infer.images is score") and not (tmp_path / "r").exists()
