"""Outlines of label maps: their pixels come back, holes stay holes, and what touches still touches when it is simplified."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from stages.formulas import polygons

Mask = NDArray[np.uint8]
LABELS = (0, 0, 1, 2, 255)
masks = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from(LABELS)),
    arrays(np.uint8, (4, 5), elements=st.sampled_from(LABELS)).map(lambda m: np.kron(m, np.ones((3, 2), np.uint8))),
)


def painted(regions: list[polygons.Region], size: tuple[int, int]) -> Mask:
    """The regions as one polygon each, later over earlier."""
    mask = np.zeros(size, np.uint8)
    for region in regions:
        cut = polygons.rasterise([polygons.bridged(region.rings)], size)
        mask[cut.window][cut.inside] = region.label
    return mask


def discs(size: int = 96) -> Mask:
    """Two classes that touch along a line through a disc, with a hole across it, and a disc of void at the border."""
    y, x = np.mgrid[:size, :size] + 0.5
    mask = np.where((y - 48) ** 2 + (x - 48) ** 2 < 35**2, np.where(x + 0.5 * y < 70, 1, 2), 0)
    mask[(y - 50) ** 2 + (x - 45) ** 2 < 8**2] = 0
    mask[(y - 96) ** 2 + x**2 < 20**2] = 255
    return mask.astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_outlines_give_the_pixels_back(mask: Mask):
    regions = polygons.regions(mask, 0)
    np.testing.assert_array_equal(painted(regions, mask.shape), mask)
    for region in regions:
        outer, *holes = region.rings
        assert polygons.area(outer) > 0 and all(polygons.area(hole) < 0 for hole in holes)
        assert polygons.area(outer) + sum(map(polygons.area, holes)) == region.cut.inside.sum()
        assert polygons.area(polygons.bridged(region.rings)) == region.cut.inside.sum()


@settings(max_examples=60, deadline=None)
@given(masks, st.floats(0.3, 4))
def test_simplified_regions_keep_their_labels_and_are_all_there(mask: Mask, tolerance: float):
    regions = polygons.regions(mask, tolerance)
    whole = polygons.regions(mask, 0)
    assert [region.label for region in regions] == [region.label for region in whole]
    assert all(abs(polygons.area(region.rings[0])) > 0 for region in regions)
    assert sum(len(ring) for r in regions for ring in r.rings) <= sum(len(ring) for r in whole for ring in r.rings)


def test_a_pixel_is_the_square_from_its_corner():
    mask = np.zeros((4, 5), np.uint8)
    mask[2, 3] = 7
    (region,) = polygons.regions(mask, 0)
    assert region.label == 7 and region.cut[:2] == (2, 3)
    assert region.rings[0].tolist() == [[3, 2], [4, 2], [4, 3], [3, 3]]


def test_a_ring_has_a_hole_and_one_bridge():
    mask = np.ones((5, 5), np.uint8)
    mask[2, 2] = 0
    (region,) = polygons.regions(mask, 0)
    outer, hole = region.rings
    assert outer.tolist() == [[0, 0], [5, 0], [5, 5], [0, 5]]
    assert sorted(hole.tolist()) == [[2, 2], [2, 3], [3, 2], [3, 3]]
    bridged = polygons.bridged(region.rings)
    assert len(bridged) == 4 + 4 + 2
    np.testing.assert_array_equal(painted([region], mask.shape), mask)


def test_regions_that_touch_share_their_corners_when_simplified():
    """Along the line between the classes, away from its ends, no pixel is lost, and nowhere do the polygons overlap."""
    mask = discs()
    regions = polygons.regions(mask, 1.5)
    back = painted(regions, mask.shape)
    between = (mask[:, :-1] == 1) & (mask[:, 1:] == 2)
    assert between[20:76].sum() > 40
    assert (back[20:76, :-1][between[20:76]] > 0).all() and (back[20:76, 1:][between[20:76]] > 0).all()
    cover = sum(rasterised(region, mask.shape).astype(int) for region in regions)
    assert cover.max() == 1  # nowhere two


def rasterised(region: polygons.Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    whole, cut = np.zeros(size, bool), polygons.rasterise([polygons.bridged(region.rings)], size)
    whole[cut.window] = cut.inside
    return whole


@pytest.mark.parametrize(("tolerance", "corners", "changed"), [(0, 326, 0), (1, 90, 0.02), (3, 50, 0.05)])
def test_a_larger_tolerance_needs_fewer_corners(tolerance: float, corners: int, changed: float):
    mask = discs()
    regions = polygons.regions(mask, tolerance)
    assert sum(len(ring) for region in regions for ring in region.rings) < corners
    assert (painted(regions, mask.shape) != mask).mean() <= changed


@pytest.mark.parametrize("seed", range(5))
def test_no_old_corner_is_further_than_the_tolerance(seed: int):
    mask = (np.random.default_rng(seed).random((6, 6)) < 0.6).astype(np.uint8).repeat(5, 0).repeat(5, 1)
    whole, simple = polygons.regions(mask, 0), polygons.regions(mask, 2.5)
    for old, new in zip(whole, simple, strict=True):
        for corner in old.rings[0]:
            closed = np.vstack([new.rings[0], new.rings[0][:1]])
            nearest = min(polygons._distances(corner[None], a, b)[0] for a, b in pairwise(closed))
            assert nearest <= 2.5


def test_centres_decide():
    """A triangle over the pixels below the diagonal: centres on its slope belong to the right of it, once and not twice."""
    triangle = np.array([[0, 0], [4, 4], [0, 4]], float)
    other = np.array([[0, 0], [4, 0], [4, 4]], float)
    lower, upper = (polygons.rasterise([ring], (4, 4)) for ring in (triangle, other))
    total = np.zeros((4, 4), int)
    for cut in (lower, upper):
        total[cut.window] += cut.inside
    assert (total == 1).all()
    np.testing.assert_array_equal(lower.inside & ~np.eye(4, dtype=bool), np.tri(4, k=-1, dtype=bool))


def test_what_lies_outside_is_cut_off():
    square = np.array([[-3, -2], [2, -2], [2, 1], [-3, 1]], float)
    cut = polygons.rasterise([square], (5, 5))
    assert (cut.top, cut.left) == (0, 0) and cut.inside.tolist() == [[True, True]]
    assert polygons.rasterise([square + 20], (5, 5)).inside.size == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 1e7])
def test_corners_that_are_no_places_are_refused(value: float):
    with pytest.raises(ValueError, match="no places"):
        polygons.rasterise([np.array([[0, 0], [value, 1], [2, 2]])], (4, 4))


def test_a_polygon_of_absurd_length_is_refused():
    zigzag = np.tile(np.array([[0, 0], [1, 3000]], float), (4000, 1))
    with pytest.raises(ValueError, match="8000 corners"):
        polygons.rasterise([zigzag], (3000, 10))
