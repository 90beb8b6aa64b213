"""Instance masks of a run: the stage, COCO's document, average precision, and true instances on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Counter, blurred_seeds, stage_context
from PIL import Image

from stages import irn_instances
from stages.actions.configure import resolve
from stages.actions.run import Run
from stages.core.errors import StageError
from stages.core.files import read_json, write_json
from stages.core.stage import Context
from stages.data import dataset as datasets
from stages.data import detections, true_instances
from stages.data.readers import voc
from stages.nets import backbones, irn

CONFIG = irn_instances.Config(fixed=0.2)
LOG = logging.getLogger("test")


def context(folder: Path, reporter: Any = None) -> Context:
    shared = {"refine": SimpleNamespace(seed="bas", power=1.0)}
    return stage_context(folder, "irn_instances", shared, val=1, reporter=reporter)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """A run whose seeds are blurred true masks and whose IRN sees walls everywhere, so nothing spreads, and no displacement."""
    made = context(tmp_path / "run")
    blurred_seeds(made)
    torch.manual_seed(0)
    net = irn.Irn(backbones.build("tiny"))
    with torch.no_grad():
        net.edge_head.weight.zero_()
        net.edge_head.bias.fill_(8)
        net.field_head[-1].weight.zero_()
    irn.save(net, made.input("irn_train") / "network.safetensors")
    return made


def test_good_seeds_give_the_true_instances_in_a_file_that_pycocotools_reads(ctx: Context) -> None:
    from pycocotools.coco import COCO

    outputs = irn_instances.run(CONFIG, ctx)
    assert list(outputs.metrics) == ["train/instances/AP", "train/instances/AP70", "train/instances/AP50"]
    assert outputs.metrics["train/instances/AP50"] > 60  # each scene has one animal of a class
    document = COCO(str(ctx.out / "instances.json"))
    assert len(document.getImgIds()) == 6 and len(document.getAnnIds()) == outputs.notes["instances"] >= 6
    for number, sample in enumerate(ctx.dataset.split("train"), start=1):
        assert document.imgs[number]["file_name"] == f"{sample.id}.png"
        masks = [document.annToMask(one) for one in document.imgToAnns[number]]
        assert np.stack(masks).sum(0).max() == 1 and masks[0].shape == (80, 80)
        assert {one["category_id"] - 1 for one in document.imgToAnns[number]} <= set(sample.labels)
        for one, mask in zip(document.imgToAnns[number], masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert one["area"] == mask.sum() >= 64 and 0.2 < one["score"] <= 1
            assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert len(document.loadRes(document.dataset["annotations"]).anns) == len(document.anns)  # as results, too
    assert Image.open(ctx.out / "instances.png").width > 600


def test_where_no_centre_is_found_classes_keep_their_masks(ctx: Context) -> None:
    irn_instances.run(CONFIG, ctx)
    with_one = read_json(ctx.out / "instances.json")
    path = ctx.input("irn_train") / "network.safetensors"
    net = irn.load(path)
    net.mean_shift.mean.fill_(5)  # a constant displacement
    irn.save(net, path)
    for file in (ctx.out / "images").iterdir():
        file.unlink()
    irn_instances.run(CONFIG, ctx)
    assert read_json(ctx.out / "instances.json") == with_one


def test_instances_go_on_after_an_interruption_and_need_no_truth(ctx: Context) -> None:
    for path in (ctx.dataset.reader.root / "SegmentationObject").iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        irn_instances.run(CONFIG, context(ctx.run_dir, Counter(stop_after=2)))
    made = {file: file.stat().st_mtime_ns for file in (ctx.out / "images").iterdir()}
    assert len(made) == 2
    outputs = irn_instances.run(CONFIG, ctx)
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert outputs.metrics == {} and len(read_json(ctx.out / "instances.json")["images"]) == 6


def test_an_irn_without_displacements_is_refused_and_what_was_made_is_shown(tmp_path: Path, config: Path) -> None:
    run = Run(tmp_path / "run", resolve(str(config)))
    made = tmp_path / "run" / "irn_train" / "started.json"
    assert "irn_instances" not in run.stages()
    for displacement in (True, False):
        write_json(made, {"config": {"irn_train": {"displacement": displacement}}})
        if displacement:
            run.check(["irn_instances"])
            continue
        with pytest.raises(StageError, match=r"irn_train.displacement was false.*--set irn_train.displacement=true"):
            run.check(["irn_instances"])
    write_json(tmp_path / "run" / "irn_instances" / "started.json", {"stage": "irn_instances"})
    assert run.stages()[-1] == "irn_instances"
    assert [row.state for row in run.reports() if row.name == "irn_instances"] == ["stale"]


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def record(*found: dict[str, Any]) -> dict[str, Any]:
    return {"file_name": "a.png", "width": 30, "height": 20, "annotations": list(found)}


def test_average_precision_by_hand() -> None:
    """Class a: one instance found with IoU .62: right at .50, .55 and .60 of ten. Class b: found wrong first, then right."""
    true = [
        record(detections.annotation(box(0, 0, 10, 10), 1), detections.annotation(box(12, 12, 5, 5), 2)),
        record(detections.annotation(box(3, 4, 6, 6), 2)),
    ]
    found = [
        record(
            detections.annotation(box(0, 0, 10, 6) | box(0, 6, 2, 1), 1, score=0.4),
            detections.annotation(box(0, 20, 5, 5), 2, score=0.9),
            detections.annotation(box(12, 12, 5, 5), 2, score=0.8),
        ),
        record(detections.annotation(box(3, 4, 6, 6), 2, score=0.7)),
    ]
    tables = detections.average_precision(true, found, ["a", "b", "never"])
    assert tables["AP50"] == {"a": pytest.approx(1), "b": pytest.approx(2 / 3)}
    assert tables["AP70"] == {"a": 0.0, "b": pytest.approx(2 / 3)}
    assert tables["AP"] == {"a": pytest.approx(0.3), "b": pytest.approx(2 / 3)}
    assert detections.average_precision(true, [record(), record()], ["a", "b"])["AP50"] == {"a": 0.0, "b": 0.0}
    assert detections.average_precision([record()], [record()], ["a"]) == {"AP": {}, "AP70": {}, "AP50": {}}


def test_a_mask_survives_its_coding() -> None:
    mask = np.random.default_rng(0).random((13, 7)) > 0.5
    found = detections.annotation(mask, 3, score=0.5)
    assert (detections.covered(json.loads(json.dumps(found))["segmentation"], (13, 7)) == mask).all()
    assert found["category_id"] == 3 and found["segmentation"]["size"] == [13, 7]


def test_true_instances_of_the_devkit_and_of_a_document_are_the_same(devkit: Path) -> None:
    data = datasets.open_dataset(datasets.Config(root=str(devkit), train="train"), devkit)
    drawn = true_instances.find(data, "score", LOG)
    assert drawn is not None
    records = list(drawn)
    assert len(records) == len(drawn) == 8 and all(1 <= len(one["annotations"]) <= 3 for one in records)
    for sample, one in zip(drawn.samples, records, strict=True):
        assert {found["category_id"] - 1 for found in one["annotations"]} == set(sample.labels)
    document = detections.document(list(reversed(records)), ["background", *data.classes])
    for found in document["annotations"]:
        found["category_id"] += 1  # other numbers than ours: names count
    write_json(devkit / voc.INSTANCES, document)
    listed = true_instances.find(data, "score", LOG)
    assert listed is not None and list(listed) == records


def test_true_instances_that_cannot_be_read_are_told_of(devkit: Path) -> None:
    data = datasets.open_dataset(datasets.Config(root=str(devkit), train="train"), devkit)
    (devkit / "SegmentationObject" / f"{data.split('score')[2].id}.png").unlink()
    assert true_instances.find(data, "score", LOG) is None
    (devkit / voc.INSTANCES).write_text("{}")
    with pytest.raises(StageError, match=r"Cannot read true instances .*instances.json"):
        true_instances.find(data, "score", LOG)
    write_json(devkit / voc.INSTANCES, {"images": [], "categories": [], "annotations": []})
    truth = true_instances.find(data, "score", LOG)
    assert truth is not None
    with pytest.raises(StageError, match="No image 'demo_00000'"):
        next(iter(truth))
