"""The generated dataset: its files, and that it is not easy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from stages.data import demo, scenes


def test_devkit_layout_is_written(tmp_path):
    demo.generate(tmp_path, train=5, val=2, size=80, seed=3)
    train = (tmp_path / "ImageSets/Segmentation/train.txt").read_text().split()
    val = (tmp_path / "ImageSets/Segmentation/val.txt").read_text().split()
    assert (len(train), len(val), len({*train, *val})) == (5, 2, 7)
    assert (tmp_path / "classes.txt").read_text().split() == list(demo.CLASSES)
    labels = dict(line.split(" ", 1) for line in (tmp_path / "image_labels.txt").read_text().splitlines())
    for name in train + val:
        mask = Image.open(tmp_path / "SegmentationClass" / f"{name}.png")
        assert (mask.mode, mask.size) == ("P", (80, 80))
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        present = {demo.CLASSES[k] for k in np.unique(np.array(mask)) if k}
        assert present == set(labels[name].split()) and 1 <= len(present) <= 3
        instances = np.array(Image.open(tmp_path / "SegmentationObject" / f"{name}.png"))
        assert np.array_equal(instances > 0, np.array(mask) > 0)
        assert Image.open(tmp_path / "JPEGImages" / f"{name}.png").mode == "RGB"


def test_every_instance_is_of_one_class():
    for index in range(20):
        _, classes, instances = scenes.scene(80, 0, index)
        for number in np.unique(instances[instances > 0]):
            assert len(np.unique(classes[instances == number])) == 1


def test_same_seed_same_pictures_and_other_seed_others(tmp_path):
    demo.generate(tmp_path / "a", train=2, val=1, size=64, seed=1)
    demo.generate(tmp_path / "b", train=3, val=3, size=64, seed=1)
    demo.generate(tmp_path / "c", train=2, val=1, size=64, seed=2)
    first, second, other = ((tmp_path / d / "JPEGImages/demo_00001.png").read_bytes() for d in "abc")
    assert first == second
    assert first != other


def test_an_interrupted_generation_goes_on_where_it_stopped(tmp_path):
    demo.generate(tmp_path, train=4, val=1, size=64, seed=0)
    kept, lost = (tmp_path / f"JPEGImages/demo_0000{k}.png" for k in (1, 4))
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    (tmp_path / "generated.txt").unlink()
    lost.unlink()
    demo.generate(tmp_path, train=4, val=1, size=64, seed=0)
    assert kept.stat().st_mtime_ns == stamp
    assert lost.read_bytes() == content
    lost.unlink()
    demo.generate(tmp_path, train=4, val=1, size=64, seed=0)
    assert not lost.exists()  # the marker says that all is there: nothing is looked at again


def test_another_recipe_writes_the_pictures_anew(tmp_path):
    demo.generate(tmp_path, train=1, val=1, size=64, seed=0)
    before = (tmp_path / "JPEGImages/demo_00000.png").read_bytes()
    demo.generate(tmp_path, train=1, val=1, size=64, seed=5)
    assert (tmp_path / "JPEGImages/demo_00000.png").read_bytes() != before


def test_herds_are_of_one_class_and_overlap_and_other_scenes_stay_as_they_are(tmp_path):
    shared, joined = 0, 0
    for index in range(60):
        _, classes, instances = scenes.scene(80, 0, index, herds=True)
        numbers = [number for number in np.unique(instances) if number]
        kinds = [np.unique(classes[instances == number]).item() for number in numbers]
        for kind in {kind for kind in kinds if kinds.count(kind) > 1}:
            shared += 1
            joined += ndimage.label(classes == kind)[1] < kinds.count(kind)
    assert shared > 20 and joined > shared / 2  # so that connected components of a class are not yet its animals
    demo.generate(tmp_path / "a", train=1, val=1, size=64)
    demo.generate(tmp_path / "b", train=1, val=1, size=64, herds=True)
    plain, herd = (Image.open(tmp_path / d / "JPEGImages/demo_00001.png") for d in "ab")
    assert np.array_equal(np.array(plain), scenes.scene(64, 0, 1)[0])
    assert np.array_equal(np.array(herd), scenes.scene(64, 0, 1, herds=True)[0])


@pytest.fixture
def one_thread():
    """One thread and a fixed seed, and what was there before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_a_supervised_nine_pixel_classifier_stays_below_50_miou(one_thread):
    """Two 5x5 convolutions see 9 x 9 pixels. Every training picture is new, so what is measured is not overfitting."""
    net = nine_pixel_classifier()
    losses = train(net, pictures=500)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])  # it did learn
    assert 30 < mean_iou(net, range(50_000, 50_100)) <= 50


def nine_pixel_classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, padding=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 5, padding=2), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, len(demo.CLASSES), 1),
    )  # fmt: skip


def train(net: nn.Module, pictures: int, batch: int = 4) -> list[float]:
    """One pass over `pictures` fully labelled scenes, Adam and a one-cycle schedule; the loss of each step."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=pictures // batch)
    losses = []
    for start in range(0, pictures - batch + 1, batch):
        images, classes = labelled(range(start, start + batch))
        loss = nn.functional.cross_entropy(net(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def labelled(indices: range) -> tuple[Tensor, Tensor]:
    """Images (B,3,80,80) about zero and class ids (B,80,80)."""
    made = [scenes.scene(80, 0, index) for index in indices]
    images = torch.from_numpy(np.stack([image for image, _, _ in made])).permute(0, 3, 1, 2).float() / 128 - 1
    return images, torch.from_numpy(np.stack([classes for _, classes, _ in made])).long()


def mean_iou(net: nn.Module, indices: range) -> float:
    """mIoU in percent over scenes that the network has not seen."""
    count = len(demo.CLASSES)
    net.eval()
    confusion = np.zeros((count, count))
    for start in range(indices.start, indices.stop, 10):
        images, classes = labelled(range(start, start + 10))
        with torch.no_grad():
            predicted = net(images).argmax(1)
        confusion += np.bincount((classes * count + predicted).numpy().ravel(), minlength=count**2).reshape(count, count)
    hits = confusion.diagonal()
    return float(100 * (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())
