"""The first weights of a trunk that learns after the seed network: published ones, a file's, or the seed network's own."""

from __future__ import annotations

from pathlib import Path

from stages.nets import backbones, bas


def fill_trunk(trunk: backbones.Backbone, weights: str, seed_train: Path) -> backbones.WeightReport:
    """Fill TRUNK from WEIGHTS: seed (the trunk of the network in the folder SEED_TRAIN), or what `load_weights` takes.

    Raises StageError where there is none or it is of another network.
    """
    if weights == "seed":
        return backbones.fill(trunk, bas.trunk_state(seed_train / "network.safetensors"), "seed")
    return backbones.load_weights(trunk, weights)
