"""IRN (Ahn et al., CVPR 2019, section 4.1): class boundaries and displacements to object centres, on a frozen trunk.

Every stage of the trunk is tapped, reduced by a 1x1 convolution with group-norm and brought to the stride-4 grid
(displacements of stages 3 to 5 first to stride 8). Coarser maps are enlarged bilinearly and cropped, so that pixels
stay aligned at any image size; finer ones, as of a trunk without pooling, are averaged down before the convolution.
Shapes: B images, h w the stride-4 grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from stages.core import reading
from stages.formulas.seeds import strided_size
from stages.nets import backbones, storage

GRID = 4  # stride of both outputs
COARSE = 8  # stride at which the deeper stages' displacement maps meet
EDGE_WIDTH, EDGE_GROUPS = 32, 4
FIELD_WIDTHS, FIELD_GROUPS = (64, 128, 256, 256, 256), (8, 16, 16, 16, 16)
FIELD_SPLIT = 2  # stages before it go straight to the stride-4 grid
FUSED_WIDTH, FUSED_GROUPS = 256, 16


class IrnMaps(NamedTuple):
    """What the network says of a batch."""

    edge_logits: Tensor  # (B,1,h,w), logits of the boundary probability
    displacement: Tensor  # (B,2,h,w), grid steps to the object's centre, channel 0 = y, 1 = x


class MeanShift(nn.Module):
    """Takes away a constant displacement in evaluation: the losses see differences alone, so a common part is free."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, field: Tensor) -> Tensor:
        """(B,2,h,w) → the same, less the mean when not training."""
        return field if self.training else field - self.mean.view(1, 2, 1, 1)


class Tap(nn.Module):
    """One stage's map on the grid of a given stride: 1x1 convolution, group-norm, resize, ReLU."""

    def __init__(self, channels: int, width: int, groups: int, stride: int, target: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.GroupNorm(groups, width)
        self.stride, self.target = stride, target

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x (B,N,·,·) → (B,width,h,w) of SIZE."""
        if self.stride < self.target:
            x = nnf.avg_pool2d(x, self.target // self.stride, ceil_mode=True)
        x = self.norm(self.conv(x))
        if self.stride > self.target:
            x = nnf.interpolate(x, scale_factor=self.stride // self.target, mode="bilinear", align_corners=False)
        return nnf.relu(x[..., : size[0], : size[1]])


class Irn(nn.Module):
    """A frozen trunk in evaluation mode and the two branches that learn."""

    def __init__(self, trunk: backbones.Backbone) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        stages = tuple(zip(trunk.channels, trunk.strides, strict=True))
        self.edge_taps = nn.ModuleList(Tap(n, EDGE_WIDTH, EDGE_GROUPS, stride, GRID) for n, stride in stages)
        self.edge_head = nn.Conv2d(EDGE_WIDTH * len(stages), 1, 1)
        self.field_taps = nn.ModuleList(
            Tap(n, width, groups, stride, GRID if index < FIELD_SPLIT else COARSE)
            for index, ((n, stride), width, groups) in enumerate(zip(stages, FIELD_WIDTHS, FIELD_GROUPS, strict=True))
        )
        self.field_fuse = Tap(sum(FIELD_WIDTHS[FIELD_SPLIT:]), FUSED_WIDTH, FUSED_GROUPS, COARSE, GRID)
        self.field_head = nn.Sequential(
            nn.Conv2d(sum(FIELD_WIDTHS[:FIELD_SPLIT]) + FUSED_WIDTH, FUSED_WIDTH, 1, bias=False),
            nn.GroupNorm(FUSED_GROUPS, FUSED_WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(FUSED_WIDTH, 2, 1, bias=False),
        )
        self.mean_shift = MeanShift()

    def train(self, mode: bool = True) -> Irn:
        """Set the branches' mode; the trunk's statistics stay as they are."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> IrnMaps:
        """images (B,3,H,W), normalised → both outputs on the grid of ceil(H/4) x ceil(W/4)."""
        maps = self._features(images)
        return IrnMaps(self._edges(maps, images), self._field(maps, images))

    def edge_logits(self, images: Tensor) -> Tensor:
        """The boundary branch alone (B,1,h,w): all that semantic masks need."""
        return self._edges(self._features(images), images)

    def _features(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self.trunk(images)

    def _edges(self, maps: list[Tensor], images: Tensor) -> Tensor:
        size = strided_size(images.shape[-2], images.shape[-1], GRID)
        return self.edge_head(torch.cat([tap(x, size) for tap, x in zip(self.edge_taps, maps, strict=True)], 1))

    def _field(self, maps: list[Tensor], images: Tensor) -> Tensor:
        size, coarse = (strided_size(images.shape[-2], images.shape[-1], stride) for stride in (GRID, COARSE))
        taps = list(zip(self.field_taps, maps, strict=True))
        fine = [tap(x, size) for tap, x in taps[:FIELD_SPLIT]]
        deep = torch.cat([tap(x, coarse) for tap, x in taps[FIELD_SPLIT:]], 1)
        return self.mean_shift(self.field_head(torch.cat([*fine, self.field_fuse(deep, size)], 1)))

    def branches(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the boundary branch and of the displacement branch: they learn at different rates."""
        edge = [*self.edge_taps.parameters(), *self.edge_head.parameters()]
        field = [p for part in (self.field_taps, self.field_fuse, self.field_head) for p in part.parameters()]
        return edge, field


def save(net: Irn, path: Path) -> None:
    """Write the trunk and the branches as safetensors."""
    storage.write(path, net.state_dict(), net.trunk.name)


def load(path: Path) -> Irn:
    """Read a network that `save` wrote. Raises StageError when the file is missing, cut or of another kind."""
    with reading.told(f"Cannot read the IRN network {path}", "Run `bas refine irn` again"):
        tensors, name = storage.read(path)
        net = Irn(backbones.build(name))
        net.load_state_dict(tensors)
    return net
