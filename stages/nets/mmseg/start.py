"""The first weights of a segmentation network: of its trunk where that is one of ours, else of all that a file fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stages.core import networks
from stages.nets.backbones import Backbone
from stages.nets.initial import fill_trunk
from stages.nets.mmseg.network import Segmentor
from stages.nets.pretrained import WeightReport, fill, read_state

TRUNK = "backbone."  # before the trunk's names in a file of a whole network


def fill_new(net: Segmentor, weights: str, seed_train: Path) -> WeightReport:
    """Fill NET from WEIGHTS, as `initial.fill_trunk` or `fill_network` does. Raises StageError."""
    trunk = net.backbone
    if not isinstance(trunk, Backbone):
        return fill_network(net, weights)
    return fill_trunk(trunk, weights, seed_train, getattr(net.decode_head, "aspp", None))


def fill_network(net: Segmentor, weights: str) -> WeightReport:
    """Fill a network that brings its own trunk from WEIGHTS: none, or a file of that trunk or of a whole network.

    Tensors of another shape, as of a head for other classes, stay random. Raises StageError where fewer than nine in ten of
    the trunk's tensors are found.
    """
    if weights == "none":
        return WeightReport("none", 0, tuple(net.state_dict()), ())
    networks.check_weights("with a trunk of its own", weights)
    state = read_state(Path(weights))
    trunk = {key.removeprefix(TRUNK): value for key, value in state.items() if key.startswith(TRUNK)}
    if not trunk:
        return fill(net.backbone, state, weights)
    fill(net.backbone, trunk, weights)
    report = fill(net, state, weights, least=0.0)
    return replace(report, taught=any(not key.startswith(TRUNK) for key in set(state) - set(report.unused)))
