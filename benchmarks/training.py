"""Training steps: of the seed network against one that copies F2; of the segmentation network, and of loaders, on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.small_run import CLASSES, IMAGE, network, noise, photographs, runtime
from stages.core import loading
from stages.core.runtime import Runtime
from stages.data.transforms import LabelledImages
from stages.formulas import bas as formulas
from stages.nets.bas import BasNet

BATCH = 2
BF16_PEAK = 989e12  # multiplications and additions a second of an H200
SEGMENT_FLOP = 801e9  # of one 321² crop at three scales, forward and backward (DeepLabV2, ResNet101)
SEGMENT_BATCH, CROP = 10, 321

Background = Callable[[Tensor, Tensor], Tensor]


def copied(net: BasNet) -> Background:
    """Logits of the background through a copy of F2 that is made anew at every step."""

    def logits(features: Tensor, mask: Tensor) -> Tensor:
        return copy.deepcopy(net.evaluator)(features.detach() * (1 - mask)).mean(dim=(2, 3))

    return logits


class Step:
    """A step of Eq. 10 on one batch and one class an image, with its own network, optimizer and way to the background."""

    def __init__(self, run: Runtime, trunk: str, background: Callable[[BasNet], Background]) -> None:
        self._net = run.place(network(trunk)[0].train(), channels_last=True)
        self._background, self._run = background(self._net), run
        self._optimizer = torch.optim.SGD(self._net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Images (B,3,H,W), labels (B,C) of one class each → the total loss before the step."""
        chosen = labels.argmax(1)
        with self._run.fabric.autocast():
            maps = self._net(images)
            mask = maps.foreground.float()[range(len(images)), chosen][:, None]
            background = self._background(maps.features, mask).float()
        terms = formulas.losses(maps.class_maps.float(), mask, background, labels, chosen)
        loss = formulas.total(terms, formulas.Weights(0.2, 1.2, 1.0))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())


def product(net: BasNet) -> Background:
    """Logits of the background as seed_train has them."""
    return net.background_logits


def bas_step() -> Measured:
    """ResNet50, two images of 375 x 500: forward, backward and update, with equal losses in the first three steps."""
    run = runtime()
    images = run.place(noise(BATCH), channels_last=True)
    labels = run.place(torch.eye(CLASSES)[:BATCH])
    steps = [Step(run, "resnet50", background) for background in (copied, product)]
    losses = [[step(images, labels) for _ in range(3)] for step in steps]
    measure.require_equal(losses[0] == losses[1], f"losses {losses}")
    wait = torch.cuda.synchronize if run.device.type == "cuda" else lambda: None
    pair = measure.in_turns(lambda: steps[0](images, labels), lambda: steps[1](images, labels), wait=wait)
    return pair.against(1.05, {"image": IMAGE, "batch": BATCH, "trunk": "resnet50", "precision": run.precision})


def segment_step_gpu() -> Measured:
    """DeepLabV2 on ResNet101, ten crops at three scales: bfloat16 in channels-last order against float32."""
    wait = measure.cuda()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain = _segment_step("resnet101", SEGMENT_BATCH, CROP, "cuda", False, nullcontext())
    fast = _segment_step("resnet101", SEGMENT_BATCH, CROP, "cuda", True, torch.autocast("cuda", torch.bfloat16))
    pair = measure.in_turns(plain, fast, wait=wait)
    share = SEGMENT_FLOP * SEGMENT_BATCH / pair.seconds / BF16_PEAK
    sizes = {"crop": CROP, "batch": SEGMENT_BATCH, "scales": 3, "trunk": "resnet101"}
    extra = {"share_of_bf16_peak": share}
    return Measured(pair.ratio, pair.ratio >= 4 and share >= 0.25, pair.seconds, "s", pair.reference_seconds, sizes, extra)


def _segment_step(
    trunk: str, batch: int, crop: int, device: str, channels_last: bool, autocast: AbstractContextManager[Any]
) -> measure.Work:
    """A training step on random crops: the summed losses of all scales, backward, update."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from stages.nets.mmseg import network as segmentation

    names = ("background", *(str(index) for index in range(CLASSES)))
    spec = segmentation.Network(trunk, classes=names, channels_last=channels_last, crop=crop)
    net = segmentation.make(spec)
    net.to(device).train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    images = noise(batch, (crop, crop)).to(device)
    labels = torch.zeros(1, crop, crop, dtype=torch.long, device=device)
    labels[:, : crop // 2] = 1
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(batch)]

    def step() -> None:
        with autocast:
            losses = net.loss(images, samples)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return step


def loader_overlap() -> Measured:
    """An epoch of seed_train on 375 x 500 JPEGs, loaded meanwhile, beside one on a batch that lies on the GPU."""
    wait = measure.cuda()
    return overlap(Step(runtime(), "resnet50", product), runtime(), 640, 16, wait)


def overlap(step: Step, run: Runtime, images: int, batch: int, wait: measure.Work) -> Measured:
    """Throughput of an epoch of IMAGES images with the stage's own loader over that on one batch without loading."""
    steps = loading.steps_per_epoch(images, batch)
    with TemporaryDirectory() as folder:
        samples = photographs(Path(folder), images).split("train")
        views = LabelledImages(samples, CLASSES, 512, 448, 0)
        ready = run.place(noise(batch, (448, 448)), channels_last=True), run.place(torch.eye(CLASSES)[:batch])

        def loaded() -> Iterator[tuple[Tensor, Tensor]]:
            for rows, labels in loading.batches(views, batch, steps, 0, 0, run.workers):
                yield run.place(rows, channels_last=True), run.place(labels)

        pair = measure.in_turns(lambda: _epoch(step, islice(cycle([ready]), steps)), lambda: _epoch(step, loaded()), wait=wait)
    sizes = {"crop": 448, "batch": batch, "images": images, "workers": run.workers}
    return pair.against(0.9, sizes, images_a_second=steps * batch / pair.seconds)


def _epoch(step: Step, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    for images, labels in batches:
        step(images, labels)
