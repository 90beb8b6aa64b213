"""The label-free signs of harm: by values a person can check, on two masks of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.data import comparison
from stages.data.comparison import Comparison, Proof
from stages.data.scoring import Scores
from stages.formulas import signs


def mask(*rows: str) -> np.ndarray:
    return np.array([[int(value) for value in row] for row in rows], dtype=np.uint8)


HALF, NOTHING, ALL = mask("11", "00"), mask("00", "00"), mask("11", "11")


def test_losses_are_eq_3_and_4_of_the_mask_as_foreground():
    """Features of 1 on 2 x 2 cells, class 0 sees all of them: hiding half leaves half of the activation."""
    features = torch.ones(1, 1, 2, 2)

    def judge(masks: torch.Tensor) -> torch.Tensor:
        kept = (features * (1 - masks)).mean((1, 2, 3))
        return torch.stack([8 * kept, -kept], 1)

    logits = judge(torch.zeros(1, 1, 2, 2))[0]
    found = signs.losses([HALF, NOTHING, ALL], [0], (2, 2), logits, judge)
    np.testing.assert_allclose(found, [[0.5 + 0.5], [1 + 0], [0 + 1]], atol=1e-6)
    both = signs.losses([HALF], [0, 1], (2, 2), logits, judge)
    assert both.shape == (1, 2) and np.isnan(both[0, 1])  # the network sees nothing of class 1: it cannot judge


def test_a_mask_on_a_finer_grid_is_averaged():
    shares = []

    def judge(masks: torch.Tensor) -> torch.Tensor:
        shares.extend(masks.flatten().tolist())
        return torch.ones(len(masks), 1)

    fine = mask("1100", "1000", "0000", "0000")
    found = signs.losses([fine], [0], (2, 2), torch.ones(1), judge)
    assert shares == [0.75, 0, 0, 0]
    assert found[0, 0] == pytest.approx(1 + 3 / 16)


def test_agreement_is_the_lower_iou_of_class_and_background():
    before, after = mask("1120", "0000"), mask("1220", "0000")
    np.testing.assert_allclose(signs.agreement(before, after, [0, 1, 2]), [1 / 2, 1 / 2, 0])
    assert signs.agreement(ALL, HALF, [0]) == 0 and signs.agreement(ALL, ALL, [0]) == 0  # no background is left to agree on
    large, after = mask("1111", "1110"), mask("1111", "1100")
    np.testing.assert_allclose(signs.agreement(large, after, [0]), [1 / 2])
    np.testing.assert_allclose(signs.areas(before, [0, 1, 2]), [2 / 8, 1 / 8, 0])


def test_what_the_signs_say():
    """Class 0: lower loss and as much agreement; class 1: unjudged, less agreement; class 2 has vanished."""
    loss = np.array([[0.9, np.nan, 0.5], [0.6, np.nan, 1.0]])
    agreement, area = np.array([[0.7, 0.8, 0.6], [0.7, 0.5, 0.0]]), np.array([[0.2, 0.2, 0.2], [0.3, 0.3, 0.0]])
    said = signs.preferences(loss, agreement, area)
    np.testing.assert_allclose(said["loss"], [0.3, 0, -0.5])
    np.testing.assert_allclose(said["agreement"], [0, -0.3, -0.6])
    np.testing.assert_allclose(said["vanished"], [0, 0, -1])
    np.testing.assert_allclose(signs.combined(said, {"loss": 1, "agreement": 0.5}), [0.3, -0.15, -0.8])


def test_swapping_the_masks_turns_every_sign():
    generator = np.random.default_rng(0)
    loss, agreement = generator.random((2, 2, 50))
    area = generator.random((2, 50)).round()
    there, back = signs.preferences(loss, agreement, area), signs.preferences(loss[::-1], agreement[::-1], area[::-1])
    for name, values in there.items():
        np.testing.assert_allclose(values, -back[name])


def test_a_class_taken_from_the_seed():
    seed, refined = mask("1120", "0003"), mask("0122", "3333")
    np.testing.assert_array_equal(signs.mixed(seed, refined, []), refined)
    np.testing.assert_array_equal(signs.mixed(seed, refined, [0, 1, 2]), seed)
    np.testing.assert_array_equal(signs.mixed(seed, refined, [0]), mask("1122", "3333"))
    np.testing.assert_array_equal(signs.mixed(seed, refined, [2]), mask("0122", "0003"))


def test_how_often_a_sign_is_right():
    said, gain = np.array([1, -1, 1, 0, 2.0]), np.array([0.3, -0.1, -0.1, 0.5, 0.0])
    assert signs.rightness(said, gain) == {"right": pytest.approx(2 / 3), "weighted": pytest.approx(0.8), "cases": 3}
    assert signs.rightness(np.zeros(2), np.ones(2)) == {"right": None, "weighted": None, "cases": 0}


def compared(image_classes: tuple[int, ...], better: str) -> Comparison:
    """A comparison in which every sign speaks for the refined mask or for the seed."""
    pair = np.array([[0.9], [0.4]]).repeat(len(image_classes), 1)
    loss, agreement = (pair, 1 - pair) if better == "refined" else (pair[::-1], 1 - pair[::-1])
    return Comparison(image_classes, loss, agreement, np.full((2, len(image_classes)), 0.25))


def test_comparisons_come_back_from_their_file(tmp_path):
    loss = np.array([[0.5, np.nan], [0.25, np.nan]])
    table = {"a": Comparison((3, 4), loss, np.ones((2, 2)), np.zeros((2, 2))), "b": compared((0,), "seed")}
    comparison.write(tmp_path / "signs.json", table)
    found = comparison.read(tmp_path / "signs.json")
    assert found is not None and list(found) == ["a", "b"] and found["a"].classes == (3, 4)
    np.testing.assert_array_equal(found["a"].loss, loss)
    assert found["b"].from_seed == (0,) and found["a"].from_seed == ()
    assert comparison.read(tmp_path / "absent.json") is None


def test_the_verdict_by_class_and_over_all():
    table = {"a": compared((0,), "refined"), "b": compared((0, 1), "seed"), "c": compared((0,), "refined")}
    assert comparison.by_class(table) == {0: pytest.approx(1 / 3), 1: -1}
    found = comparison.summary(table)
    assert found["train/signs/loss/seeds"] == pytest.approx(0.65) == found["train/signs/loss/masks"]
    assert found["train/signs/agreement/masks"] == 35 and found["train/signs/vanished/masks"] == 0
    assert found["train/signs/combined/masks look better"] == 50
    assert comparison.summary({}) == {} == comparison.by_class({})


def test_the_proof_on_true_masks():
    """The refined mask is right in the first image and wrong in the second, where every sign says so."""
    proof, scores = Proof(["cat"], {}), Scores()
    proof.add(compared((0,), "refined"), HALF, ALL, HALF)
    proof.add(compared((0,), "seed"), HALF, HALF, ALL)
    proof.enter(scores)
    assert scores.metrics["train/compared/better/mIoU"] == 100
    assert scores.metrics["train/compared/masks/mIoU"] == scores.metrics["train/compared/seeds/mIoU"] < 70
    for name in ("loss", "agreement", "combined"):
        assert scores.metrics[f"train/signs/{name}/right"] == scores.metrics[f"train/signs/{name}/weighted"] == 100
    assert "train/signs/vanished/right" not in scores.metrics and scores.metrics["train/signs/vanished/cases"] == 0
    nothing = Scores()
    Proof(["cat"], {}).enter(nothing)
    assert not nothing.metrics
