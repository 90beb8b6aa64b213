"""Sources of seeds: expressions of maps, fusion under the class-agnostic map, the CAM network, from command to seed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command

from stages.core.errors import StageError
from stages.data import seedfile, sources
from stages.formulas import seeds

INFER = ("--until", "seed_infer", "--device", "cpu")


def test_a_source_is_a_weighted_sum_of_names():
    assert sources.parse("bas") == (("bas", 1.0),)
    assert sources.parse("sum") == (("bas", 1.0), ("cam", 1.0))
    assert sources.parse("2*sum+irn") == (("bas", 2.0), ("cam", 2.0), ("irn", 1.0))
    assert sources.parse("average + 0.5*irn") == (("average", 1.0), ("irn", 0.5))
    assert sources.maps_of(["sum", "average+2*mine"]) == ("bas", "cam", "agnostic", "mine")
    assert sources.imported(["sum", "average+irn", "mine"]) == ("mine",)


@pytest.mark.parametrize("source", ["", "+", "bas+", "0*bas", "-1*bas", "bas cam", "../bas", "a/b", "2*"])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(StageError, match="Cannot read the source"):
        sources.parse(source)


def test_a_misspelt_source_is_asked_about():
    assert sources.meant("avrage") == "average" and sources.meant("avrage + 2*cams") == "average + 2*cam"
    assert sources.meant("bas+cam") is None and sources.meant("other") is None
    assert sources.meant("mien", ["mine"]) == "mine" and sources.meant("mine", ["mine"]) is None


def test_fusion_acts_where_a_class_map_exceeds_the_foreground_map():
    maps, agnostic = torch.tensor([[[0.8, 0.2]], [[0.4, 1.0]]]), torch.tensor([[[0.4, 0.6]]])
    expected = torch.tensor([[[0.4, 0.2]], [[0.4, 0.6]]])
    torch.testing.assert_close(seeds.fuse(maps, agnostic, "replace"), expected)
    expected = torch.tensor([[[0.6, 0.2]], [[0.4, 0.8]]])
    torch.testing.assert_close(seeds.fuse(maps, agnostic, "average"), expected)


def test_sources_of_a_seed_file(tmp_path):
    random = np.random.default_rng(0)
    maps = {name: [random.random((rows, 4, 5)).astype(np.float16)] for name, rows in (("bas", 2), ("cam", 2), ("agnostic", 1))}
    mine = np.zeros((2, 8, 10), np.float16)
    mine[0, 0, 0], mine[1, 7, 9] = 3, 5
    seedfile.write(tmp_path / "a.npz", seedfile.Seed(np.array([3, 7]), (32, 40), maps, imported={"mine": mine}))
    seed = seedfile.read(tmp_path / "a.npz")
    own, agnostic, cam = (seedfile.full_maps(seed, name) for name in ("bas", "agnostic", "cam"))
    torch.testing.assert_close(seedfile.full_maps(seed, "replace"), seeds.fuse(own, agnostic, "replace"))
    torch.testing.assert_close(
        seedfile.full_maps(seed, "average+2*cam"),
        seeds.normalise(seeds.normalise(seeds.fuse(own, agnostic, "average")) + 2 * seeds.normalise(cam)),
        rtol=0,
        atol=1e-4,
    )
    assert torch.equal(agnostic[0], agnostic[1]) and agnostic.shape == own.shape
    torch.testing.assert_close(seedfile.strided_maps(seed, "bas+agnostic").amax((1, 2)), torch.ones(2), rtol=0, atol=1e-4)
    corners = seedfile.full_maps(seed, "mine")
    assert corners.shape == (2, 32, 40) and corners[0, 0, 0] == corners[0].max() and corners[1, -1, -1] == corners[1].max()
    assert seedfile.strided_maps(seed, "mine").shape == (2, 8, 10)


def test_every_source_from_one_command(bas: Command, config: Path, tmp_path: Path):
    wanted = "[bas,cam,sum,replace,average,irn,bas+irn]"
    tiny = (
        "cam_train.backbone=tiny",
        "cam_train.weights=none",
        "cam_train.crop=64",
        "cam_train.batch=4",
        "cam_train.epochs=1",
        "cam_train.long_side=[48,64]",
        "cam_train.lr=0.01",
    )
    extra = [
        "seed_train.agnostic=shared",
        f"seed_infer.sources={wanted}",
        "seed_infer.judge_scale=0.5",
        "seed_infer.closer_below=0.9",
        *tiny,
    ]
    run = tmp_path / "run"
    done = bas("run", str(config), "--run", str(run), *INFER, *(word for setting in extra for word in ("--set", setting)))
    assert done.code == 0, done.err
    assert done.err.index("cam_train ") < done.err.index("seed_infer ")
    seed = seedfile.read(next((run / "seed_infer" / "seeds").glob("*.npz")))
    assert set(seed.maps) == {"bas", "cam", "agnostic", "irn"}
    assert [array.shape[0] for array in seed.maps["agnostic"]] == [1, 1]
    assert seed.strides == dict.fromkeys(seed.maps, 8)
    assert list(seed.thresholds) == wanted.strip("[]").split(",")
    found = bas("eval", "--run", str(run), "--json").json["stages"]
    assert {key.split("/")[1] for key in found["seed_infer"]} == set(seed.thresholds)
    assert {"fg_frg", "fg_ac", "fg_bas"} <= {key.rpartition("/")[2] for key in found["seed_train"]}
    states = {stage["name"]: stage["state"] for stage in bas("status", "--run", str(run), "--json").json["stages"]}
    assert states["cam_train"] == states["seed_infer"] == "done"
    alone = bas("seed", "cam", "--run", str(run))
    assert alone.code == 0 and "fresh, kept" in alone.err


def test_a_source_that_the_network_does_not_make(bas: Command, config: Path, tmp_path: Path):
    settings = ("--set", "seed_infer.sources=[bas,average]", "--set", "refine.seed=average")
    line = bas("run", str(config), "--run", str(tmp_path / "run"), *INFER, *settings).error
    assert "seed_train.agnostic is none" in line and "Set seed_train.agnostic=detached" in line
    assert not (tmp_path / "run" / "seed_train").exists()
    assert bas("run", str(config), "--run", str(tmp_path / "run"), "--until", "seed_train").code == 0
    line = bas("seed", "infer", "--run", str(tmp_path / "run"), *settings).error
    assert "the seed network makes none" in line and "seed_train.agnostic=detached" in line
    line = bas("run", str(config), "--run", str(tmp_path / "run"), *INFER, "--set", "seed_infer.sources=[bas,sum,mine]").error
    assert "imports/mine is not there" in line and "bas seed import DIR --name mine" in line


def test_irn_reads_a_seed_that_is_scored(bas: Command, config: Path, tmp_path: Path):
    line = bas("run", str(config), "--run", str(tmp_path / "run"), "--set", "refine.seed=bas+irn").error
    assert "refine.seed" in line and "seed_infer.sources" in line
