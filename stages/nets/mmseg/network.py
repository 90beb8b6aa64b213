"""A segmentation network from a plain description: build it, save it, load it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from mmengine import registry as general
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS, TASK_UTILS

from stages.core import networks, reading
from stages.core.errors import StageError, first_line
from stages.core.training import save_tensors
from stages.data.images import palette
from stages.nets import norms
from stages.nets.backbones import build
from stages.nets.mmseg import catalogue, head, losses, segmentor, trunk

Segmentor = EncoderDecoder  # of any network

# Importing them registers what the configuration below names.
REGISTERED = (
    trunk.Trunk,
    head.DeepLabV2Head,
    segmentor.MultiScaleEncoderDecoder,
    losses.BalancedCrossEntropy,
)
_REGISTRIES = (MODELS, general.MODELS, TASK_UTILS, general.TASK_UTILS, general.WEIGHT_INITIALIZERS)


@dataclass(frozen=True)
class Network:
    """What decides the network's shape and how it is trained; kept in its checkpoint.

    name: as in `stages.core.networks`; model: the model section of all but DeepLabV2, which `described` fills in.
    """

    backbone: str = "resnet101"
    output_stride: int = 8
    classes: tuple[str, ...] = ()  # background first
    scales: tuple[float, ...] = segmentor.SCALES
    loss: str = "balanced"
    freeze_bn: bool = True
    channels_last: bool = True
    crop: int = 321
    name: str = networks.OURS
    model: dict[str, Any] | None = None


def described(spec: Network) -> Network:
    """SPEC with the model section of its network, so that it can be built from a checkpoint alone. Raises StageError."""
    _check_loss(spec)
    if spec.name == networks.OURS or spec.model is not None:
        return spec
    model = catalogue.resolve(spec.name, spec.backbone, spec.output_stride, len(spec.classes), spec.loss, spec.crop)
    return replace(spec, model=model)


def config(spec: Network) -> dict[str, Any]:
    """The model section of an mmsegmentation configuration. Raises StageError on an unknown loss, trunk or network."""
    _check_loss(spec)
    if spec.name != networks.OURS:
        return catalogue.without_downloads(described(spec).model)
    width = build(spec.backbone, spec.output_stride, dilate=True).channels[-1]
    return {
        "type": "MultiScaleEncoderDecoder",
        "data_preprocessor": catalogue.preprocessor(spec.crop),
        "backbone": {
            "type": "Trunk",
            "name": spec.backbone,
            "output_stride": spec.output_stride,
            "dilate": True,
        },
        "decode_head": {
            "type": "DeepLabV2Head",
            "in_channels": width,
            "num_classes": len(spec.classes),
            "loss_decode": {"type": losses.LOSSES[spec.loss]},
        },
        "scales": spec.scales,
        "freeze_bn": spec.freeze_bn,
        "channels_last": spec.channels_last,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }


def _check_loss(spec: Network) -> None:
    if spec.loss not in losses.LOSSES:
        raise StageError(f"Unknown loss '{spec.loss}'", "not one of ours", f"Use one of: {', '.join(losses.LOSSES)}")


def make(spec: Network) -> Segmentor:
    """The network with random weights, from torch's current generator. Raises StageError where it cannot be built."""
    section = config(spec)
    if spec.name == networks.OURS:
        return _build(section)
    try:
        _require_registered(section)
        net = _build(section)
    except StageError:
        raise
    except Exception as error:  # whatever modules of others raise at settings that do not fit
        raise StageError(
            f"Cannot build network {spec.name}", first_line(error), "Set segment.network to another, or mend its config"
        ) from error
    if isinstance(net.backbone, trunk.Trunk) and spec.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if spec.freeze_bn:
        norms.fix(net.backbone)
    return net


def _build(section: dict[str, Any]) -> Segmentor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="``build_loss`` would be deprecated")  # mmsegmentation's own call
        warnings.filterwarnings("ignore", message="For binary segmentation, we suggest")  # two classes are two maps here
        return cast(Segmentor, MODELS.build(ConfigDict(copy.deepcopy(section))))


def _require_registered(value: Any) -> None:
    """Raise ValueError where a part of a config is of no type that mmsegmentation knows: a dotted one would be imported."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    if isinstance(value, Mapping) and "type" in value:
        scope, _, name = str(value["type"]).rpartition(".")
        if scope not in ("", "mmseg", "mmengine", "mmcv") or not any(name in registry.module_dict for registry in _REGISTRIES):
            raise ValueError(f"mmsegmentation has no part '{value['type']}'")
    for part in parts:
        _require_registered(part)


def save(path: Path, net: torch.nn.Module, spec: Network, facts: dict[str, Any]) -> None:
    """Write weights and description, weights-only readable, in the layout of mmsegmentation's own files."""
    colours = palette()[: len(spec.classes)].tolist()
    meta = {"network": asdict(spec), "dataset_meta": {"classes": spec.classes, "palette": colours}, **facts}
    save_tensors(path, {"state_dict": {key: tensor.cpu() for key, tensor in net.state_dict().items()}, "meta": meta})


def load(checkpoint: Path, device: torch.device | str) -> Segmentor:
    """The trained network in evaluation on DEVICE, without the heads that only train. Raises StageError on other files."""
    todo = "Give a checkpoint that `bas segment train` wrote"
    with reading.told(f"Cannot read the segmentation network {checkpoint}", todo):
        value = torch.load(checkpoint, map_location="cpu", weights_only=True)
        spec = Network(**{key: _tuple(entry) for key, entry in value["meta"]["network"].items()})
        net = make(spec)
        net.load_state_dict(value["state_dict"])
    if net.with_auxiliary_head:
        del net.auxiliary_head
    vars(net)["classes"] = spec.classes
    net.eval().to(device)
    return net


def classes(net: Segmentor) -> tuple[str, ...]:
    """The classes of a network that `load` read, background first."""
    return vars(net)["classes"]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
