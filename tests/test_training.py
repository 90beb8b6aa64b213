"""The training loop with the real seed network: the same bits after a kill, faults in words, no true mask read."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, settings, wait_for
from test_stage import Silent
from torch import Tensor, nn

from benchmarks.children import fork, wait
from stages.core import curves, finite, interrupt, loading, stage, training
from stages.core.errors import StageError
from stages.core.runtime import Config as RuntimeConfig
from stages.core.runtime import Runtime
from stages.data.dataset import Config, open_dataset
from stages.data.transforms import LabelledImages


def test_poly_decays_to_zero_or_to_its_floor():
    factor = training.poly(10, 0.9)
    assert factor(0) == 1 and factor(5) == pytest.approx(0.5**0.9) and factor(9) == pytest.approx(0.1**0.9)
    floored = training.poly(10, 0.9, 0.77)
    assert floored(0) == 1 and floored(10) == pytest.approx(0.77) and floored(5) > 0.77


def test_generators_depend_on_every_part_and_nothing_else():
    draws = {tuple(torch.rand(2, generator=loading.seeded(*parts)).tolist()) for parts in ((0, 1), (1, 0), (0, 1, 0), (0,))}
    assert len(draws) == 4
    torch.manual_seed(123)
    assert tuple(torch.rand(2, generator=loading.seeded(0, 1)).tolist()) in draws


class Numbers:
    """Views that are their own keys."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return torch.tensor(key)


def test_batches_of_an_epoch_hold_every_item_once():
    rows = list(loading.batches(Numbers(), batch=5, steps=4, start=0, seed=0, workers=0))
    for epoch in (0, 1):
        part = torch.cat(rows[2 * epoch : 2 * epoch + 2])
        assert part[:, 0].tolist() == [epoch] * 10 and sorted(part[:, 1].tolist()) == list(range(10))
    assert rows[0][:, 1].tolist() != rows[2][:, 1].tolist()


def test_batches_do_not_depend_on_where_one_starts_or_who_reads():
    whole = list(loading.batches(Numbers(), batch=4, steps=7, start=0, seed=3, workers=0))
    late = list(loading.batches(Numbers(), batch=4, steps=7, start=3, seed=3, workers=2))
    assert len(whole) == 7 and len(late) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], late, strict=True))
    assert list(loading.batches(Numbers(), batch=4, steps=7, start=7, seed=3, workers=2)) == []


def test_a_set_smaller_than_a_batch_is_one_batch():
    assert loading.steps_per_epoch(10, 16) == 1
    assert len(next(iter(loading.batches(Numbers(), batch=16, steps=1, start=0, seed=0, workers=0)))) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_from_any_process(devkit: Path, workers: int):
    data = open_dataset(Config(root=str(devkit), train="train"), devkit)
    spoilt = data.split("train")[3].image
    spoilt.write_bytes(spoilt.read_bytes()[:300])
    views = LabelledImages(data.split("train"), 5, side=64, crop=48, seed=0)
    with pytest.raises(StageError, match=f"Cannot read image {spoilt}"):
        list(loading.batches(views, batch=4, steps=2, start=0, seed=0, workers=workers))


def context(folder: Path) -> stage.Context:
    runtime = Runtime(RuntimeConfig(device="cpu", precision="32-true"))
    return stage.Context(folder, "train", None, {}, runtime, Silent(), logging.getLogger("test"))


