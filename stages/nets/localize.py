"""Localization maps of one image by the seed networks: at a scale of the image, and in a second, closer look at small objects.

Shapes: H W the image, P present classes, h w the feature grid of one view. Every view is run with its mirror image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.core.runtime import Runtime
from stages.data.images import Array, resize
from stages.data.transforms import normalise
from stages.formulas import seeds
from stages.nets.bas import BasNet
from stages.nets.cam import CamNet

Maps = Mapping[str, Tensor]  # by name: bas, cam and irn (P,h,w), agnostic (1,h,w)


@dataclass(frozen=True)
class Networks:
    """The networks whose maps are wanted, in evaluation mode on the runtime's device: BAS, and the CAM network."""

    bas: BasNet
    cam: CamNet | None
    runtime: Runtime

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of a view between two values of a map, by the map's name."""
        features, classes = self.bas.strides
        own = {"bas": features, "cam": classes} | ({"agnostic": features} if self.bas.agnostic is not None else {})
        return own | ({"irn": self.cam.trunk.strides[-1]} if self.cam is not None else {})

    def maps(self, image: Array, size: tuple[int, int], present: Sequence[int]) -> Maps:
        """Maps of an image (H,W,3) resized to SIZE, for the classes PRESENT; image and mirror summed."""
        view = normalise(resize(image, *size))
        both, ids = self.runtime.place(torch.stack([view, view.flip(-1)]), channels_last=True), list(present)
        out = self.bas(both)
        maps = {"bas": out.foreground[:, ids], "cam": out.class_maps[:, ids].relu()}
        if out.agnostic is not None:
            maps["agnostic"] = out.agnostic
        if self.cam is not None:
            maps["irn"] = self.cam(both)[:, ids].relu()
        return {name: seeds.add_mirrored(pair.float()) for name, pair in maps.items()}


@dataclass(frozen=True)
class CloserLook:
    """The second pass that section 6 of the paper proposes for small objects: crop, enlarge, look again.

    An object is small where its map exceeds LEVEL on less than BELOW of the image. The box around that region, twice as
    large, is enlarged to the image's longer side times SCALE.
    """

    below: float
    level: float
    scale: float

    def __call__(self, nets: Networks, image: Array, first: Mapping[str, Sequence[Tensor]], present: Sequence[int]) -> Maps:
        """What a closer look adds to the maps of the FIRST pass (by name, one a scale): (P,h,w), means over 4 x 4 pixels of
        the image filled up to whole steps of each map's stride, as those maps cover it.

        It weighs as much as the first pass: each class's addition has the maximum of its sum over scales. Classes that are
        not small get zeros; without any, nothing is returned.
        """
        size = (image.shape[0], image.shape[1])
        strides = nets.strides
        regions = seeds.normalise(seeds.merge_full(first["bas"], size, strides["bas"])) > self.level
        boxes = {row: seeds.box_around(region) for row, region in enumerate(regions) if 0 < region.float().mean() < self.below}
        looked = [name for name in first if name != "agnostic"] if boxes else []
        merged = {name: seeds.merge_full(first[name], size, strides[name]) for name in looked}
        padded = {name: seeds.padded_size(*size, strides[name]) for name in looked}
        added = {name: maps.new_zeros((len(present), *padded[name])) for name, maps in merged.items()}
        for row, (top, bottom, left, right) in boxes.items():
            crop = image[top:bottom, left:right]
            enlarged = self.scale * max(size) / max(crop.shape[:2])
            seen = nets.maps(crop, seeds.scaled_size(crop.shape[0], crop.shape[1], enlarged), [present[row]])
            for name, maps in added.items():
                inside = nnf.interpolate(seen[name][None], crop.shape[:2], mode="bilinear", align_corners=False)[0, 0]
                maps[row, top:bottom, left:right] = seeds.normalise(inside[None])[0] * merged[name][row].max()
        return {name: seeds.thin(maps, padded[name]) for name, maps in added.items()}
