"""Large images in overlapping squares: the windows cover the image, and their logits are those of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.formulas import segmentation, tiles


@pytest.mark.parametrize(("height", "width", "side"), [(33, 500, 64), (96, 96, 96), (97, 640, 96), (1, 70, 64), (257, 255, 128)])
def test_windows_cover_every_pixel_and_begin_on_the_grid(height: int, width: int, side: int) -> None:
    seen = torch.zeros(height, width, dtype=torch.int)
    for rows, columns in tiles.windows(height, width, side):
        assert rows.start % tiles.STEP == 0 and columns.start % tiles.STEP == 0
        assert 0 < rows.stop - rows.start <= side and 0 < columns.stop - columns.start <= side
        seen[rows, columns] += 1
    assert seen.min() >= 1


def test_neighbours_share_a_quarter() -> None:
    assert tiles.starts(256, 128) == [0, 96, 128]
    assert tiles.starts(128, 128) == [0]
    assert tiles.starts(129, 128) == [0, 32]


@pytest.mark.parametrize("stride", [4, 8])
def test_a_network_that_sees_single_cells_gives_what_it_gives_of_the_whole(stride: int) -> None:
    image = torch.rand(3, 203, 330, generator=torch.Generator().manual_seed(0))

    def look(rows: slice, columns: slice) -> Tensor:
        return image[:, rows, columns][:, ::stride, ::stride]

    merged = tiles.merged(203, 330, 96, stride, look)
    assert merged.shape == (3, -(-203 // stride), -(-330 // stride))
    assert torch.allclose(merged, image[:, ::stride, ::stride], atol=1e-6)


def test_where_windows_disagree_the_nearer_middle_weighs_more() -> None:
    levels = iter([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    merged = tiles.merged(64, 96, 64, 8, lambda rows, columns: next(levels))[0]  # columns 0-63 and 32-95: cells 4-7 are shared
    assert merged[:, :4].max() == 0 and merged[:, 8:].min() == 1
    assert torch.all(merged[0, 4:8].diff() > 0)
    assert merged[0, 4] == pytest.approx(1 / 5) and merged[0, 7] == pytest.approx(4 / 5)  # ramps 4 3 2 1 and 1 2 3 4


def test_labels_one_class_at_a_time_are_the_argmax_of_all() -> None:
    logits = torch.randn(21, 13, 17, generator=torch.Generator().manual_seed(1))
    expected = segmentation.resize_logits(logits[None], (100, 130))[0].argmax(0)
    assert torch.equal(segmentation.labels_at(logits, (100, 130)).long(), expected)
    assert segmentation.labels_at(torch.zeros(3, 2, 2), (4, 4)).max() == 0  # of equal ones the first
