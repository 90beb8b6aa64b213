"""Merging, normalising and labelling of maps, on maps a person can check."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.formulas import seeds


def test_sizes_round_half_to_even_and_cover_the_image() -> None:
    assert seeds.scaled_size(75, 101, 0.5) == (38, 50)
    assert seeds.scaled_size(1, 101, 0.5) == (1, 50)
    assert seeds.strided_size(375, 500) == (94, 125)
    assert seeds.strided_size(4, 5) == (1, 2)


def test_mirrored_map_is_mirrored_back() -> None:
    pair = torch.tensor([[[[1.0, 2.0]]], [[[10.0, 20.0]]]])
    assert seeds.add_mirrored(pair).tolist() == [[[21.0, 12.0]]]


def test_merge_sums_constant_maps_of_several_scales() -> None:
    maps = [torch.full((2, 3, 4), 1.0), torch.full((2, 2, 2), 0.5).half()]
    full, strided = seeds.merge_full(maps, (20, 33)), seeds.merge_strided(maps, (20, 33))
    assert full.shape == (2, 20, 33)
    assert strided.shape == (2, 5, 9)
    torch.testing.assert_close(full, torch.full_like(full, 1.5))


@given(st.sampled_from([2, 4, 8, 16, 32]), st.integers(33, 90), st.integers(33, 90), st.data())
def test_a_value_lies_over_its_own_pixels_whatever_the_stride(stride: int, height: int, width: int, data: st.DataObject):
    rows, columns = seeds.strided_size(height, width, stride)
    row, column = data.draw(st.integers(0, height // stride - 1)), data.draw(st.integers(0, width // stride - 1))
    spot = torch.zeros(1, rows, columns)
    spot[0, row, column] = 1
    full = seeds.merge_full([spot], (height, width), stride)[0]
    top, left = divmod(int(full.argmax()), width)
    assert (top // stride, left // stride) == (row, column)
    assert full[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride].min() > 0.2


def test_image_without_classes_merges_to_nothing() -> None:
    empty = [torch.zeros(0, 3, 4)]
    assert seeds.merge_full(empty, (20, 33)).shape == (0, 20, 33)
    assert seeds.normalise(torch.zeros(0, 2, 2)).shape == (0, 2, 2)
    assert seeds.label(torch.zeros(0, 2, 2), 0.3, []).tolist() == [[0, 0], [0, 0]]


def test_each_map_is_divided_by_its_own_maximum() -> None:
    maps = seeds.normalise(torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(maps, torch.tensor([[[0.5, 1.0]], [[0.0, 0.0]]]), atol=1e-5, rtol=0)


def test_added_seeds_weigh_the_same_whatever_their_scale() -> None:
    first, second = torch.tensor([[[100.0, 0.0, 50.0]]]), torch.tensor([[[0.0, 0.01, 0.01]]])
    expected = torch.tensor([[[1 / 1.5, 1 / 1.5, 1.0]]])
    torch.testing.assert_close(seeds.add_seeds([first, second]), expected, atol=2e-3, rtol=0)


def test_label_is_the_class_furthest_above_its_own_threshold() -> None:
    maps = torch.tensor([[[0.9, 0.2, 0.31]], [[0.8, 0.25, 0.1]]])
    assert seeds.label(maps, 0.3, [7, 2]).tolist() == [[8, 0, 8]]
    assert seeds.label(maps, [0.7, 0.2], [7, 2]).tolist() == [[3, 3, 0]]


def test_a_pixel_at_the_threshold_is_background() -> None:
    assert seeds.label(torch.tensor([[[0.5, 0.5001]]]), 0.5, [0]).tolist() == [[0, 1]]


def test_power_lowers_weak_responses_most() -> None:
    assert seeds.power(torch.tensor([1.0, 0.25, -0.1]), 1.5).tolist() == [1.0, 0.125, 0.0]


def test_walked_maps_share_one_maximum() -> None:
    maps = seeds.upsample_walked(torch.tensor([[[0.4]], [[0.1]]]), (3, 2))
    assert maps.shape == (2, 3, 2)
    torch.testing.assert_close(maps[:, 0, 0], torch.tensor([1.0, 0.25]))
    assert not seeds.upsample_walked(torch.zeros(1, 1, 1), (3, 2)).isnan().any()


@given(st.lists(st.floats(0, 1, width=16), min_size=4, max_size=12), st.floats(0.05, 0.95), st.floats(0, 0.5))
def test_a_higher_threshold_never_adds_foreground(values: list[float], threshold: float, more: float) -> None:
    maps = torch.tensor(values[: len(values) // 2 * 2]).view(2, 1, -1)
    low, high = seeds.label(maps, threshold, [0, 1]), seeds.label(maps, threshold + more, [0, 1])
    assert not ((high > 0) & (low == 0)).any()
    assert torch.equal(high[high > 0], low[high > 0])


def test_the_box_around_a_region_is_twice_as_large_and_stays_in_the_image() -> None:
    region = torch.zeros(40, 60, dtype=torch.bool)
    region[10:20, 50:58] = True
    assert seeds.box_around(region) == (5, 25, 46, 60)
