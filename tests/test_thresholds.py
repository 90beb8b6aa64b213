"""Image-specific thresholds against brute force, and what is judged how often."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.formulas import thresholds


class Judge:
    """A stand-in for the network: the background keeps what of each class's object the mask leaves out."""

    def __init__(self, *activations: Tensor) -> None:
        self.activation, self.rows = torch.stack(activations), 0  # (C,h,w)

    @property
    def logits(self) -> Tensor:
        return self.activation.sum(dim=(1, 2))

    def __call__(self, masks: Tensor) -> Tensor:
        self.rows += len(masks)
        return ((1 - masks) * self.activation).sum(dim=(2, 3))


def search(judge: Judge, maps: Tensor, classes: tuple[int, ...] = (0,), count: int = 20, at_once: int = 2) -> list[float | None]:
    """Search maps (M,H,W) on the grid of the judge's activations."""
    size = (judge.activation.shape[1], judge.activation.shape[2])
    return thresholds.search(maps, torch.tensor(classes, dtype=torch.long), count, size, judge.logits, judge, at_once)


def test_candidates_lie_in_the_middle_of_equal_steps():
    torch.testing.assert_close(thresholds.grid(4), torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_masks_are_cut_from_the_resized_map():
    maps = torch.tensor([[[0.0, 0.0, 0.9, 0.9], [0.0, 0.0, 0.9, 0.9]]])
    masks = thresholds.masks_at(maps, torch.tensor([0.5, 0.95]), (1, 2))
    assert masks.tolist() == [[[[False, True]], [[False, False]]]]


def test_identical_masks_are_judged_once():
    judge = Judge(torch.tensor([[1.0, 3.0]]))  # three different masks in twenty: both, one, none
    search(judge, torch.tensor([[[0.1, 0.8]]]), at_once=100)
    assert judge.rows == 3


def test_maps_of_several_sources_and_classes_share_their_masks():
    judge = Judge(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]]))
    score_map = torch.tensor([[0.1, 0.8]])
    search(judge, torch.stack([score_map, score_map.sqrt(), score_map]), classes=(0, 0, 1), at_once=100)
    assert judge.rows == 3


def test_a_search_by_hand():
    """Masks: both pixels (area 1, S_b 0), one (area .5, S_b 1 of 4 = .25), none (area 0, ratio 1): the second wins.

    From the smallest up, .75 rules the largest out before it is judged.
    """
    judge, score_map = Judge(torch.tensor([[1.0, 3.0]])), torch.tensor([[[0.1, 0.8]]])
    masks = thresholds.masks_at(score_map, torch.tensor([0.05, 0.5, 0.9]), (1, 2))
    everything = thresholds.scores(masks, torch.tensor([0]), judge.logits, judge, at_once=3)
    torch.testing.assert_close(everything, torch.tensor([[1.0, 0.75, 1.0]]))
    judge.rows = 0
    needed = thresholds.scores(masks, torch.tensor([0]), judge.logits, judge, at_once=1)
    torch.testing.assert_close(needed, torch.tensor([[torch.inf, 0.75, 1.0]]))
    assert judge.rows == 2
    # the middle of .125, .175, … .775, which all give that mask
    assert search(judge, score_map) == [pytest.approx(0.475)]


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_the_threshold_is_that_of_the_exhaustive_grid(seed: int, at_once: int):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(6, 9, 7, generator=generator)
    maps[4:] **= 4  # small masks too
    judge = Judge(torch.rand(5, 4, generator=generator), torch.rand(5, 4, generator=generator) ** 3)
    classes = (0, 1, 0, 1, 0, 1)
    found = search(judge, maps, classes, at_once=at_once)
    assert found == [exhaustive(score_map, judge, index) for score_map, index in zip(maps, classes, strict=True)]


def exhaustive(score_map: Tensor, judge: Judge, index: int) -> float:
    """Every one of 20 masks judged by itself; of equal scores the middle one."""
    small = nnf.interpolate(score_map[None, None], (5, 4), mode="bilinear", align_corners=False)
    score, values = judge.logits[index], []
    for value in thresholds.grid(20):
        mask = (small > value).float()
        values.append(judge(mask)[0, index] / (score + 1e-8) + mask.mean())
    best = [place for place, value in enumerate(values) if value == min(values)]
    return float(thresholds.grid(20)[best[len(best) // 2]])


def test_nothing_is_judged_where_the_network_sees_no_object():
    judge = Judge(torch.zeros(2, 2), -torch.ones(2, 2), torch.ones(2, 2))
    found = search(judge, torch.rand(3, 4, 4), classes=(0, 1, 0))
    assert found == [None, None, None] and judge.rows == 0
    assert None not in search(judge, torch.rand(1, 4, 4), classes=(2,))


def test_an_image_without_maps_has_no_thresholds():
    assert search(Judge(torch.ones(2, 2)), torch.zeros(0, 4, 4), classes=()) == []


def test_with_a_temperature_scores_that_hardly_differ_are_averaged():
    assert thresholds.pick(torch.tensor([1.0, 0.5, 0.5, 0.9])) == 0.625  # the later of two equal ones
    flat = thresholds.pick(torch.full((4,), 0.7), temperature=0.1)
    assert flat == pytest.approx(0.5)
    assert thresholds.pick(torch.tensor([1.0, 0.2, 1.0, 1.0]), temperature=0.01) == pytest.approx(0.375)
    weight = math.exp(-1)
    wanted = (0.125 + weight * 0.375) / (1 + weight)
    assert thresholds.pick(torch.tensor([0.2, 0.3, torch.inf, torch.inf]), temperature=0.1) == pytest.approx(wanted)
