"""Learning from noisy masks: pixels left out, images seen more often; by values, and in the stage that learns."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Counter, random_seed_network, stage_context
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import segment_train
from stages.actions import configure
from stages.actions.run import Run
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.core.stage import Context
from stages.data import maskfiles
from stages.data.images import read_mask, write_grey, write_mask
from stages.formulas import noise
from stages.nets.mmseg import learn, pairs, runner
from stages.nets.mmseg.data import Material, StepSampler

TRAIN = segment_train.Config(
    backbone="tiny", weights="none", steps=6, batch=4, crop=65, crop_scales=(1.0,), scales=(1.0,), lr=1e-3
)
ROWS = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)


def test_the_least_confident_share_of_each_label_is_void() -> None:
    labels = np.array([[0, 0, 0, 0], [1, 1, 1, 255]], np.uint8)
    limits = noise.least(noise.counts(labels, ROWS), 0.5)
    assert (limits[0], limits[1]) == (
        2,
        5,
    )  # of background 0 and 1 go; of three pixels of class 1 one goes, two would be more than half
    assert limits[2] == 0  # no pixel has it
    assert noise.without(labels, ROWS, limits).tolist() == [[255, 255, 0, 0], [255, 1, 1, 255]]


def test_pixels_that_are_equally_sure_stay_together() -> None:
    labels, sure = np.zeros((1, 4), np.uint8), np.array([[7, 7, 7, 9]], np.uint8)
    assert noise.without(labels, sure, noise.least(noise.counts(labels, sure), 0.5)).tolist() == [[0, 0, 0, 0]]
    assert noise.without(labels, sure, noise.least(noise.counts(labels, sure), 0.75)).tolist() == [[255, 255, 255, 0]]


@settings(max_examples=40)
@given(st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_no_label_loses_more_than_the_share_and_none_goes_beyond_what_is_less_sure(share: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, sure = draw.integers(0, 3, (9, 11)).astype(np.uint8), draw.integers(0, 256, (9, 11)).astype(np.uint8)
    found = noise.without(labels, sure, noise.least(noise.counts(labels, sure), share))
    for label in range(3):
        own, gone = labels == label, (labels == label) & (found == 255)
        assert gone.sum() <= share * own.sum() + 1e-9
        assert not gone.any() or not (own & ~gone).any() or sure[gone].max() < sure[own & ~gone].min()
    assert (found[found != 255] == labels[found != 255]).all()


def test_pixels_of_two_opinions_are_void() -> None:
    labels, others = np.array([[0, 1, 2, 255]], np.uint8), np.array([[0, 0, 2, 2]], np.uint8)
    assert noise.agreed(labels, others).tolist() == [[0, 255, 2, 255]]


def test_counts_add_up_over_images() -> None:
    labels = np.array([[0, 1], [1, 1]], np.uint8)
    found = noise.counts(labels, np.array([[9, 9], [9, 200]], np.uint8))
    assert found.shape == (256, 256) and found.sum() == 4
    assert (found[0, 9], found[1, 9], found[1, 200]) == (1, 2, 1)


def test_confidence_on_the_grid_and_back() -> None:
    pixels = torch.zeros(6, 8)
    pixels[:4, :4], pixels[4:, 4:] = 1.0, 0.5  # the lower cells hold two rows of pixels
    grid = noise.on_grid(pixels)
    assert grid.tolist() == [[255, 0], [0, 128]]
    back = noise.at_pixels(np.full((2, 2), 90, np.uint8), (6, 7))
    assert back.shape == (6, 7) and (back == 90).all()


def test_repeat_factors_by_hand() -> None:
    present = [(0,), (0,), (0, 1), (0,), (), (2, 0), (0,), (0,), (0, 2), (0,)]  # shares .9, .1 and .2
    assert noise.class_factors(present, 0.4) == pytest.approx({0: 1.0, 1: 2.0, 2: 2**0.5})
    assert noise.repeat_factors(present, 0.4) == pytest.approx([1, 1, 2, 1, 1, 2**0.5, 1, 1, 2**0.5, 1])
    assert noise.repeat_factors(present, 0.05) == [1.0] * 10


def test_an_image_is_drawn_as_often_as_expected_rounded_down_or_up() -> None:
    weights = torch.tensor([1.0, 1.0, 2.0, 4.0])  # of 4 draws: .5, .5, 1, 2
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([torch.bincount(noise.drawn(weights, generator), minlength=4) for _ in range(400)])
    assert (found.sum(1) == 4).all() and (found[:, 2] == 1).all() and (found[:, 3] == 2).all()
    assert found[:, 0].max() == 1 and found[:, 0].double().mean() == pytest.approx(0.5, abs=0.08)
    assert torch.equal(noise.drawn(torch.ones(5), generator).sort().values, torch.arange(5))


def test_the_sampler_sees_rare_images_more_often_each_time_otherwise() -> None:
    weights = [1.0, 1.0, 1.0, 3.0]
    keys = [key for step in StepSampler(4, 4, 0, 300, seed=2, weights=weights) for key in step]
    assert np.mean([key[1] == 3 for key in keys]) == pytest.approx(0.5, abs=0.001)
    assert len(set(keys)) == len(keys)  # another key, another crop
    assert (0, 3) in keys and (0, 3, 1) in keys
    late = list(StepSampler(4, 4, 290, 300, seed=2, weights=weights))
    assert [key for step in late for key in step] == keys[-40:]


def context(folder: Path, reporter: Any = None) -> Context:
    return stage_context(folder, "segment_train", {"eval": SimpleNamespace(subset=None)}, val=1, reporter=reporter)


@pytest.fixture
def chosen(tmp_path: Path) -> Context:
    """Six chosen masks, five of them refined and unsure of their upper half, the first corrected by hand."""
    ctx = context(tmp_path)
    random_seed_network(tmp_path)
    choice, refined = ctx.input("mask_choice"), ctx.input("irn_masks")
    for folder in (choice / "masks", refined / "confidence"):
        folder.mkdir(parents=True)
    sure = np.full((20, 20), 200, np.uint8)
    sure[:10] = 20
    samples = ctx.dataset.split("train")
    for sample in samples:
        write_mask(maskfiles.mask_path(choice, sample.id), np.ones((80, 80), np.uint8))
        write_grey(maskfiles.confidence_path(refined, sample.id), sure, {})
    write_json(choice / maskfiles.CHOICE, {s.id: "refined" if i else "corrections/monday" for i, s in enumerate(samples)})
    return ctx


def learnt(ctx: Context, monkeypatch: pytest.MonkeyPatch, config: segment_train.Config) -> list[np.ndarray[Any, Any]]:
    """The masks that the stage hands to the training, which is not begun."""
    seen: list[np.ndarray[Any, Any]] = []

    def look(settings: runner.Settings, material: Material, *_: Any) -> None:
        seen.extend(material.read(item)[1] for item in range(material.count))
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "train", look)
    with pytest.raises(KeyboardInterrupt):
        segment_train.run(config, ctx)
    return seen


def test_the_unsure_half_is_void_but_never_where_a_person_drew(chosen: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = learnt(chosen, monkeypatch, replace(TRAIN, void=0.5))
    assert (first == 1).all() and len(others) == 5
    for mask in others:
        assert (mask[:36] == 255).all() and (mask[44:] == 1).all() and (mask == 255).mean() <= 0.5
    assert all((mask == 1).all() for mask in learnt(chosen, monkeypatch, TRAIN))


def test_masks_that_do_not_say_how_sure_they_are_cannot_lose_their_unsure_pixels(chosen: Context) -> None:
    write_json(chosen.input("mask_choice") / maskfiles.CHOICE, {s.id: "seed" for s in chosen.dataset.split("train")})
    with pytest.raises(StageError, match=r"none of the 6 says how sure.*segment_train\.void=0"):
        segment_train.run(replace(TRAIN, void=0.25), chosen)


@pytest.mark.parametrize("other", ["refine.keep=seeds", "segment_train.supervision=full"])
def test_that_is_said_before_anything_is_trained_where_settings_tell(tmp_path: Path, other: str) -> None:
    run = Run(tmp_path / "run", configure.resolve("demo", ["segment_train.void=0.25", other]))
    with pytest.raises(StageError, match=rf"{other.partition('=')[0]} is .*only refined masks say"):
        run.check(["mask_choice", "segment_train"])
    run.check(["mask_choice"])


def test_void_needs_the_stage_that_knows(chosen: Context) -> None:
    assert segment_train.more_needs(TRAIN) == ()
    assert segment_train.more_needs(replace(TRAIN, void=0.1)) == ("irn_masks",)
    assert segment_train.more_needs(replace(TRAIN, void=0.1, supervision="full")) == ()


def test_an_interrupted_training_with_both_ends_with_the_same_bits(
    chosen: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TRAIN, void=0.4, repeat_below=1.0)
    usual = learn.settings
    monkeypatch.setattr(learn, "settings", lambda recipe, ctx: replace(usual(recipe, ctx), save_seconds=0.0, log_every=2))
    folder = shutil.copytree(chosen.run_dir, tmp_path / "broken")
    made = segment_train.run(config, chosen)
    assert made.notes["void_below"]["zebra"] > 0.07 and len(made.notes["repeated"]) == 5
    with pytest.raises(KeyboardInterrupt):
        segment_train.run(config, context(folder, Counter(stop_after=7)))  # five masks are looked at, then two advances
    segment_train.run(config, context(folder))
    nets = [torch.load(path / "segment_train" / "network.pth", weights_only=True) for path in (chosen.run_dir, folder)]
    assert all(torch.equal(nets[0]["state_dict"][key], value) for key, value in nets[1]["state_dict"].items())


def test_a_pair_without_limits_is_the_mask_as_it_is_but_for_a_second_opinion(chosen: Context) -> None:
    sample, other = chosen.dataset.split("train")[1:3]
    path, second = (maskfiles.mask_path(chosen.input("mask_choice"), image.id) for image in (sample, other))
    sure = maskfiles.confidence_path(chosen.input("irn_masks"), sample.id)
    assert np.array_equal(pairs.Pair(sample, path, sure).read()[1], read_mask(path))
    mask = np.ones((80, 80), np.uint8)
    mask[:30] = 0
    write_mask(second, mask)
    assert ((pairs.Pair(sample, path, sure, second).read()[1] == 255) == (mask == 0)).all()
