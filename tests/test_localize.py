"""The second, closer look at small objects."""

from __future__ import annotations

import numpy as np
import torch

from stages.core import runtime
from stages.formulas import seeds
from stages.nets import backbones
from stages.nets.bas import assemble
from stages.nets.localize import CloserLook, Networks

SIZE = (50, 70)


def looked(below: float) -> tuple[dict[str, list[torch.Tensor]], dict[str, torch.Tensor]]:
    """Maps of a first pass, the first of two classes small, and what the closer look adds."""
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        net = assemble(backbones.build("tiny"), 3).eval()
        nets = Networks(net, None, runtime.Runtime(runtime.Config(device="cpu")))
        image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        assert nets.strides == {"bas": 8, "cam": 8}
        first = {name: [maps] for name, maps in nets.maps(image, SIZE, [0, 2]).items()}
        spot = torch.zeros_like(first["bas"][0][0])
        spot[3, 4] = 2
        first["bas"][0] = torch.stack([spot, torch.ones_like(spot)])
        return first, dict(CloserLook(below, 0.3, 1.0)(nets, image, first, [0, 2]))


def test_only_small_objects_are_looked_at_again():
    first, added = looked(0.5)
    assert set(added) == {"bas", "cam"} and added["bas"].shape == (2, 14, 18)
    small, large = added["bas"]
    assert not large.any() and 0 < (small > 0).float().mean() < 0.5
    region = seeds.normalise(seeds.merge_full(first["bas"], SIZE, 8))[0] > 0.3
    top, bottom, left, right = seeds.box_around(region)
    outside = small.repeat_interleave(4, 0).repeat_interleave(4, 1)[: SIZE[0], : SIZE[1]].clone()
    outside[top // 4 * 4 : bottom + 4, left // 4 * 4 : right + 4] = 0
    assert not outside.any()


def test_the_closer_look_weighs_as_much_as_the_first_pass():
    first, added = looked(0.5)
    whole = seeds.merge_full(first["bas"], SIZE, 8)[0].max()
    assert 0.5 * whole < added["bas"][0].max() <= whole


def test_without_small_objects_nothing_is_added():
    assert looked(1e-6)[1] == {}
