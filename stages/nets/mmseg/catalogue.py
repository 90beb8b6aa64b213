"""The model section of any network: mmsegmentation's heads on our trunks, and its configs brought to our classes.

Head widths, dilations, pooling scales and the weight of the auxiliary loss are those of mmsegmentation's own base configs
for ResNet50, but no head is wider than the last map of its trunk.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from stages.core import networks
from stages.core.errors import StageError, first_line
from stages.formulas import VOID
from stages.nets.backbones import Backbone, build
from stages.nets.mmseg.data import MEAN, STD
from stages.nets.mmseg.losses import LOSSES

Model = dict[str, Any]  # the model section of an mmsegmentation config
WIDTH, DETAIL, AUXILIARY = 512, 48, 256  # channels of a head, of DeepLabV3+'s shallow map, of the auxiliary head
AUXILIARY_WEIGHT = 0.4
DILATIONS = (1, 12, 24, 36)  # of the spatial pyramid at stride 8
POOLS = (1, 2, 3, 6)
SHALLOW = 4  # stride of DeepLabV3+'s shallow map
HEADS = ("decode_head", "auxiliary_head")


def preprocessor(crop: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, rgb: bool = True) -> Model:
    """What brings RGB crops of CROP pixels a side to the colours that a network wants; MEAN and STD in its own order."""
    return {
        "type": "mmseg.SegDataPreProcessor",
        "mean": list(mean),
        "std": list(std),
        "rgb_to_bgr": not rgb,
        "size": (crop, crop),
        "seg_pad_val": VOID,
    }


def resolve(name: str, backbone: str, output_stride: int, classes: int, loss: str, crop: int) -> Model:
    """The model section of network NAME (`stages.core.networks`, DeepLabV2 excepted) for CLASSES classes with background.

    LOSS is a key of `losses.LOSSES`. Raises StageError where there is no such network, or none in the config.
    """
    model = on_trunk(name, backbone, output_stride) if name in networks.HEADS else of_file(networks.config_file(name))
    colours = model.pop("data_preprocessor", None) or {}
    bare = without_downloads(model)
    former = _first(bare["decode_head"]).get("num_classes")
    for key in HEADS:
        if bare.get(key):
            bare[key] = _each(bare[key], lambda head: _for_classes(head, former, classes, loss))
    rgb = bool(colours.get("bgr_to_rgb", not colours))  # mmsegmentation reads images as BGR
    mean, std = colours.get("mean") or MEAN, colours.get("std") or STD
    return {
        **bare,
        "data_preprocessor": preprocessor(crop, mean, std, rgb),
        "train_cfg": bare.get("train_cfg") or {},
        "test_cfg": {**(bare.get("test_cfg") or {}), "mode": "whole"},
    }


# heads on a trunk of our table


def on_trunk(name: str, backbone: str, output_stride: int) -> Model:
    """One of networks.HEADS on our trunk BACKBONE, for mmsegmentation's own number of classes."""
    trunk = build(backbone, output_stride, dilate=True)
    deep = len(trunk.channels) - 1
    width = min(WIDTH, trunk.channels[deep])
    chosen = _HEADS[name](trunk, width)
    stages = chosen.pop("stages")
    head = {"norm_cfg": {"type": "BN"}, "dropout_ratio": 0.1, "align_corners": False, "num_classes": 2, **chosen}
    head["loss_decode"] = {"type": "CrossEntropyLoss", "loss_weight": 1.0}
    auxiliary = {
        **{key: head[key] for key in ("norm_cfg", "dropout_ratio", "align_corners", "num_classes")},
        "type": "FCNHead",
        "in_channels": trunk.channels[deep - 1],
        "in_index": stages.index(deep - 1),
        "channels": min(AUXILIARY, width),
        "num_convs": 1,
        "concat_input": False,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": AUXILIARY_WEIGHT},
    }
    backbone_part = {"type": "Trunk", "name": backbone, "output_stride": output_stride, "dilate": True, "stages": stages}
    return {"type": "EncoderDecoder", "backbone": backbone_part, "decode_head": head, "auxiliary_head": auxiliary}


def _last(trunk: Backbone, width: int, **head: Any) -> Model:
    """A head on the last map alone; STAGES are those whose maps the trunk gives."""
    deep = len(trunk.channels) - 1
    return {"stages": [deep - 1, deep], "in_channels": trunk.channels[deep], "in_index": 1, "channels": width, **head}


