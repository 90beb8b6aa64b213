"""Instances from displacement fields that a person can draw, and their files and scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formulas import instances, walk


def pointing_at(centres: list[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    """A field (2,h,w) in which each pixel points at the nearest centre."""
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).float()
    ways = torch.stack([torch.tensor(centre).view(2, 1, 1) - grid for centre in centres])
    nearest = ways.square().sum(1).argmin(0)
    return torch.gather(ways, 0, nearest.expand(1, 2, -1, -1))[0]


def test_a_field_that_points_at_two_centres_has_two_instances() -> None:
    grouped = instances.groups(pointing_at([(8, 5), (9, 20)], 16, 26))
    assert set(np.unique(grouped)) == {1, 2}
    assert (grouped[:, :12] == grouped[8, 5]).all() and (grouped[:, 14:] == grouped[9, 20]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.floats(1.5, 2.9), st.floats(0.2, 1.0))
def test_every_centre_of_a_grid_is_found_whatever_the_reach_and_the_length_of_steps(
    rows: int, columns: int, reach: float, pace: float
) -> None:
    """Steps of a share PACE of the way still lead to the centre: the field is followed, not believed."""
    centres = [(5 + 11 * row, 6 + 11 * column) for row in range(rows) for column in range(columns)]
    grouped = instances.groups(pointing_at(centres, 11 * rows, 11 * columns) * pace, reach * pace)
    assert grouped.max() == len(centres)
    for y, x in centres:
        block = grouped[y - 4 : y + 5, x - 4 : x + 5]
        assert (block == grouped[y, x]).all()
    assert len({grouped[centre] for centre in centres}) == len(centres)


@pytest.mark.parametrize("away", [(3.0, 0.0), (0.0, -4.0), (2.0, 2.0)])
def test_a_constant_field_has_none(away: tuple[float, float]) -> None:
    field = torch.tensor(away).view(2, 1, 1).expand(2, 12, 15)
    assert instances.centroids(field).max() == 0
    assert instances.groups(field).max() == 0


def test_a_field_of_zeros_is_one_instance_and_nobody_moves() -> None:
    field = torch.zeros(2, 7, 9)
    y, x = instances.end_points(field)
    assert (y == torch.arange(7.0)[:, None]).all() and (x == torch.arange(9.0)).all()
    assert (instances.groups(field) == 1).all()


def test_followers_stay_on_the_map_and_bilinear_steps_meet_between_pixels() -> None:
    ends = instances.end_points(torch.full((2, 1, 6), 9.0))
    assert (ends[0] == 0).all() and (ends[1] == 5).all()
    ramp = (2.25 - torch.arange(6.0)).expand(1, 6) * 0.5  # half the way to 2.25, which lies between two pixels
    ends = instances.end_points(torch.stack([torch.zeros(1, 6), ramp]))
    torch.testing.assert_close(ends[1], torch.full((1, 6), 2.25), atol=2e-3, rtol=0)


def test_maps_are_cut_to_groups_and_empty_channels_are_left_out() -> None:
    maps = torch.tensor([[[1.0, 0.5, 0.0, 0.2]], [[0.0, 0.0, 0.0, 0.9]]])
    channels, rows = instances.split(maps, np.array([[1, 1, 2, 0]], np.int32))
    assert rows == [0, 0, 1]
    assert torch.equal(channels[:, 0], torch.tensor([[0, 0, 0, 0.2], [1.0, 0.5, 0, 0], [0, 0, 0, 0.9]]))
    torch.testing.assert_close(channels.sum(0), maps.sum(0))


def test_two_animals_of_one_class_become_two_masks_that_do_not_overlap() -> None:
    """One class map over both halves, a wall between them: two instances, each with its half and its own maximum."""
    field = pointing_at([(5, 4), (5, 15)], 10, 20)
    maps = torch.full((1, 10, 20), 1.0)
    maps[:, :, 10:] = 0.6
    maps[:, :2] = 0
    edge = torch.zeros(10, 20)
    edge[:, 9:11] = 1
    edge[1] = 1
    channels, rows = instances.split(maps, instances.groups(field))
    walked = walk.random_walk(channels, edge, exp_times=6)
    found = instances.instances(instances.contest(walked, (40, 80), 0.3), rows, least=50)
    assert [one.label for one in found] == [0, 0]
    assert found[0].score == 1.0 and found[1].score == pytest.approx(0.6, abs=0.02)
    left, right = (one.mask for one in found)
    assert not (left & right).any() and left[:, 44:].sum() == 0 and right[:, :36].sum() == 0
    assert left[10:, :34].all() and right[10:, 46:].all() and not left[:3].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.integers(0, 99), st.floats(0.1, 0.9))
def test_each_pixel_has_the_strongest_channel_or_none(count: int, seed: int, threshold: float) -> None:
    walked = torch.rand(count, 3, 5, generator=torch.Generator().manual_seed(seed))
    result = instances.contest(walked, (11, 18), threshold)
    full = torch.nn.functional.interpolate(walked[None], scale_factor=4, mode="bilinear")[0, :, :11, :18] if count else walked
    planes = torch.cat([torch.full((1, 11, 18), threshold), full / full.max() if count else torch.zeros(0, 11, 18)])
    assert torch.equal(result.owner.long(), planes.argmax(0))
    found = instances.instances(result, list(range(count)), least=4)
    assert all(one.mask.sum() >= 4 and threshold < one.score <= 1 for one in found)
    assert np.stack([np.zeros((11, 18), bool), *(one.mask for one in found)]).sum(0).max() <= 1


def test_pieces_are_instances_and_fragments_are_none() -> None:
    owner = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1], [2, 0, 0, 1]], dtype=torch.int32)
    share = torch.tensor([[0.5, 0.7, 0, 0.4], [0, 0, 0, 0.9], [1.0, 0, 0, 0.8]])
    found = instances.instances(instances.Contest(owner, share), [3, 1, 7], least=2)
    assert [(one.label, one.mask.sum(), one.score) for one in found] == [(3, 3, pytest.approx(0.9)), (3, 2, pytest.approx(0.7))]
    means = instances.instances(instances.Contest(owner, share), [3, 1, 7], least=1, rule="mean")
    assert [(one.label, one.score) for one in means] == [(1, 1), (3, pytest.approx(0.7)), (3, pytest.approx(0.6))]