class Numbered:
    """Batches that are the numbers of their steps, each of one image."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __call__(self, start: int) -> range:
        return range(start, self._steps)

    def names(self, step: int) -> list[str]:
        return [f"image_{step}"]


def fit(
    folder: Path, losses: list[float], spoil_at: int | None = None, rate: Callable[[int], float] = lambda step: 1.0
) -> nn.Linear:
    """Train a line for as many steps as LOSSES has factors; SPOIL_AT makes the gradient of that step infinite."""
    torch.manual_seed(0)
    net = nn.Linear(1, 1)

    def step(batch: Any, index: int) -> dict[str, Tensor]:
        value = (net(torch.ones(1, 1)) ** 2).sum() * losses[index]
        if index == spoil_at:
            value = value + (net.bias - net.bias.detach()).abs().sqrt().sum()  # value 0, gradient infinite
        return {"square": value, "total": value}

    plan = training.Plan(len(losses), rate, log_every=2)
    training.fit(net, torch.optim.SGD(net.parameters(), 0.1), plan, Numbered(len(losses)), step, context(folder))
    return net


def test_a_loss_that_is_not_finite_stops_the_training_at_once_and_its_images_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    told = r"Loss 'square' is not finite at step 3: training diverged on images image_2. Lower the learning rate"
    with pytest.raises(StageError, match=told):
        fit(tmp_path, [1.0, 1.0, math.nan, 1.0, 1.0, 1.0])
    assert torch.load(tmp_path / "train/state.pth", weights_only=True)["step"] == 2
    again = fit(tmp_path, [1.0] * 6)
    assert torch.equal(again.weight, fit(tmp_path / "whole", [1.0] * 6).weight)


def test_the_first_loss_that_was_not_finite_is_found_later():
    """As on a GPU, which is asked every few steps alone."""
    seen = finite.Finite()
    assert seen.first is None
    for step, (one, other) in enumerate([(1.0, 2.0), (1.0, math.inf), (math.nan, math.nan), (1.0, 1.0)]):
        seen.add(step, {"one": torch.tensor(one), "other": torch.tensor(other)})
    assert seen.first == finite.Found(1, "other")


def test_a_batch_is_named_by_its_images(devkit: Path):
    data = open_dataset(Config(root=str(devkit), train="train"), devkit)
    views = LabelledImages(data.split("train"), 5, side=64, crop=48, seed=0)
    order = loading.Order(views, batch=4, steps=4, seed=0, workers=0)
    names = [order.names(step) for step in range(4)]
    ids = sorted(sample.id for sample in data.split("train"))
    assert sorted(names[0] + names[1]) == sorted(names[2] + names[3]) == ids and names[0] != names[2]
    labels = {sample.id: sample.labels for sample in data.split("train")}
    rows = next(order(2))[1]
    assert [tuple(row.nonzero()[:, 0].tolist()) for row in rows] == [labels[name] for name in names[2]]


@pytest.mark.parametrize("stop", [2, 3])
def test_an_interrupt_waits_for_its_step_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int):
    asked = interrupt._Asked()
    monkeypatch.setattr(interrupt, "_Asked", asked)

    def rate(step: int) -> float:
        if step == stop:
            interrupt.handle(signal.SIGINT, None)  # in the midst of a step
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, [1.0] * 6, rate=rate)
    assert asked.value and not asked.hurried
    assert torch.load(tmp_path / "train/state.pth", weights_only=True)["step"] == stop + 1
    asked.value = False
    assert torch.equal(fit(tmp_path, [1.0] * 6).weight, fit(tmp_path / "whole", [1.0] * 6).weight)


def test_a_second_interrupt_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = interrupt._Asked()
    monkeypatch.setattr(interrupt, "_Asked", asked)

    def rate(step: int) -> float:
        for _ in range(2):
            interrupt.handle(signal.SIGINT, None)
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, [1.0] * 6, rate=rate)
    assert asked.hurried and not (tmp_path / "train/state.pth").exists()


def test_a_spoilt_network_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    with pytest.raises(StageError, match=r"Parameter '.*' is not finite at step 3: training diverged on images image_2"):
        fit(tmp_path, [1.0] * 6, spoil_at=2)
    state = torch.load(tmp_path / "train/state.pth", weights_only=True)
    assert state["step"] == 2 and all(bool(value.isfinite().all()) for value in state["net"].values())


def test_terms_that_never_differ_are_one_curve():
    rows = [
        {"step": 1, "lr_factor": 1.0, "x1": 2.0, "max": 2.0, "loss": 4.0},
        {"step": 2, "lr_factor": 0.5, "x1": 1.0, "max": 1.0},
    ]
    assert curves.distinct(rows) == {"x1 = max": ((1, 2.0), (2, 1.0)), "loss": ((1, 4.0),)}


def test_curves_hold_every_term_and_are_drawn(tmp_path: Path):
    fit(tmp_path, [1.0] * 5)
    rows = curves.read(tmp_path / "train")
    assert [row["step"] for row in rows] == [2, 4, 5] and set(rows[0]) == {"step", "lr_factor", "square", "total"}
    with (tmp_path / "train/curves.jsonl").open("a") as file:
        file.write('{"step": 6, "squ')
    assert curves.read(tmp_path / "train") == rows
    assert curves.plot(tmp_path / "train") == Path("curves.png") and (tmp_path / "train/curves.png").is_file()
    assert list((tmp_path / "train/tensorboard").iterdir())


def save_every_step() -> None:
    training.SAVE_SECONDS = 0.0


def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, bas: Command, config: Path):
    long = settings("seed_train.epochs=30", "seed_train.warmup_epochs=3")
    assert bas("seed", "train", str(config), "--run", "whole", *long, "-q").code == 0
    child = fork(tmp_path, "seed", "train", str(config), "--run", "killed", *long, prepare=save_every_step)
    wait_for(child, tmp_path / "killed/seed_train/state.pth")
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert not (tmp_path / "killed/seed_train/manifest.json").exists()
    kept = torch.load(tmp_path / "killed/seed_train/state.pth", weights_only=True)["step"]
    assert 0 < kept < 60
    status = bas("status", "--run", "killed", "--json").json["stages"][0]
    assert (status["state"], status["why"]) == ("partial", "interrupted; run again to go on")
    again = bas("seed", "train", str(config), "--run", "killed", *long)
    assert again.code == 0, again.err
    begins = [line for line in again.err.splitlines() if line.startswith("seed_train ")]
    assert begins[:2] == [
        "seed_train       starts again after an interruption",
        f"seed_train       goes on at {kept} of 60 (training)",
    ]
    assert f"goes on at {kept} of 60" in "".join(path.read_text() for path in (tmp_path / "killed/logs").iterdir())
    whole, killed = (json.loads((tmp_path / name / "seed_train/manifest.json").read_text()) for name in ("whole", "killed"))
    networks = [(tmp_path / name / "seed_train/network.safetensors").read_bytes() for name in ("whole", "killed")]
    assert networks[0] == networks[1]
    assert (whole["calls"], killed["calls"]) == (1, 2) and killed["seconds"] > 0
    assert whole["digest"] == killed["digest"] and whole["metrics"] == killed["metrics"]
    assert set(whole["metrics"]) == {f"train/loss/{name}" for name in ("mcls", "frg", "ac", "bas", "total")}


class Watch:
    """Names of the true masks that this process opens while it is on; hooks cannot be taken off again."""

    def __init__(self) -> None:
        self.on, self.opened = False, []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event == "open" and "SegmentationClass" in str(args[0]):
            self.opened.append(str(args[0]))


def test_training_opens_no_true_mask(bas: Command, config: Path):
    """Every file that the process opens is seen, so this holds for a superuser too, whom no permission stops."""
    watch = Watch()
    watch.on = True
    assert bas("seed", "train", str(config), "--run", "r", "-q").code == 0
    assert watch.opened == []
    assert bas("seed", "infer", str(config), "--run", "r", "-q").code == 0
    watch.on = False
    assert len(set(watch.opened)) == 8  # evaluation does read them: the watch works


def test_training_needs_no_folder_of_masks(bas: Command, config: Path, devkit: Path):
    (devkit / "SegmentationClass").rename(devkit / "elsewhere")
    (devkit / "SegmentationClass").mkdir(mode=0)
    assert bas("seed", "train", str(config), "--run", "r", "--data", str(devkit), "-q").code == 0
    inferred = bas("seed", "infer", "--run", "r", "--json")
    assert inferred.code == 0
    assert inferred.json["stages"][1]["state"] == "done" and inferred.json["stages"][1]["metrics"] == {}
