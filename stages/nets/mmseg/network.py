"""DeepLabV2 from a plain description: build it, save it, load it, ask it for logits."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from mmseg.registry import MODELS
from torch import Tensor

from stages.core.errors import StageError
from stages.core.training import save_tensors
from stages.formulas import tiles
from stages.formulas.segmentation import multiscale_maximum
from stages.nets.backbones import build
from stages.nets.mmseg import head, losses, segmentor, trunk
from stages.nets.mmseg.data import MEAN, STD, Array

# Importing them registers what the configuration below names.
REGISTERED = (
    trunk.Trunk,
    head.DeepLabV2Head,
    segmentor.MultiScaleEncoderDecoder,
    losses.BalancedCrossEntropy,
)


@dataclass(frozen=True)
class Network:
    """What decides the network's shape and how it is trained; kept in its checkpoint."""

    backbone: str = "resnet101"
    output_stride: int = 8
    classes: tuple[str, ...] = ()  # background first
    scales: tuple[float, ...] = segmentor.SCALES
    loss: str = "balanced"
    freeze_bn: bool = True
    channels_last: bool = True
    crop: int = 321


def config(spec: Network) -> dict[str, Any]:
    """The model section of an mmsegmentation configuration. Raises StageError on an unknown loss or trunk."""
    if spec.loss not in losses.LOSSES:
        raise StageError(
            f"Unknown loss '{spec.loss}'",
            "not a loss of DeepLabV2",
            f"Use one of: {', '.join(losses.LOSSES)}",
        )
    width = build(spec.backbone, spec.output_stride, dilate=True).channels[-1]
    return {
        "type": "MultiScaleEncoderDecoder",
        "data_preprocessor": {
            "type": "mmseg.SegDataPreProcessor",
            "mean": list(MEAN),
            "std": list(STD),
            "bgr_to_rgb": False,
            "size": (spec.crop, spec.crop),
            "seg_pad_val": 255,
        },
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


def make(spec: Network) -> segmentor.MultiScaleEncoderDecoder:
    """The network with random weights, from torch's current generator."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="``build_loss`` would be deprecated")  # mmsegmentation's own call
        return cast(segmentor.MultiScaleEncoderDecoder, MODELS.build(config(spec)))


def save(path: Path, net: torch.nn.Module, spec: Network, facts: dict[str, Any]) -> None:
    """Write weights and description, weights-only readable, in the layout of mmsegmentation's own files."""
    meta = {"network": asdict(spec), "dataset_meta": {"classes": spec.classes}, **facts}
    save_tensors(path, {"state_dict": {key: tensor.cpu() for key, tensor in net.state_dict().items()}, "meta": meta})


def load(checkpoint: Path, device: torch.device | str) -> segmentor.MultiScaleEncoderDecoder:
    """The trained network in evaluation on DEVICE. Raises StageError where the file is none of ours."""
    try:
        value = torch.load(checkpoint, map_location="cpu", weights_only=True)
        spec = Network(**{key: _tuple(entry) for key, entry in value["meta"]["network"].items()})
        net = make(spec)
        net.load_state_dict(value["state_dict"])
        net.classes = spec.classes
    except (OSError, EOFError, LookupError, TypeError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise StageError(
            f"Cannot read the segmentation network {checkpoint}",
            reason,
            "Give a checkpoint that `bas segment train` wrote",
        ) from error
    net.eval().to(device)
    return net


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def tiled_logits(net: segmentor.MultiScaleEncoderDecoder, image: Array, scales: Sequence[float], flip: bool, side: int) -> Tensor:
    """As `grid_logits`, but an image with a side above SIDE pixels is seen in overlapping squares; SIDE 0: always whole."""
    height, width = image.shape[:2]
    if not side or max(height, width) <= side:
        return grid_logits(net, image, scales, flip)
    corner = grid_logits(net, image[: tiles.STEP, : tiles.STEP], (1.0,), False)
    stride = tiles.STEP // corner.shape[-1]
    return tiles.merged(height, width, side, stride, lambda rows, columns: grid_logits(net, image[rows, columns], scales, flip))


@torch.inference_mode()
def grid_logits(net: segmentor.MultiScaleEncoderDecoder, image: Array, scales: Sequence[float], flip: bool) -> Tensor:
    """Logits (C,h,w) of one image (H,W,3) uint8 RGB on the network's grid, float32.

    The maximum over SCALES on the grid of the one nearest to 1; with FLIP the mean of the image's and its mirror
    image's.
    """
    device = next(net.parameters()).device
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).float()
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    batch = ((pixels - mean) / std)[None]
    views = torch.cat([batch, batch.flip(-1)]) if flip else batch
    order = sorted(scales, key=lambda scale: abs(math.log(scale)))
    best = multiscale_maximum([level.float() for level in net.pyramid(views, order)])
    return (best[0] + best[1].flip(-1)) / 2 if flip else best[0]
