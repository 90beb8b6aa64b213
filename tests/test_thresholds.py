"""Image-specific thresholds against brute force, and what is judged how often."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from stages.formulas import thresholds


class Judge:
    """A stand-in for the network: the background keeps what of the object the mask leaves out."""

    def __init__(self, activation: Tensor) -> None:
        self.activation, self.rows = activation, 0

    @property
    def score(self) -> Tensor:
        return self.activation.sum()

    def __call__(self, masks: Tensor) -> Tensor:
        self.rows += len(masks)
        return ((1 - masks[:, 0]) * self.activation).sum(dim=(1, 2))


def test_candidates_lie_in_the_middle_of_equal_steps():
    torch.testing.assert_close(thresholds.grid(4), torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_masks_are_cut_from_the_resized_map():
    score_map = torch.tensor([[0.0, 0.0, 0.9, 0.9], [0.0, 0.0, 0.9, 0.9]])
    masks = thresholds.masks_at(score_map, torch.tensor([0.5, 0.95]), (1, 2))
    assert masks.tolist() == [[[[0.0, 1.0]]], [[[0.0, 0.0]]]]


def test_identical_masks_are_judged_once():
    score_map = torch.tensor([[0.1, 0.8]])  # three different masks in twenty: both, one, none
    judge = Judge(torch.tensor([[1.0, 3.0]]))
    thresholds.search(score_map, 20, (1, 2), judge.score, judge)
    assert judge.rows == 3


def test_a_search_by_hand():
    """Masks: both pixels (area 1, S_b 0), one (area .5, S_b 1 of 4 = .25), none (area 0, ratio 1): the second wins."""
    judge = Judge(torch.tensor([[1.0, 3.0]]))
    masks = thresholds.masks_at(torch.tensor([[0.1, 0.8]]), torch.tensor([0.05, 0.5, 0.9]), (1, 2))
    torch.testing.assert_close(thresholds.scores(masks, judge.score, judge), torch.tensor([1.0, 0.75, 1.0]))
    value = thresholds.search(torch.tensor([[0.1, 0.8]]), 20, (1, 2), judge.score, judge)
    assert value == pytest.approx(0.475)  # the middle of .125, .175, … .775, which all give that mask


@pytest.mark.parametrize("seed", range(8))
def test_the_lowest_score_is_found_as_by_brute_force(seed: int):
    generator = torch.Generator().manual_seed(seed)
    score_map = torch.rand(9, 7, generator=generator)
    judge = Judge(torch.rand(5, 4, generator=generator))
    found = thresholds.search(score_map, 20, (5, 4), judge.score, judge)
    small = nnf.interpolate(score_map[None, None], (5, 4), mode="bilinear", align_corners=False)[0, 0]
    scored = {}
    for value in thresholds.grid(20).tolist():
        mask = (small > value).float()
        ratio = float(((1 - mask) * judge.activation).sum() / judge.score)
        scored[value] = ratio + float(mask.mean())
    assert found is not None
    assert scored[found] == pytest.approx(min(scored.values()), abs=1e-6)


@pytest.mark.parametrize("score", [0.0, -2.0])
def test_nothing_is_judged_where_the_network_sees_no_object(score: float):
    judge = Judge(torch.ones(2, 2))
    assert thresholds.search(torch.rand(4, 4), 20, (2, 2), torch.tensor(score), judge) is None
    assert judge.rows == 0
