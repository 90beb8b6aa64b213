"""The stage that chooses the masks to learn from, on six generated images: what it takes over, compares and tells."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Counter, random_seed_network, stage_context

from stages import mask_choice
from stages.core.files import read_json
from stages.core.stage import Context
from stages.data import comparison, seedfile
from stages.data.images import read_mask, write_mask

CONFIG = mask_choice.Config(iterations=2, images=4)


def context(folder: Path, keep: str, reporter: Any = None, workers: int = 0) -> Context:
    shared = {"refine": SimpleNamespace(seed="bas", keep=keep), "eval": SimpleNamespace(subset=None)}
    return stage_context(folder, "mask_choice", shared, val=1, reporter=reporter, workers=workers)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose refined masks are the true ones, and whose seeds are these shrunken."""
    folder = tmp_path_factory.mktemp("run")
    ctx = context(folder, "masks")
    random_seed_network(folder)
    (folder / "irn_masks/masks").mkdir(parents=True)
    for sample in ctx.dataset.split("train"):
        mask = read_mask(ctx.dataset.mask(sample))
        write_mask(folder / f"irn_masks/masks/{sample.id}.png", mask)
        planes = torch.stack([(torch.from_numpy(mask) == index + 1).float() for index in sample.labels])
        blurred = torch.nn.functional.avg_pool2d(planes, 8).half().numpy() ** 4
        seedfile.write(
            folder / f"seed_infer/seeds/{sample.id}.npz", seedfile.Seed(np.array(sample.labels), (80, 80), {"bas": [blurred]})
        )
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared run."""
    return shutil.copytree(prepared, tmp_path / "run")


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "masks").glob("*.png"))}


def test_refined_masks_are_linked(folder: Path):
    ctx = context(folder, "masks")
    outputs = mask_choice.run(replace_images(0), ctx)
    assert masks(ctx.out) == masks(folder / "irn_masks") and len(masks(ctx.out)) == 6
    assert all(path.stat().st_nlink == 2 for path in (ctx.out / "masks").iterdir())
    assert set(read_json(ctx.out / "choice.json").values()) == {"refined"}
    assert outputs.metrics == {"train/choice/masks/mIoU": 100.0} and outputs.notes["from"] == {"refined": 6}
    assert sorted(map(str, outputs.files))[:2] == ["choice.json", f"masks/{ctx.dataset.split('train')[0].id}.png"]


def replace_images(count: int) -> mask_choice.Config:
    return replace(CONFIG, images=count)


def test_seeds_are_cut_at_the_fixed_threshold(folder: Path):
    ctx = context(folder, "seeds")
    outputs = mask_choice.run(replace_images(0), ctx)
    sample = ctx.dataset.split("train")[0]
    maps = seedfile.full_maps(seedfile.read(folder / f"seed_infer/seeds/{sample.id}.npz"), "bas").numpy()
    expected = np.where(maps.max(0) > 0.3, np.array(sample.labels)[maps.argmax(0)] + 1, 0)
    np.testing.assert_array_equal(read_mask(mask_choice.mask_path(ctx.out, sample.id)), expected)
    assert outputs.notes["from"] == {"seed": 6} and 0 < outputs.metrics["train/choice/seeds/mIoU"] < 100


def test_signs_of_a_sample_and_of_their_truth(folder: Path, caplog: pytest.LogCaptureFixture):
    pytest.importorskip("pydensecrf")
    ctx = context(folder, "masks")
    with caplog.at_level(logging.WARNING):
        outputs = mask_choice.run(CONFIG, ctx)
    table = comparison.read(ctx.out / "signs.json")
    assert table is not None and len(table) == 4 and not list(ctx.out.glob("losses"))
    assert outputs.metrics["train/compared/masks/mIoU"] == 100 > outputs.metrics["train/compared/seeds/mIoU"]
    assert outputs.metrics["train/signs/agreement/masks"] > outputs.metrics["train/signs/agreement/seeds"]
    assert outputs.metrics["train/signs/agreement/right"] == 100
    worse = outputs.notes["refinement_looks_worse"]
    assert all(name in caplog.text for name in worse) and ("looks worse" in caplog.text) == bool(worse)
    sample = next(sample for sample in ctx.dataset.split("train") if sample.id in table)
    found, mask = table[sample.id], read_mask(mask_choice.mask_path(folder / "irn_masks", sample.id))
    np.testing.assert_allclose(found.area[1], [(mask == index + 1).mean() for index in sample.labels])


def test_the_better_of_both_is_kept(folder: Path):
    """A refined mask that has lost its classes cannot look better than a seed that has them."""
    pytest.importorskip("pydensecrf")
    ctx = context(folder, "better")
    spoilt, *others = ctx.dataset.split("train")
    write_mask(folder / f"irn_masks/masks/{spoilt.id}.png", np.zeros((80, 80), np.uint8))
    outputs = mask_choice.run(CONFIG, ctx)
    choice, table = read_json(ctx.out / "choice.json"), comparison.read(ctx.out / "signs.json")
    assert table is not None and len(table) == 6 and choice[spoilt.id] in ("seed", "mixed")
    assert read_mask(mask_choice.mask_path(ctx.out, spoilt.id)).any()
    for sample in others:
        kept = read_mask(mask_choice.mask_path(ctx.out, sample.id))
        origin = {"refined": folder / "irn_masks/masks", "seed": ctx.out / "seeds"}.get(choice[sample.id])
        assert origin is None or np.array_equal(kept, read_mask(origin / f"{sample.id}.png"))
    assert outputs.metrics["train/choice/better/mIoU"] == outputs.metrics["train/compared/better/mIoU"]
    assert mask_choice.score(CONFIG, ctx).metrics.items() <= outputs.metrics.items()


def test_an_interrupted_comparison_goes_on_and_no_true_mask_decides(folder: Path):
    pytest.importorskip("pydensecrf")
    whole = mask_choice.run(CONFIG, context(folder, "better"))
    expected = masks(folder / "mask_choice"), (folder / "mask_choice/signs.json").read_bytes()
    shutil.rmtree(folder / "mask_choice")
    with pytest.raises(KeyboardInterrupt):
        mask_choice.run(CONFIG, context(folder, "better", Counter(stop_after=15)))  # six seeds, six losses, three of the CRF
    waiting = {path: path.stat().st_mtime_ns for path in (folder / "mask_choice").glob("*/*.json")}
    assert len(waiting) == 9 and not (folder / "mask_choice/signs.json").exists()
    ctx = context(folder, "better", workers=2)
    shutil.rmtree(ctx.dataset.reader.root / "SegmentationClass")
    again = mask_choice.run(CONFIG, ctx)
    assert (masks(ctx.out), (ctx.out / "signs.json").read_bytes()) == expected
    assert again.notes == whole.notes and not any("mIoU" in key for key in again.metrics)
