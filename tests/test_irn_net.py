"""The boundary and displacement network: sizes on any trunk, what is frozen, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.core.errors import StageError
from stages.nets import backbones, irn


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_outputs_lie_on_the_stride_4_grid(name: str, size: tuple[int, int]) -> None:
    net = irn.Irn(backbones.build(name)).eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, *size))
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert maps.edge_logits.shape == (1, 1, *grid)
    assert maps.displacement.shape == (1, 2, *grid)


def test_widths_are_the_published_ones() -> None:
    net = irn.Irn(backbones.build("resnet50"))
    edge, field = (sum(p.numel() for p in part) for part in net.branches())
    taps = sum(n * 32 + 2 * 32 for n in (64, 256, 512, 1024, 2048))
    assert edge == taps + 160 + 1
    assert net.field_fuse.conv.weight.shape == (256, 768, 1, 1)
    assert net.field_head[0].weight.shape == (256, 448, 1, 1)
    assert field == sum(p.numel() for p in net.parameters() if p.requires_grad) - edge


def test_the_trunk_is_frozen_while_the_branches_learn() -> None:
    torch.manual_seed(0)
    net = irn.Irn(backbones.build("tiny")).train()
    before = {key: value.clone() for key, value in net.trunk.state_dict().items()}
    maps = net(torch.randn(2, 3, 32, 32))
    (maps.edge_logits.sum() + maps.displacement.abs().sum()).backward()
    assert all(torch.equal(value, before[key]) for key, value in net.trunk.state_dict().items())
    assert all(p.grad is None for p in net.trunk.parameters())
    assert all(p.grad is not None for part in net.branches() for p in part)


def test_the_boundary_branch_alone_says_the_same() -> None:
    net = irn.Irn(backbones.build("tiny")).eval()
    images = torch.randn(2, 3, 40, 44)
    with torch.no_grad():
        assert torch.equal(net.edge_logits(images), net(images).edge_logits)


def test_mean_shift_acts_in_evaluation_only() -> None:
    shift = irn.MeanShift()
    shift.mean.copy_(torch.tensor([1.0, -2.0]))
    field = torch.zeros(1, 2, 1, 1)
    assert shift.train()(field).flatten().tolist() == [0, 0]
    assert shift.eval()(field).flatten().tolist() == [-1, 2]


def test_enlarged_taps_stay_aligned() -> None:
    tap = irn.Tap(1, 1, 1, 16, 4)
    torch.nn.init.ones_(tap.conv.weight)
    x = torch.zeros(1, 1, 2, 2)
    x[..., 0] = 1.0
    out = tap(x, (5, 7))
    assert out.shape == (1, 1, 5, 7)
    assert (out[..., :2] > 0.9).all()
    assert (out[..., 6] == 0).all()


def test_saved_network_comes_back(tmp_path: Path) -> None:
    net = irn.Irn(backbones.build("tiny"))
    net.mean_shift.mean.copy_(torch.tensor([0.5, 1.5]))
    irn.save(net, tmp_path / "net.safetensors")
    other = irn.load(tmp_path / "net.safetensors")
    assert other.trunk.name == "tiny"
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    irn.save(irn.Irn(backbones.build("tiny")), tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(StageError, match=r"Cannot read the IRN network .*net\.safetensors"):
        irn.load(tmp_path / "net.safetensors")
