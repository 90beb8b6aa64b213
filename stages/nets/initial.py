"""The first weights of a trunk that learns after the seed network: published ones, a file's, or the seed network's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from stages.nets import backbones, bas, pretrained, storage

T = TypeVar("T")


def drawn(make: Callable[[], T], seed: int) -> T:
    """What MAKE makes with random weights that SEED alone decides; the generator of others goes on as if nothing was drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def fill_trunk(
    trunk: backbones.Backbone, weights: str, seed_train: Path, head: nn.Module | None = None
) -> pretrained.WeightReport:
    """Fill TRUNK from WEIGHTS: seed (the trunk of the network in the folder SEED_TRAIN), or what `load_weights` takes.

    HEAD: the pyramid of a DeepLabV2, filled where a file has one of as many classes. Raises StageError where there are no
    weights or they are of another network.
    """
    if weights == "seed":
        return pretrained.fill(trunk, bas.trunk_state(seed_train / storage.FILE), "seed")
    return pretrained.load_weights(trunk, weights, head)
