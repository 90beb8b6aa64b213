"""A stand-alone mmsegmentation config beside a checkpoint: its own tools test the network with it, or infer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from typing import Any

from stages import __version__
from stages.core.files import write_text
from stages.data.images import palette
from stages.nets.mmseg import losses, network, trunk

NAME = "mmseg_config.py"
HEAD = '''"""{what}, for mmsegmentation; weights: network.pth beside this file; written by bas {version}.

Test it: python tools/test.py {name} network.pth --cfg-options test_dataloader.dataset.data_root=DATA
where DATA/images holds photographs and DATA/masks index PNGs of the classes below (255: void). Images are seen at one
size and whole, as by `bas predict --set "segment_predict.scales=[{scales}]" --set segment_predict.flip=false`.
{needs}
"""
'''
OURS = "It takes bas (the package bas-wsss) for the parts that mmsegmentation has not: custom_imports registers them."
THEIRS = "It needs nothing of bas; where it is there, custom_imports makes mmcv-lite do in the place of mmcv."


def write(path: Path, spec: network.Network) -> None:
    """Write the config of the network SPEC to PATH."""
    write_text(path, "\n".join(_lines(spec)))


def _lines(spec: network.Network) -> Iterator[str]:
    """The config as Python, part by part."""
    model = copy.deepcopy(network.config(spec))
    ours = spec.model is None or model["backbone"]["type"] == trunk.Trunk.__name__
    scales = ",".join(f"{scale:g}" for scale in spec.scales) if spec.model is None else "1.0"
    yield HEAD.format(
        what=f"{spec.name} of {len(spec.classes)} classes",
        version=__version__,
        name=NAME,
        scales=scales,
        needs=OURS if ours else THEIRS,
    )
    imports = {"imports": [network.__name__ if ours else network.__package__], "allow_failed_imports": not ours}
    facts = {"classes": spec.classes, "palette": palette()[: len(spec.classes)].tolist()}
    values = {
        "default_scope": "mmseg",
        "custom_imports": imports,
        "metainfo": facts,
        "model": _for_tools(model if ours else _plain_losses(model)),
        **_test(facts),
    }
    for name, value in values.items():
        yield f"{name} = {pformat(value, width=120, sort_dicts=False)}"
    yield ""


def _for_tools(model: dict[str, Any]) -> dict[str, Any]:
    """MODEL for images as mmsegmentation reads them, which is BGR, where our crops are RGB."""
    colours = model["data_preprocessor"]
    return {**model, "data_preprocessor": {**colours, "bgr_to_rgb": not colours["rgb_to_bgr"], "rgb_to_bgr": False}}


def _plain_losses(value: Any) -> Any:
    """VALUE with mmsegmentation's cross-entropy in the place of ours."""
    if isinstance(value, dict):
        own = value.get("type") in losses.LOSSES.values()
        return {key: "CrossEntropyLoss" if own and key == "type" else _plain_losses(item) for key, item in value.items()}
    return type(value)(_plain_losses(item) for item in value) if isinstance(value, (list, tuple)) else value


def _test(facts: dict[str, Any]) -> dict[str, Any]:
    """How mmsegmentation's tools read images and index PNGs, and score them."""
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    dataset = {
        "type": "BaseSegDataset",
        "metainfo": facts,
        "data_root": "data",
        "data_prefix": {"img_path": "images", "seg_map_path": "masks"},
        "img_suffix": ".jpg",
        "seg_map_suffix": ".png",
        "pipeline": pipeline,
    }
    loader = {
        "batch_size": 1,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": dataset,
    }
    return {
        "test_pipeline": pipeline,
        "test_dataloader": loader,
        "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "test_cfg": {"type": "TestLoop"},
    }
