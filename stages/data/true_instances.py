"""True instances, for evaluation alone: a COCO document in the data folder, or the devkit's SegmentationObject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.core.errors import StageError
from stages.data import detections
from stages.data.dataset import Dataset, Sample
from stages.data.detections import Record
from stages.data.images import VOID, read_mask

if TYPE_CHECKING:
    import logging


@dataclass(frozen=True)
class Truth:
    """Samples whose true instances are known; their records are made one by one while they are walked through."""

    samples: tuple[Sample, ...]
    record: Callable[[Sample], Record]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Record]:
        return (self.record(sample) for sample in self.samples)


def find(dataset: Dataset, role: str, log: logging.Logger) -> Truth | None:
    """The true instances of a split, or None when any image has none on disk: then nothing is scored, and LOG says why."""
    samples = dataset.split(role)
    listed = dataset.reader.instances()
    if listed is not None:
        return Truth(samples, _listed(listed, dataset.classes))
    absent = [s.id for s in samples if dataset.reader.objects(s.id) is None or dataset.mask(s) is None]
    if absent:
        count = f"{len(absent)} of {len(samples)} images have no true instances"
        log.info("nothing is scored: %s, first '%s'", count, absent[0])
        return None
    return Truth(samples, lambda sample: _drawn(dataset, sample))


def _drawn(dataset: Dataset, sample: Sample) -> Record:
    """The record of an image from its mask of instance numbers; an instance is of the class that most of its pixels have."""
    paths = dataset.reader.objects(sample.id), dataset.mask(sample)
    numbers, classes = (read_mask(path) for path in paths if path is not None)
    if numbers.shape != classes.shape:
        why = f"{numbers.shape[1]}x{numbers.shape[0]} beside {classes.shape[1]}x{classes.shape[0]}"
        raise StageError(f"The masks of instances and classes of '{sample.id}' differ in size", why, "Replace one of them")
    found = []
    for number in np.unique(numbers[(numbers > 0) & (numbers != VOID)]):
        mask = numbers == number
        counts = np.bincount(classes[mask], minlength=VOID + 1)[1:VOID]
        if counts.any():
            found.append(detections.annotation(mask, int(counts.argmax()) + 1))
    height, width = numbers.shape
    return {"file_name": sample.image.name, "width": width, "height": height, "annotations": found}


def _listed(path: Path, classes: Sequence[str]) -> Callable[[Sample], Record]:
    """Records from COCO's document; of its categories those that have the name of a class. Raises StageError."""
    try:
        document = detections.opened(path)
        images = {Path(image["file_name"]).stem: image for image in document.dataset["images"]}
        ids = {one["id"]: classes.index(one["name"]) + 1 for one in document.dataset["categories"] if one["name"] in classes}
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise StageError(f"Cannot read true instances {path}", reason, "Give a COCO document, or remove it") from error

    def record(sample: Sample) -> Record:
        if sample.id not in images:
            raise StageError(f"No image '{sample.id}' in {path}", f"it names {len(images)} others", "Add it, or remove the file")
        image = images[sample.id]
        found = []
        for one in document.imgToAnns[image["id"]]:
            if one["category_id"] in ids:
                crowd = {"iscrowd": int(one.get("iscrowd", 0))}
                found.append(detections.annotation(document.annToMask(one).astype(bool), ids[one["category_id"]], **crowd))
        return {"file_name": sample.image.name, "width": image["width"], "height": image["height"], "annotations": found}

    return record
