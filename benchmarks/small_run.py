"""Networks with random weights, images of noise and small datasets that several benchmarks need."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stages.actions.configure import SHARED
from stages.core.config import validate
from stages.core.files import write_text
from stages.core.runtime import Config, Runtime
from stages.core.stage import Context
from stages.data import dataset
from stages.data.readers.voc import CLASSES as NAMES
from stages.nets import backbones, bas

IMAGE = (375, 500)
CLASSES = len(NAMES)


class Silent:
    """A reporter and its meter that show nothing."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Silent]:
        """Nothing is shown."""
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        """Nothing is shown."""


def runtime(**settings: Any) -> Runtime:
    """The runtime of a run without settings on this machine, but one thread of arithmetic."""
    return Runtime(Config(threads=1, **settings))


def network(trunk: str = "resnet50", seed: int = 0) -> tuple[bas.BasNet, backbones.Backbone]:
    """A BAS network with random weights that sees every class in every image: its classifier has no negative weight."""
    torch.manual_seed(seed)
    backbone = backbones.build(trunk)
    net = bas.assemble(backbone, CLASSES)
    with torch.no_grad():
        for parameter in net.classifier.parameters():
            parameter.abs_()  # on maps that went through a ReLU
    return net, backbone


def noise(count: int = 1, size: tuple[int, int] = IMAGE, seed: int = 0) -> Tensor:
    """Normalised images (B,3,H,W) of noise."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """An image (375,500,3) of coloured blocks with a photograph's noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (IMAGE[0] // 25, IMAGE[1] // 25, 3)).repeat(25, axis=0).repeat(25, axis=1)
    return (blocks + random.normal(0, 6, blocks.shape)).clip(0, 255).astype(np.uint8)


def devkit(folder: Path, lists: dict[str, Sequence[str]], image: Path) -> dataset.Dataset:
    """A dataset in the devkit's layout whose images are all links to the file IMAGE; each holds one class."""
    names = sorted({name for ids in lists.values() for name in ids})
    (folder / "JPEGImages").mkdir(parents=True)
    for name in names:
        (folder / "JPEGImages" / f"{name}{image.suffix}").hardlink_to(image)
    for name, ids in lists.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{i}\n" for i in ids))
    labels = [f"{name} {NAMES[index % CLASSES]}\n" for index, name in enumerate(names)]
    write_text(folder / "image_labels.txt", "".join(labels))
    return dataset.open_dataset(validate(dataset.Config, {"root": str(folder)}, "data"), folder)


def photographs(folder: Path, count: int) -> dataset.Dataset:
    """A dataset of COUNT images of 375 x 500, on every list."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture()).save(folder / "picture.jpg")
    ids = [f"image_{index:05d}" for index in range(count)]
    return devkit(folder / "devkit", {"train_aug": ids, "train": ids, "val": [f"val_{ids[0]}"]}, folder / "picture.jpg")


def context(stage: str, folder: Path, data: dataset.Dataset, run: Runtime) -> Context:
    """What the stage STAGE gets in the run folder FOLDER."""
    log = logging.getLogger("benchmarks")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return Context(folder, stage, data, {name: section() for name, section in SHARED.items()}, run, Silent(), log)