def _dilations(trunk: Backbone) -> tuple[int, ...]:
    """DILATIONS, which reach equally far on an image at any stride of the last map."""
    return (1, *(max(rate * 8 // trunk.strides[-1], 1) for rate in DILATIONS[1:]))


def _deeplabv3plus(trunk: Backbone, width: int) -> Model:
    deep = len(trunk.channels) - 1
    shallow = max(i for i in range(deep - 1) if trunk.strides[i] <= SHALLOW)
    return {
        "type": "DepthwiseSeparableASPPHead",
        "stages": [shallow, deep - 1, deep],
        "in_channels": trunk.channels[deep],
        "in_index": 2,
        "channels": width,
        "dilations": _dilations(trunk),
        "c1_in_channels": trunk.channels[shallow],
        "c1_channels": min(DETAIL, trunk.channels[shallow]),
    }


def _upernet(trunk: Backbone, width: int) -> Model:
    stages = list(range(len(trunk.channels) - 4, len(trunk.channels)))
    widths = [trunk.channels[stage] for stage in stages]
    return {
        **{"type": "UPerHead", "stages": stages, "in_channels": widths, "in_index": [0, 1, 2, 3]},
        **{"channels": width, "pool_scales": POOLS},
    }


_HEADS: dict[str, Callable[[Backbone, int], Model]] = {
    "deeplabv3plus": _deeplabv3plus,
    "deeplabv3": lambda trunk, width: _last(trunk, width, type="ASPPHead", dilations=_dilations(trunk)),
    "upernet": _upernet,
    "pspnet": lambda trunk, width: _last(trunk, width, type="PSPHead", pool_scales=POOLS),
    "fcn": lambda trunk, width: _last(trunk, width, type="FCNHead", num_convs=2, concat_input=True),
}


# configs of mmsegmentation


def of_file(path: Path) -> Model:
    """The model section of the config at PATH as plain values, its data preprocessor within. A config is code: it runs.

    Modules that it imports of its own are not imported: a checkpoint could not name them. Raises StageError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = Config.fromfile(path, import_custom_modules=False)
        values = config.to_dict()
    except Exception as error:  # whatever code of others raises
        raise _unfit(path, first_line(error)) from error
    model = values.get("model")
    if not isinstance(model, Mapping) or not model.get("decode_head") or not model.get("backbone"):
        raise _unfit(path, "it has no model with a backbone and a decode_head")
    plain = _plain(model)
    plain.setdefault("data_preprocessor", _plain(values.get("data_preprocessor") or {}))
    return plain


def _unfit(path: Path, why: str) -> StageError:
    return StageError(f"Cannot use network {path}", why, "Give an mmsegmentation config of a segmentation network")


def _plain(value: Any) -> Any:
    """VALUE in dictionaries, lists and scalars; classes, as configs that are Python throughout have them, by their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value.__name__ if isinstance(value, type) else value


def without_downloads(value: Any) -> Any:
    """VALUE, a part of a config, without what would fetch weights; batch-norm is of one process, never synchronised."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if key != "pretrained" and not (key == "init_cfg" and _fetches(item))}
        if re.fullmatch(r"\w*SyncBN", str(kept.get("type"))):
            kept["type"] = "BN"
        return {key: without_downloads(item) for key, item in kept.items()}
    return type(value)(without_downloads(item) for item in value) if isinstance(value, (list, tuple)) else value


def _fetches(init: Any) -> bool:
    return any(
        isinstance(one, Mapping) and one.get("type") == "Pretrained" for one in (init if isinstance(init, list) else [init])
    )


def _for_classes(head: Model, former: Any, classes: int, loss: str) -> Model:
    """HEAD for CLASSES classes of which none is left out, all void pixels ignored, its cross-entropy by LOSS.

    With a sampler, which weighs pixels, cross-entropy stays mmsegmentation's.
    """
    counted = _counted({key: item for key, item in head.items() if key not in ("out_channels", "threshold")}, former, classes)
    name = "CrossEntropyLoss" if counted.get("sampler") else LOSSES[loss]
    if counted.get("loss_decode"):
        counted["loss_decode"] = _each(counted["loss_decode"], lambda term: _term(term, name))
    return {**counted, "ignore_index": VOID}


def _counted(value: Any, former: Any, classes: int) -> Any:
    """VALUE with CLASSES wherever the config counted its own; heads of other things keep their number."""
    if isinstance(value, Mapping):
        return {
            key: classes if key == "num_classes" and item == former else _counted(item, former, classes)
            for key, item in value.items()
        }
    return type(value)(_counted(item, former, classes) for item in value) if isinstance(value, (list, tuple)) else value


def _term(term: Model, name: str) -> Model:
    """A term of a head's loss: cross-entropy becomes NAME, whose weights are of our classes; others stay as they are."""
    if term.get("type") != "CrossEntropyLoss":
        return term
    return {"type": name, "loss_weight": term.get("loss_weight", 1.0)}


def _each(value: Any, change: Callable[[Model], Model]) -> Any:
    """CHANGE of a part, or of each where there are several."""
    return [change(one) for one in value] if isinstance(value, (list, tuple)) else change(value)


def _first(part: Any) -> Model:
    return part[0] if isinstance(part, (list, tuple)) else part
