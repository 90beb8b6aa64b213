"""Whether a network can be trained and asked as the stages do it, found out before any stage works."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from stages.core.errors import StageError, first_line
from stages.nets.initial import drawn
from stages.nets.mmseg import inference, network
from stages.nets.mmseg.start import fill_network

CLASSES = ("background", "first", "second")  # stand-ins: what fits three classes fits others


def rehearse(spec: network.Network, weights: str) -> None:
    """Raise StageError where network SPEC cannot be built, filled with WEIGHTS, taught by two crops, or asked for logits."""
    described = network.described(spec)
    net = drawn(lambda: network.make(described), seed=0)
    if Path(weights).is_file():
        fill_network(net, weights)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            _step(net, described)
    except Exception as error:  # whatever modules of others raise
        todo = "Set segment.network to another, or mend its config"
        raise StageError(f"Network {spec.name} cannot be trained here", first_line(error), todo) from error


def _step(net: network.Segmentor, spec: network.Network) -> None:
    """The losses of two crops, and the logits of one. Raises ValueError where they are not what the stages take."""
    side, count = spec.crop, len(spec.classes)
    samples = []
    for _ in range(2):
        samples.append(SegDataSample())
        samples[-1].gt_sem_seg = PixelData(data=torch.randint(count, (1, side, side)))
    crops = [torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in samples]
    batch = net.data_preprocessor({"inputs": crops, "data_samples": samples}, True)
    total = net.parse_losses(net.train().loss(batch["inputs"], batch["data_samples"]))[0]
    if not torch.isfinite(total):
        raise ValueError(f"its loss is {float(total)} on noise")
    logits = inference.look(net.eval(), batch["inputs"][:1])
    if not torch.is_tensor(logits) or logits.ndim != 4 or logits.shape[1] != count:
        raise ValueError(f"it does not give one map a class for {count} classes")
