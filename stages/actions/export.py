"""A run's segmentation network as a file that runs without this project, written only if it agrees with the network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.files import write_atomic

if TYPE_CHECKING:
    from stages.actions.predict import Predictor
    from stages.actions.run import Run
    from stages.data.images import Array

FORMATS = ("onnx", "torchscript", "torch-export")
LEAST_IMAGES = 50  # that an export is compared on
SIZES = (1.0, 0.75, 1.25, 0.6, 1.5)  # of the photographs, in turn
AGREEMENT = 0.999  # share of pixels that must get the same class


def export(run: Run, predictor: Predictor, format: str, target: Path, images: int, reporter: contract.Reporter) -> dict[str, Any]:
    """Write the network to TARGET in FORMAT, one of FORMATS, and compare both on IMAGES photographs of several sizes.

    Returns the largest difference of logits, the share of pixels with the same class, images and sizes. Raises StageError,
    and leaves nothing, where less than AGREEMENT of the pixels get the same class.
    """
    from stages.nets.mmseg import portable

    if images < LEAST_IMAGES:
        raise StageError(f"Cannot compare on {images} images", "too few to tell", f"Take at least {LEAST_IMAGES}")
    if target.suffix != portable.SUFFIXES[format]:
        raise StageError(
            f"Cannot write {target}", f"a file of {format} ends in {portable.SUFFIXES[format]}", "Give it that ending"
        )
    found: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        portable.write(predictor.net, format, temporary)
        found.update(_compare(run, predictor, temporary, images, reporter))
        if found["label_agreement"] < AGREEMENT:
            raise StageError(
                f"The {format} file disagrees with the network",
                f"{found['label_agreement']:.2%} of the pixels get the same class on {images} photographs",
                "Nothing was written; try another --format",
            )

    write_atomic(target, write)
    return {"file": str(target), "format": format, "bytes": target.stat().st_size, **found}


def _compare(run: Run, predictor: Predictor, path: Path, images: int, reporter: contract.Reporter) -> dict[str, Any]:
    """Logits and labels of the network and of the file at PATH, on photographs of the run."""
    import torch

    from stages.nets.mmseg import portable

    look, _ = portable.read(path)
    reference = portable.Portable(predictor.net).eval()
    largest, equal, pixels, sizes = 0.0, 0, 0, set()
    with torch.no_grad(), reporter.track("comparing", images) as meter:
        for image in _photographs(run, images):
            batch = torch.tensor(image).permute(2, 0, 1)[None].float()
            ours, theirs = reference(batch), look(batch)
            largest = max(largest, float((ours - theirs).abs().max()))
            equal += int((ours.argmax(1) == theirs.argmax(1)).sum())
            pixels += image.shape[0] * image.shape[1]
            sizes.add(image.shape[:2])
            meter.advance()
    photographs = min(images, len(run.dataset.split("val")))
    return {
        "largest_difference": largest,
        "label_agreement": equal / pixels,
        "images": images,
        "photographs": photographs,
        "sizes": len(sizes),
    }


def _photographs(run: Run, images: int) -> Iterator[Array]:
    """IMAGES photographs of the validation list, from its start again where it is shorter, in sizes that change."""
    from stages.data.images import read_image, resize
    from stages.nets.mmseg.portable import LEAST

    samples = run.dataset.split("val")
    for index, scale in zip(range(images), cycle(SIZES), strict=False):
        image = read_image(samples[(index * max(len(samples) // images, 1)) % len(samples)].image)
        height, width = (max(round(side * scale), LEAST) for side in image.shape[:2])
        yield resize(image, height, width)
