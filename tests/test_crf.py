"""Dense CRF: what it does to a clean edge, one lattice against two, and how two results make a label."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stages.core.errors import StageError
from stages.formulas import crf


def test_labels_agree_with_a_clear_image_edge() -> None:
    pytest.importorskip("pydensecrf")
    image = np.zeros((20, 24, 3), np.uint8)
    image[:, 12:] = 220
    labels = np.zeros((20, 24), np.int64)
    labels[:, 14:] = 1  # two columns too few
    refined = crf.refine_labels(image, [labels], 2)[0]
    assert refined.shape == (2, 20, 24)
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(refined.argmax(0), image[..., 0] > 0)


def test_one_lattice_gives_the_bits_of_two_runs() -> None:
    pytest.importorskip("pydensecrf")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (18, 25, 3), dtype=np.uint8)
    maps = [rng.integers(0, 3, (18, 25)) for _ in range(2)]
    shared = crf.refine_labels(image, maps, 3)
    apart = [crf.refine_labels(image, [labels], 3)[0] for labels in maps]
    for one, other in zip(shared, apart, strict=True):
        np.testing.assert_array_equal(one, other)


def test_probabilities_of_a_plain_image_are_smoothed() -> None:
    pytest.importorskip("pydensecrf")
    probabilities = np.full((2, 15, 15), 0.2, np.float32)
    probabilities[0] = 0.8
    probabilities[:, 7, 7] = 0.45, 0.55  # one doubtful pixel among sure ones
    refined = crf.refine_probabilities(np.full((15, 15, 3), 90, np.uint8), probabilities)
    assert refined.argmax(0).max() == 0


def test_labels_that_cannot_win_stay_out_of_the_field() -> None:
    pytest.importorskip("pydensecrf")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (18, 25, 3), dtype=np.uint8)
    probabilities = rng.dirichlet((1, 1, 1), (18, 25)).transpose(2, 0, 1).astype(np.float32)
    padded = np.concatenate([probabilities[:2], np.full((2, 18, 25), 1e-5, np.float32), probabilities[2:]])
    refined = crf.refine_probabilities(image, padded, least=4e-5)
    np.testing.assert_array_equal(refined[[0, 1, 4]], crf.refine_probabilities(image, probabilities))
    assert not refined[2:4].any()
    np.testing.assert_array_equal(refined.argmax(0), crf.refine_probabilities(image, padded).argmax(0))
    unsure = np.full((200, 4, 4), 1 / 200, np.float32)  # none as likely as LEAST: the likeliest stay
    assert crf.refine_probabilities(image[:4, :4], unsure, least=0.01).sum() == pytest.approx(16, abs=1e-3)


def test_combination_of_two_results() -> None:
    fg = np.array([[1, 2, 0, 0]])
    bg = np.array([[1, 0, 1, 0]])
    assert crf.combine(fg, bg, [4, 11]).tolist() == [[5, 12, 255, 0]]


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)  # python's own way to say: not importable
    with pytest.raises(StageError, match="pip install pydensecrf2"):
        crf.refine_probabilities(np.zeros((4, 4, 3), np.uint8), np.full((2, 4, 4), 0.5, np.float32))
